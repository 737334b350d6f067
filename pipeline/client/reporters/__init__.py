"""Reporters for test runners of other languages, written out by ``pipeline reporter``.

Each is one file without dependencies. What Python knows already is filled in when it is written: the CI systems of
``run_context`` and the placeholders of ``failures``, so that both sides name a run and a failure alike.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import resources

from pipeline import __version__
from pipeline.client.failures import SCRUBBED
from pipeline.client.run_context import SYSTEMS

RUNNERS = {"playwright": "pipeline-playwright-reporter.mjs"}
"""Runner to the name of its reporter's file."""


def script(runner: str) -> str:
    """The text of the reporter for ``runner``."""
    text = resources.files(__package__).joinpath(RUNNERS[runner]).read_text(encoding="utf-8")
    scrubbed = [[pattern.pattern, placeholder] for pattern, placeholder in SCRUBBED]
    filled = {"VERSION": __version__, "SYSTEMS": [asdict(system) for system in SYSTEMS], "SCRUBBED": scrubbed}
    for name, value in filled.items():
        text = text.replace(f"/*{name}*/ null", json.dumps(value))
    return text
