"""Reporters for test runners of other languages, written out by ``pipeline reporter``.

Each is one file without dependencies. What Python knows already is filled in when it is written: the CI systems of
``run_context`` and the placeholders of ``failures``, so that both sides name a run and a failure alike.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from importlib import resources

from pipeline import __version__
from pipeline.client.failures import NAMES_AN_ERROR, SCRUBBED, TYPE
from pipeline.client.run_context import SYSTEMS

RUNNERS = {"playwright": "pipeline-playwright-reporter.mjs"}
"""Runner to the name of its reporter's file."""


def script(runner: str) -> str:
    """The text of the reporter for ``runner``."""
    text = resources.files(__package__).joinpath(RUNNERS[runner]).read_text(encoding="utf-8")
    scrubbed = [
        [pattern.pattern, "gi" if pattern.flags & re.IGNORECASE else "g", placeholder.replace("\\1", "$1")]
        for pattern, placeholder in SCRUBBED
    ]
    filled = {
        "VERSION": __version__,
        "SYSTEMS": [asdict(system) for system in SYSTEMS],
        "SCRUBBED": scrubbed,
        "TYPE": f"^(?:{TYPE.pattern.replace('(?P<', '(?<')})$",
        "NAMES_AN_ERROR": NAMES_AN_ERROR.pattern,
    }
    for name, value in filled.items():
        text = text.replace(f"/*{name}*/ null", json.dumps(value))
    return text
