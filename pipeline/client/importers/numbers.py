"""Numbers of seconds as the tools of all countries write them."""

from __future__ import annotations

import math
import re

_GROUPING = str.maketrans("", "", " \u00a0\u202f'_")
_CLOCK = re.compile(r"(?:(\d+)\.)?(\d+):(\d{2}):(\d{2}(?:\.\d+)?)")
_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "ms": 1e-3, "m": 60.0, "min": 60.0}
_NUMBER = re.compile(r"([-+]?[\d.,]+(?:[eE][-+]?\d+)?)(s|sec|ms|m|min)?")


def seconds(text: str) -> float | None:
    """The number, or None where it is none. May be negative.

    A lone comma or point is the decimal one, of both the last one is, a separator that repeats groups: ``0,160`` is
    0.16, ``1,234.56`` and ``1.234,56`` are 1234.56, ``1,234,567`` is 1234567. ``00:01:02.5`` is 62.5.
    """
    text = text.strip().translate(_GROUPING)
    clock = _CLOCK.fullmatch(text)
    if clock:
        days, hours, minutes, rest = clock.groups()
        return ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 + float(rest)
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    try:
        value = float(_with_point(found[1])) * _UNITS[found[2] or ""]
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _with_point(number: str) -> str:
    decimal = max(number.rfind(","), number.rfind("."))
    if decimal < 0:
        return number
    separator = number[decimal]
    if number.count(separator) > 1:  # it repeats, so it groups
        return number.replace(",", "").replace(".", "")
    whole = number[:decimal].replace(",", "").replace(".", "")
    return f"{whole}.{number[decimal + 1 :]}"
