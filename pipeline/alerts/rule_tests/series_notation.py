"""promtool's notation for series: ``1+2x5``, ``7x3``, ``_``, ``_x3``, ``stale``."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

_NUMBER = r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
_EXPANDING = re.compile(rf"({_NUMBER})(?:([+-])({_NUMBER}))?x(\d+)")
_REPEATED_GAP = re.compile(r"_x(\d+)")
_SERIES = re.compile(r"\s*([A-Za-z_:][\w:.-]*)?\s*(?:\{(.*)\})?\s*", re.DOTALL)
_LABEL = re.compile(r'\s*([A-Za-z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')


class Mark(Enum):
    """What is no number: ``_``, a missing sample, and ``stale``, the end of the series."""

    MISSING = "_"
    STALE = "stale"


MISSING: Final = Mark.MISSING
STALE: Final = Mark.STALE


def values(text: str) -> list[float | Mark]:
    """Expand a row of values: ``a+bxn`` is a and n further ones, ``axn`` a and n more of it, ``_xn`` n missing ones.

    Raises ``ValueError`` naming the part that cannot be read.
    """
    expanded: list[float | Mark] = []
    for part in str(text).split():
        if part in ("_", "stale"):
            expanded.append(Mark(part))
        elif gap := _REPEATED_GAP.fullmatch(part):
            expanded += [MISSING] * int(gap[1])
        elif found := _EXPANDING.fullmatch(part):
            start, step = float(found[1]), float(found[3] or 0)
            sign = -1.0 if found[2] == "-" else 1.0
            expanded += [start + sign * step * i for i in range(int(found[4]) + 1)]
        elif re.fullmatch(_NUMBER, part):
            expanded.append(float(part))
        else:
            raise ValueError(f"{part!r} is no value; write 1, 1+2x5, 1-2x5, 7x3, _ or stale")
    return expanded


def series(text: str) -> tuple[str, dict[str, str]]:
    """Read ``name{label="value", …}``; the name may be left out. Raises ``ValueError``."""
    found = _SERIES.fullmatch(str(text))
    if not found or not (found[1] or found[2] is not None):
        raise ValueError(f'{text!r} is no series; write duration{{test_suite="checkout"}}')
    labels: dict[str, str] = {}
    rest = found[2] or ""
    while rest.strip():
        label = _LABEL.match(rest)
        if not label:
            raise ValueError(f'labels {rest.strip()!r} cannot be read; write name="value" with commas between')
        labels[label[1]] = re.sub(r"\\(.)", r"\1", label[2])
        rest = rest[label.end() :]
    return found[1] or "", labels
