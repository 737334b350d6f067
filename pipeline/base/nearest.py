"""The nearest valid name, for every sentence that refuses an unknown one."""

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str:
    """The closest valid name; empty when none is close."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the closest valid name, or at all of them when none is close."""
    names = list(known)
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if found:
        return f"did you mean {found[0]!r}?"
    return f"it is one of {', '.join(names)}"
