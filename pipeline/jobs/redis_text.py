"""How figures look as text in Redis hashes: all digits, times as redis-schema.md writes them."""

from datetime import UTC, datetime


def number(value: float) -> str:
    """Every digit of a float (it reads back to the same bits), and no ``.0`` behind a whole number."""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def instant(time_ms: int) -> str:
    """Epoch milliseconds as "2025-01-11T12:00:00Z"; a fraction of a second is left off."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
