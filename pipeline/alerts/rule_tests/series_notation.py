"""promtool's notation for series: ``1+2x5``, ``7x3``, ``NaN``, ``-Inf``, ``_``, ``_x3``, ``stale``."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from pipeline.alerts.rules.lined_yaml import shown

_MAGNITUDE = r"(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf|nan))"
_NUMBER = rf"[+-]?{_MAGNITUDE}"
_EXPANDING = re.compile(rf"({_NUMBER})(?:([+-])({_MAGNITUDE}))?x([0-9]{{1,9}})")
_REPEATED_GAP = re.compile(r"_x([0-9]{1,9})")

_COUNTED = re.compile(r".*x[0-9]{1,9}")

MOST_VALUES = 100_000
"""Values of one series; a week of minutes is a tenth of that."""
_SERIES = re.compile(r"\s*([A-Za-z_:][\w:.-]*)?\s*(?:\{(.*)\})?\s*", re.DOTALL)
_LABEL = re.compile(r'\s*([A-Za-z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')


class Gap(Enum):
    """What is not a number: ``_``, a missing sample, and ``stale``, the end of the series."""

    MISSING = "_"
    STALE = "stale"


MISSING: Final = Gap.MISSING
STALE: Final = Gap.STALE


def values(text: str) -> list[float | Gap]:
    """Expand a row of values: ``a+bxn`` is a and n further ones, ``axn`` a and n more of it, ``_xn`` n missing ones.

    Raises ``ValueError`` naming the part that cannot be read.
    """
    expanded: list[float | Gap] = []
    for part in str(text).split():
        count = 1 + int(part.rpartition("x")[2]) if _COUNTED.fullmatch(part) else 1
        if len(expanded) + count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
        if part in ("_", "stale"):
            expanded.append(Gap(part))
        elif gap := _REPEATED_GAP.fullmatch(part):
            expanded += [MISSING] * int(gap[1])
        elif found := _EXPANDING.fullmatch(part):
            start, step = float(found[1]), float(found[3] or 0)
            sign = -1.0 if found[2] == "-" else 1.0
            expanded += [start + sign * step * i for i in range(int(found[4]) + 1)]
        elif re.fullmatch(_NUMBER, part):
            expanded.append(float(part))
        else:
            raise ValueError(f"{shown(part)} is not a value; write 1, 1+2x5, 1-2x5, 7x3, NaN, Inf, _ or stale")
    return expanded


def series(text: str) -> tuple[str, dict[str, str]]:
    """Read ``name{label="value", …}``; the name may be left out. Raises ``ValueError``."""
    found = _SERIES.fullmatch(str(text))
    if not found or not (found[1] or found[2] is not None):
        raise ValueError(f'{shown(text)} is not a series; write duration{{test_suite="checkout"}}')
    labels: dict[str, str] = {}
    rest = found[2] or ""
    while rest.strip():
        label = _LABEL.match(rest)
        if not label:
            raise ValueError(f'labels {shown(rest.strip())} cannot be read; write name="value" with commas between')
        labels[label[1]] = re.sub(r"\\(.)", r"\1", label[2])
        rest = rest[label.end() :]
    return found[1] or "", labels
