"""Durations as people write them: ``30s``, ``5m``, ``1h30m``, ``7d``."""

import re

_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_PART = re.compile(r"(\d{1,15})(ms|d|h|m|s)")


def parse_ms(text: str) -> int:
    """Milliseconds of a duration; units from large to small, each at most once. Raises ``ValueError``."""
    text = text.strip()
    parts = _PART.findall(text)
    units = [unit for _, unit in parts]
    whole = "".join(number + unit for number, unit in parts) == text
    if not parts or not whole or units != sorted(set(units), key=_order):
        raise ValueError(f"{text!r:.60} is not a duration; write 30s, 5m, 1h30m or 7d")
    return sum(int(number) * _UNITS_MS[unit] for number, unit in parts)


def read_ms(raw: object) -> int:
    """A duration out of a file: 0, or text with units. Raises ``ValueError``."""
    if isinstance(raw, str):
        return parse_ms(raw)
    if raw == 0 and not isinstance(raw, bool):
        return 0
    raise ValueError(f"{raw!r:.60} has no unit; write 30s, 5m, 1h30m or 7d")


def _order(unit: str) -> int:
    return -_UNITS_MS[unit]


def show(milliseconds: int) -> str:
    """The shortest way to write a duration: 90,000 is ``1m30s``."""
    shown = ""
    for unit, size in _UNITS_MS.items():
        count, milliseconds = divmod(milliseconds, size)
        if count:
            shown += f"{count}{unit}"
    return shown or "0s"
