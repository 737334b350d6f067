"""A metric on its way to becoming an item of the buffer: checked where it is offered, encoded where it is sent.

What ``is_plain`` lets pass cannot change afterwards (texts and numbers) and cannot fail to be encoded, so the sender's
thread may do that later, a thousand at a time. Everything else is encoded, or refused with ``ValueError``, at once.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec

from pipeline.metric import parse_time_ms

EXACT_INTEGER = 2**53
"""Integers below this are the same as a float."""

_TRUTHS = ("bool", "bool_")
"""Types that float() takes for 0 and 1; numpy's has one name or the other."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Absent(str):
    """Stands for a field that was not given: a text, so that one call tells whether all fields are texts."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


class Known(msgspec.Struct, omit_defaults=True, gc=False):
    """What most metrics are, in the order that ``push`` fills in. A default is left out by identity."""

    metric_type: str
    value: float
    timestamp: float
    test_id: str = ABSENT
    test_name: str = ABSENT
    test_suite: str = ABSENT
    environment: str = ABSENT
    browser: str = ABSENT
    page: str = ABSENT
    endpoint: str = ABSENT
    node: str = ABSENT
    status: str = ABSENT
    run_id: str = ABSENT
    job: str = ABSENT
    commit: str = ABSENT
    branch: str = ABSENT
    error_type: str = ABSENT
    attempt: int | None = None
    tags: msgspec.Raw | None = None


_Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
_Tags = Annotated[dict[str, str | int | _Finite | bool], msgspec.Meta(min_length=1)]


class _Plain(Known, kw_only=True, forbid_unknown_fields=True):
    """A metric given as a mapping that need not be looked at any more once it has these types."""

    metric_type: Annotated[str, msgspec.Meta(min_length=1)]
    value: Annotated[int, msgspec.Meta(gt=-EXACT_INTEGER, lt=EXACT_INTEGER)] | _Finite
    timestamp: (
        Annotated[int, msgspec.Meta(ge=0, lt=EXACT_INTEGER)]
        | Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
        | None
    ) = None  # type: ignore[assignment]
    attempt: int | None = None
    tags: _Tags | None = None  # type: ignore[assignment]


Item = bytes | Known
"""In a queue: encoded already, or not yet."""


def is_plain(text: str) -> bool:
    """Whether a text can be encoded: a lone surrogate cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encoded(given: Any) -> bytes:
    """As JSON; what JSON does not have as its text, half a surrogate pair as U+FFFD."""
    try:
        return _ENCODER.encode(given)
    except UnicodeEncodeError:
        return _ENCODER.encode(_without_half_characters(given))


def encoded_items(items: Sequence[Item], head: bytes) -> list[bytes]:
    """The items of a batch as they go into the list; ``head`` opens each that is not encoded yet, in place of ``{``."""
    kinds = set(map(type, items))
    if kinds == {Known}:
        return _parted(_ENCODER.encode_lines(items), head)
    if kinds == {bytes}:
        return list(items)  # type: ignore[arg-type]
    return [head + _ENCODER.encode(item)[1:] if isinstance(item, Known) else item for item in items]


def encoded_mappings(metrics: Sequence[Mapping[str, Any]], head: bytes, *, merges_tags: bool) -> list[bytes] | None:
    """The items of metrics given as mappings; None unless each is plain: then they are to be looked at one by one."""
    try:
        plain = msgspec.convert(metrics, list[_Plain])
        now_ms = time.time_ns() // 1_000_000
        for metric in plain:
            if metric.timestamp is None:
                metric.timestamp = now_ms
        text = _ENCODER.encode_lines(plain)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None
    if merges_tags and b'"tags":' in text:
        return None
    return _parted(text, head)


def _parted(lines: bytes, head: bytes) -> list[bytes]:
    """The items of lines: JSON has no raw newline, so that one stands between two items and nowhere else."""
    if head == b"{":
        return lines[:-1].split(b"\n")
    return [head + line for line in lines[1:-1].split(b"\n{")]


def finite(value: Any) -> float:
    """The number as JSON may carry it. Raises ``ValueError``."""
    if type(value) is int and abs(value) < EXACT_INTEGER:
        return value
    if not isinstance(value, str | bytes) and type(value).__name__ not in _TRUTHS:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise ValueError(f"the value of a metric must be a finite number, not {value!r}")


def name_of_type(metric_type: Any) -> str:
    """The type of a metric as it is. Raises ``ValueError``."""
    if not isinstance(metric_type, str) or not metric_type:
        raise ValueError(f"the type of a metric must be a text that is not empty, not {metric_type!r}")
    return metric_type


def timestamp_ms(timestamp: Any) -> float:
    """When a metric was taken, as its item says it: epoch milliseconds, or the number that was given.

    None is now. Raises ``ValueError`` for what is no time, for one before 1970 and for one without its zone.
    """
    if timestamp is None:
        return time.time_ns() // 1_000_000
    found_ms = _given_ms(timestamp)
    if found_ms < 0:
        raise ValueError(f"the timestamp of a metric must not be before 1970: {timestamp!r}")
    return found_ms


def _given_ms(timestamp: Any) -> float:
    if isinstance(timestamp, datetime):
        if timestamp.tzinfo is None:
            raise ValueError(f"the timestamp of a metric needs its zone: {timestamp!r}")
        # Not by timestamp(): its float lands below the millisecond it means.
        return (timestamp - _EPOCH) // timedelta(milliseconds=1)
    if isinstance(timestamp, str):
        parsed_ms = parse_time_ms(timestamp)
        if parsed_ms is None:
            raise ValueError(f"the timestamp of a metric must be ISO-8601 with its zone, not {timestamp!r}")
        return parsed_ms
    try:
        return finite(timestamp)
    except ValueError:
        raise ValueError(f"the timestamp of a metric must be a time or a number, not {timestamp!r}") from None


def _without_half_characters(given: Any) -> Any:
    if isinstance(given, str):
        return given.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(given, dict):
        return {_without_half_characters(name): _without_half_characters(one) for name, one in given.items()}
    if isinstance(given, list | tuple | set | frozenset):
        return [_without_half_characters(one) for one in given]
    return given


_ENCODER = msgspec.json.Encoder(enc_hook=str)
