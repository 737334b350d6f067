"""The Lua scripts that change the buffer's keys: where they lie and how they are put together.

Each stands in a file of its own in ``lua/`` and begins with a sentence that says what it does. A line
``-- needs: stamp, finish`` puts those files in front of it; they hold functions that several scripts share.

Every script that writes begins by deleting a key that never exists: a write that Redis allows when memory
is full, after which it lets the rest of the script write too. Without it a full Redis could not be drained,
and so would stay full.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_NEEDS = re.compile(r"^-- needs: (.+)$", re.MULTILINE)


@cache
def load(name: str) -> str:
    """The text of one script, with the files that it needs in front of it."""
    text = (resources.files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    needed = _NEEDS.search(text)
    parts = [load(part.strip()) for part in needed[1].split(",")] if needed else []
    return "\n".join([*parts, text])
