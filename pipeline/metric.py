"""What a metric is: the one careful definition of how an item is read.

``decode`` is a pure function of the item and the sealing time of its segment, so
that reading an item again, after any crash and by any drainer, gives the same row
or the same refusal. It costs some microseconds an item; ``columns`` reads regular
items many times faster and hands everything it is not certain of to this module,
so both agree by construction.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import MAX_EMAX, MIN_EMIN, ROUND_FLOOR, Context
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pipeline.base.clock import from_iso, iso

if TYPE_CHECKING:
    from pipeline.base.config import Settings

DIMENSIONS = (
    "metric_type",
    "environment",
    "browser",
    "test_suite",
    "test_id",
    "test_name",
    "page",
    "endpoint",
    "node",
    "status",
)
"""The text columns of a metric, in the order of the ``metrics`` table."""

RUN_FIELDS = ("run_id", "job", "commit", "branch", "error_type", "attempt")
"""Fields of runs and attempts, in the order of the ``metrics`` table: text, but ``attempt``, which is a number."""

FIELDS = (*DIMENSIONS, *RUN_FIELDS)
"""The known fields of a metric beside ``timestamp``, ``value`` and ``tags``."""

OPTIONAL = frozenset(FIELDS) - {"metric_type"}

DECODER_VERSION = 2
"""Grows when an item may decode to another row than before; a segment notes the version that sealed it."""

SECONDS_BELOW = 100_000_000_000
"""A number below this is epoch seconds (until the year 5138), else milliseconds."""

Reason = Literal[
    "item too large",
    "invalid UTF-8",
    "too deep",
    "not JSON",
    "not an object",
    "missing field",
    "wrong type",
    "not finite",
    "bad timestamp",
    "timestamp too old",
    "timestamp too far ahead",
    "refused by ClickHouse",
]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted; the same for every item of a deployment."""

    max_item_bytes: int = 65_536
    max_depth: int = 32
    retention_ms: int = 720 * 3_600_000
    future_ms: int = 300_000

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits that the settings ask for."""
        return cls(
            max_item_bytes=settings.buffer.max_item_bytes,
            max_depth=settings.buffer.max_depth,
            retention_ms=settings.retention.raw_hours * 3_600_000,
            future_ms=int(settings.retention.future_s * 1000),
        )


@dataclass(frozen=True, slots=True)
class Metric:
    """One accepted item. An absent text field is the empty string."""

    timestamp_ms: int
    metric_type: str
    value: float
    environment: str = ""
    browser: str = ""
    test_suite: str = ""
    test_id: str = ""
    test_name: str = ""
    page: str = ""
    endpoint: str = ""
    node: str = ""
    status: str = ""
    run_id: str = ""
    job: str = ""
    commit: str = ""
    branch: str = ""
    error_type: str = ""
    attempt: int = 0
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an item is not a metric: a reason from a short list, and the particulars in words."""

    reason: Reason
    detail: str


class _RefusedError(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        self.refusal = Refusal(reason, detail)


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_ANY = msgspec.json.Decoder()
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
# It always matches, an unterminated string to the end: a pattern that could fail would be tried again
# at every further quote, which took 20 s for one item of 64 KiB.
_STRING = re.compile(rb'"(?:[^"\\]|\\.?)*"?', re.DOTALL)
_ATTEMPT = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)
# Extended or basic form; seconds, decimals and the zone's minutes may be left away, as Java, PostgreSQL and Ruby do.
# Java's ZonedDateTime names its zone again in brackets.
_ISO = re.compile(
    r"(\d{4})(-?)(\d{2})\2(\d{2})[Tt ](\d{2})(:?)(\d{2})(?:\6(\d{2})(?:[.,](\d+))?)?"
    r" ?(?:[Zz]|UTC|GMT|([+-])(\d{2}):?(\d{2})?)(?:\[[\w/+-]+\])?",
    re.ASCII,
)
# Every escape, so that the backslash of one is never taken for the beginning of the next; a proper pair is one match.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)", re.DOTALL
)
_LONE_SURROGATE_BYTES = 6
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Rounds down, so that flooring afterwards is exact however many digits were sent; never raises, whatever
# the exponent. 40 digits are twice those of the largest number accepted.
_DOWN = Context(prec=40, rounding=ROUND_FLOOR, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])


def decode(item: bytes, sealed_at_ms: int, limits: Limits) -> Metric | Refusal:
    """Read one item: a metric, or why it is refused.

    ``sealed_at_ms`` is when the item's segment was sealed, in epoch milliseconds; the
    timestamp must lie in [sealed_at - retention, sealed_at + future]. Never raises for
    any bytes. Of duplicate keys the last wins.
    """
    try:
        return _metric(_fields(item, limits), sealed_at_ms, limits)
    except _RefusedError as refused:
        return refused.refusal
    except RecursionError:
        # ``max_depth`` may be set beyond what the parser can do.
        return Refusal("too deep", "nested deeper than the parser can follow")


def _fields(item: bytes, limits: Limits) -> dict[str, bytes]:
    """The item's fields, each as the JSON text that was sent."""
    if len(item) > limits.max_item_bytes:
        raise _RefusedError("item too large", f"{len(item)} bytes, at most {limits.max_item_bytes} are accepted")
    try:
        item.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _RefusedError("invalid UTF-8", f"byte {error.start} is not UTF-8") from None
    item = _without_half_characters(item.removeprefix(_BYTE_ORDER_MARK))
    _check_depth(item, limits.max_depth)
    try:
        return {name: bytes(raw).strip() for name, raw in _FIELDS.decode(item).items()}
    except msgspec.ValidationError:
        raise _RefusedError("not an object", "a metric is one JSON object") from None
    except msgspec.DecodeError as error:
        raise _RefusedError("not JSON", str(error)) from None


def _without_half_characters(item: bytes) -> bytes:
    """The item with U+FFFD for each escaped half of a surrogate pair: a text cut inside an emoji is still a text."""
    if b"\\ud" not in item and b"\\uD" not in item:
        return item
    return _ESCAPE.sub(lambda escape: _mended(escape[0]), item)


def _mended(escape: bytes) -> bytes:
    is_half = len(escape) == _LONE_SURROGATE_BYTES and escape[2] in b"dD" and escape[3] in b"89abcdefABCDEF"
    return b"\\ufffd" if is_half else escape


def _check_depth(item: bytes, max_depth: int) -> None:
    if item.count(b"{") + item.count(b"[") <= max_depth:
        return
    depth = 0
    for byte in _STRING.sub(b"", item):
        if byte in b"{[":
            depth += 1
            if depth > max_depth:
                raise _RefusedError("too deep", f"nested deeper than {max_depth} levels")
        elif byte in b"}]":
            depth -= 1


def _metric(fields: dict[str, bytes], sealed_at_ms: int, limits: Limits) -> Metric:
    for name in ("timestamp", "metric_type", "value"):
        if fields.get(name, b"null") == b"null":
            raise _RefusedError("missing field", f"{name!r} is required")
    timestamp_ms = _timestamp_ms(fields.pop("timestamp"))
    metric_type = _metric_type(fields.pop("metric_type"))
    value = _value(fields.pop("value"))
    tags = _tags(fields.pop("tags", b"null"))
    known: dict[str, Any] = {}
    attempt = 0
    for name, raw in fields.items():
        if name in OPTIONAL:
            if raw == b"null":
                continue
            if raw[:1] not in b"{[":
                text = _as_text(name, raw)
                if name != "attempt":
                    known[name] = text
                    continue
                if is_attempt(text):
                    attempt = int(text or 0)
                    continue
        # What is not a column lands in the tags; a tag of the same name keeps its place.
        tag = name
        while tag in tags:
            tag = f"field.{tag}"
        tags[tag] = _as_text(name, raw)
    if timestamp_ms < sealed_at_ms - limits.retention_ms:
        raise _RefusedError("timestamp too old", f"{iso(timestamp_ms)} is before the retention")
    if timestamp_ms > sealed_at_ms + limits.future_ms:
        raise _RefusedError(
            "timestamp too far ahead", f"{iso(timestamp_ms)} was in the future when {iso(sealed_at_ms)} was now"
        )
    return Metric(timestamp_ms=timestamp_ms, metric_type=metric_type, value=value, tags=tags, attempt=attempt, **known)


def is_attempt(text: str) -> bool:
    """Whether ``text`` is the number of an attempt (0 to 65535) or empty; anything else under that name is a tag."""
    return not text or (_ATTEMPT.fullmatch(text) is not None and int(text) <= 65_535)


def _metric_type(raw: bytes) -> str:
    if raw[:1] != b'"':
        raise _RefusedError("wrong type", f"'metric_type' must be a string, not {_kind(raw)}")
    text = _string("metric_type", raw)
    if not text:
        raise _RefusedError("missing field", "'metric_type' is empty")
    return text


def _value(raw: bytes) -> float:
    if not _NUMBER.fullmatch(raw):
        raise _RefusedError("wrong type", f"'value' must be a number, not {_kind(raw)}")
    value = float(raw)
    if not math.isfinite(value):
        raise _RefusedError("not finite", f"'value' {_clip(raw)} does not fit a 64-bit float")
    return value


def _tags(raw: bytes) -> dict[str, str]:
    if raw == b"null":
        return {}
    if raw[:1] != b"{":
        raise _RefusedError("wrong type", f"'tags' must be an object, not {_kind(raw)}")
    try:
        return {name: _as_text(name, bytes(inner).strip()) for name, inner in _FIELDS.decode(raw).items()}
    except msgspec.DecodeError as error:
        raise _RefusedError("not JSON", f"in 'tags': {error}") from None


def _as_text(name: str, raw: bytes) -> str:
    """A scalar as text, a nested value as the JSON text that was sent."""
    if raw[:1] == b'"':
        return _string(name, raw)
    if raw[:1] in b"{[":
        try:
            _ANY.decode(raw)
        except msgspec.ValidationError:
            pass  # a number too large for a float: it stays text here, and loses nothing
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _RefusedError("not JSON", f"in {_clip(name)!r}: {error}") from None
    return raw.decode("utf-8")


def _string(name: str, raw: bytes) -> str:
    try:
        return _TEXT.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _RefusedError("not JSON", f"in {_clip(name)!r}: {error}") from None


def _timestamp_ms(raw: bytes) -> int:
    """Epoch milliseconds of an ISO-8601 string or of a number; finer digits are floored."""
    if raw[:1] == b'"':
        return parse_iso_ms(_string("timestamp", raw))
    if not _NUMBER.fullmatch(raw):
        raise _RefusedError("wrong type", f"'timestamp' must be a string or a number, not {_kind(raw)}")
    if not math.isfinite(float(raw)) or abs(float(raw)) > 1e17:
        raise _RefusedError("bad timestamp", f"{_clip(raw)} is no time")
    number = _DOWN.create_decimal(raw.decode())
    return math.floor(_DOWN.multiply(number, 1000) if number < SECONDS_BELOW else number)


def parse_time_ms(text: str) -> int | None:
    """Epoch milliseconds of ISO-8601 with a zone, or of a number, as metrics may give them; None for anything else."""
    try:
        raw = text.strip().encode()
        return _timestamp_ms(raw) if _NUMBER.fullmatch(raw) else parse_iso_ms(text.strip())
    except (_RefusedError, UnicodeEncodeError):
        return None


def parse_window_ms(text: str) -> int | None:
    """As ``parse_time_ms``; ISO-8601 that names no zone, as people write windows, is UTC."""
    found = parse_time_ms(text)
    if found is None:
        with suppress(ValueError):
            found = from_iso(text)
    return found


def parse_iso_ms(text: str) -> int:
    """Epoch milliseconds of an ISO-8601 time with a zone (``Z``, ``UTC`` or an offset)."""
    match = _ISO.fullmatch(text)
    if match is None:
        raise _RefusedError("bad timestamp", f"{_clip(text)!r} is not ISO-8601 with a zone")
    year, _, month, day, hour, _, minute, second, fraction, sign, zone_hours, zone_minutes = match.groups()
    try:
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second or 0), tzinfo=UTC)
    except ValueError as error:
        raise _RefusedError("bad timestamp", f"{_clip(text)!r}: {error}") from None
    offset_min = 0
    if sign:
        if int(zone_hours) > 23 or int(zone_minutes or 0) > 59:
            raise _RefusedError("bad timestamp", f"{_clip(text)!r}: no such zone")
        offset_min = int(zone_hours) * 60 + int(zone_minutes or 0)
        offset_min = -offset_min if sign == "-" else offset_min
    whole_ms = int((moment - _EPOCH).total_seconds()) * 1000 - offset_min * 60_000
    return whole_ms + int((fraction or "0")[:3].ljust(3, "0"))


def _kind(raw: bytes) -> str:
    match raw[:1]:
        case b'"':
            return "a string"
        case b"{":
            return "an object"
        case b"[":
            return "an array"
        case b"t" | b"f":
            return "a boolean"
        case b"n":
            return "null"
    return f"the number {_clip(raw)}"


def _clip(text: str | bytes, most: int = 60) -> str:
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return shown if len(shown) <= most else shown[:most] + "…"
