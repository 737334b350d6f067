"""What the checkout says of a dotted name in a report of pytest: which part is the file, and which are classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

Place = tuple[str, ...]
"""The path of a file from the root of the checkout on, and the classes in it."""

_KEPT_NAMES = 100_000
_MOST_PARTS = 64


def places_in(root: Path) -> Callable[[str], Place | None]:
    """What finds the file under ``root`` whose path has the dotted parts of a name; None where there is none.

    JUnit's class name has a dot for each slash, and classes behind the module; directories and files may have dots of
    their own. Each name is looked for once. Nothing outside of ``root`` is looked at.
    """

    @lru_cache(maxsize=_KEPT_NAMES)
    def place_of(name: str) -> Place | None:
        parts = name.split(".")
        if len(parts) > _MOST_PARTS or not all(parts) or any(sign in name for sign in "/\\\0"):
            return None
        try:
            return _under(root, "", parts)
        except OSError:  # a name that is too long
            return None

    return place_of


def _under(root: Path, directory: str, rest: list[str]) -> Place | None:
    for count in range(1, len(rest) + 1):
        path = directory + ".".join(rest[:count])
        for file in (f"{path}.py", path):
            if (root / file).is_file():
                return (file, *rest[count:])
        if count < len(rest) and (root / path).is_dir() and (found := _under(root, f"{path}/", rest[count:])):
            return found
    return None
