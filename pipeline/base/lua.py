"""Lua scripts: where they lie and how they are put together.

Each stands in a file of its own, in the folder ``lua`` beside the code that runs it, and begins with a sentence that
says what it does. A line ``-- needs: stamp, finish`` puts those files of the same folder in front of it; they hold
functions that several scripts share.

Every script that writes begins by deleting a key that never exists: a write that Redis allows when memory
is full, after which it lets the rest of the script write too. Without it a full Redis could not be drained,
and so would stay full.
"""

from __future__ import annotations

import re
from functools import cache

from pipeline.base.resources import package_text

_NEEDS = re.compile(r"^-- needs: (.+)$", re.MULTILINE)


@cache
def load(folder: str, name: str) -> str:
    """The text of ``pipeline/<folder>/lua/<name>.lua``, with the files that it needs in front of it."""
    text = package_text(f"{folder}/lua/{name}.lua")
    needed = _NEEDS.search(text)
    parts = [load(folder, part.strip()) for part in needed[1].split(",")] if needed else []
    return "\n".join([*parts, text])
