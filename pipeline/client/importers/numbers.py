"""Numbers of seconds as the tools of all countries write them."""

from __future__ import annotations

import re

LONGEST_S = 10 * 366 * 86_400.0
"""A longer time is a mistake, perhaps a point in time. The tests after it would seem to start years later."""

_GROUPING = str.maketrans("", "", " \u00a0\u202f'_")
_CLOCK = re.compile(r"(?:(\d+)\.)?(\d+):(\d{2}):(\d{2}(?:\.\d+)?)")
_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "ms": 1e-3, "m": 60.0, "min": 60.0}
_NUMBER = re.compile(r"([-+]?[\d.,]+(?:[eE][-+]?\d+)?)(s|sec|ms|m|min)?")


def seconds(text: str) -> float | None:
    """The number, or None where it is none or longer than ten years. May be negative.

    A lone comma or point is the decimal one, of both the last one is, a separator that repeats groups: ``0,160`` is
    0.16, ``1,234.56`` and ``1.234,56`` are 1234.56, ``1,234,567`` is 1234567. ``00:01:02.5`` is 62.5.
    """
    text = text.strip().translate(_GROUPING)
    try:
        if clock := _CLOCK.fullmatch(text):
            days, hours, minutes, rest = (float(part or 0) for part in clock.groups())
            value = ((days * 24 + hours) * 60 + minutes) * 60 + rest
        elif found := _NUMBER.fullmatch(text):
            value = float(_with_point(found[1])) * _UNITS[found[2] or ""]
        else:
            return None
    except ValueError:
        return None
    return value if abs(value) <= LONGEST_S else None


def _with_point(number: str) -> str:
    decimal = max(number.rfind(","), number.rfind("."))
    if decimal < 0:
        return number
    separator = number[decimal]
    if number.count(separator) > 1:  # it repeats, so it groups
        return number.replace(",", "").replace(".", "")
    whole = number[:decimal].replace(",", "").replace(".", "")
    return f"{whole}.{number[decimal + 1 :]}"
