"""The lag of a buffer: for how long the oldest item that is not stored yet has waited. One definition for all.

It counts from sealing for what is sealed or spilled. What is not sealed yet is younger, as long as some
process seals; where none does, only the item's own timestamp can tell. What was set aside waits for a person
and is no lag.
"""

from __future__ import annotations

import math

from pipeline.buffer.books import Books
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.high_water import sealed_age_s, spilled_age_s
from pipeline.metric import Limits, Metric, decode


def lag_s(buffer: Buffer, books: Books, now_ms: int, *, is_being_sealed: bool = True) -> float:
    """Seconds; ``now_ms`` is by Redis's clock. Raises ``RedisOutage``."""
    ages = [sealed_age_s(books, now_ms)]
    if books.spilled:
        ages.append(spilled_age_s(buffer, now_ms))
    if books.waiting and not is_being_sealed:
        ages.append(oldest_waiting_s(buffer, now_ms))
    return max(ages)


def complete_until_ms(buffer: Buffer, books: Books, now_ms: int) -> int:
    """No item of the buffer that is not stored yet was pushed before this moment, as far as can be known."""
    waits_s = lag_s(buffer, books, now_ms)
    if books.waiting:
        waits_s = max(waits_s, oldest_waiting_s(buffer, now_ms))
    return now_ms - math.ceil(waits_s * 1000)


def oldest_waiting_s(buffer: Buffer, now_ms: int) -> float:
    """Age of the oldest item that waits, by its own timestamp; 0 when nothing waits or it cannot be read."""
    item = buffer.oldest_waiting()
    if item is None:
        return 0.0
    metric = decode(item, now_ms, Limits(retention_ms=1 << 53))
    return max(0.0, (now_ms - metric.timestamp_ms) / 1000) if isinstance(metric, Metric) else 0.0
