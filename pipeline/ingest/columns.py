"""Reads a chunk of items into Arrow columns without touching single rows in Python.

Producers repeat themselves: most items of a chunk share one *shape* (the same keys in
the same order, the same punctuation) and differ only in the values between. One item
of a shape is read by the careful ``metric.decode``; it yields a template: constant
stretches of bytes and the slots between them. Then, for all rows at once: find the
quotes, derive each slot's bounds from them, compare every constant stretch byte for
byte, check what lies in the slots. A row that passes all of it is the template's item
with other values, so it means what ``decode`` would say it means; every other row is
tried against the next template, and at last goes to ``decode`` itself. Nothing is
refused here: refusing is ``decode``'s alone.

The work is done by numpy and Arrow, which let other threads run meanwhile.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.metric import DIMENSIONS, OPTIONAL, SECONDS_BELOW, Limits, Metric, Refusal, decode

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

MAX_TEMPLATES = 32
"""Shapes tried in one chunk; a chunk with more of them is read by the careful path."""

MIN_SHAPE_ROWS = 16
"""A template that matched fewer rows than this did not pay for itself; a few such misses end the trying."""

MAX_MISSES = 8

MAX_JOINED_BYTES = 1 << 28
"""More than this is read in halves: Arrow's text offsets have 31 bits, and everything is copied once."""

TEXT = pa.dictionary(pa.int32(), pa.string())
TAGS = pa.map_(pa.string(), pa.string())
COLUMNS = pa.schema(
    [
        pa.field("timestamp", pa.timestamp("ms", tz="UTC")),
        *(pa.field(name, TEXT) for name in DIMENSIONS),
        pa.field("value", pa.float64()),
        pa.field("tags", TAGS),
        pa.field("position", pa.uint32()),
    ]
)
"""What ``decode_chunk`` returns: the columns of ``metrics`` that the item and its place determine."""

_TOKEN = re.compile(rb'"([^"]*)"|(-?[0-9][0-9.eE+-]*)|(true|false|null)|([{}\[\],:])|[ \t\r\n]+')
_STRING = msgspec.json.Decoder(str)
_QUOTE, _BACKSLASH, _DOT, _MINUS, _ZERO = b'"\\.-0'


@dataclass(frozen=True)
class Decoded:
    """A chunk, read: the accepted rows (schema ``COLUMNS``) and the refused positions with their reasons."""

    rows: pa.Table
    refusals: list[tuple[int, Refusal]]


@dataclass(frozen=True)
class _Slot:
    """A place in the template where rows differ."""

    name: str
    in_tags: bool
    is_text: bool
    quotes_before: int
    start: int
    end: int


@dataclass(frozen=True)
class _Template:
    item: bytes
    quotes: int
    controls: int
    slots: list[_Slot]
    stretches: list[bytes]
    constant_tags: dict[str, str]
    tag_names: list[str]


@dataclass(frozen=True)
class _Chunk:
    """The joined bytes of all items, and what was found in them."""

    buffer: bytes
    starts: Ints
    ends: Ints
    quote_at: Ints
    items: pa.BinaryArray
    controls: Ints | None
    regular: Bools

    @functools.cached_property
    def first_quote(self) -> Ints:
        """Index in ``quote_at`` of each row's first quote, and one past the last row's last."""
        found: Ints = np.searchsorted(self.quote_at, np.append(self.starts, self.ends[-1]))
        return found

    @functools.cached_property
    def quotes(self) -> Ints:
        """Quotes of each row."""
        counts: Ints = np.diff(self.first_quote)
        return counts

    def of_shape(self, pending: Ints, quotes: int, controls: int) -> tuple[Ints, Ints]:
        """Those of ``pending`` with so many quotes and control characters; where their quotes are, (rows, quotes)."""
        count = len(self.starts)
        rows = pending
        if len(self.quote_at) == count * quotes:
            # The usual case, without a search: every row has its share.
            grid = self.quote_at.reshape(count, quotes)
            if (grid[:, 0] >= self.starts).all() and (grid[:, -1] < self.ends).all():
                if self.controls is not None:
                    rows = pending[self.controls[pending] == controls]
                return rows, grid if len(rows) == count else grid[rows]
        fits = np.zeros(count, np.bool_)
        fits[pending] = True
        fits &= self.quotes == quotes
        if self.controls is not None:
            fits &= self.controls == controls
        grid = self.quote_at[np.repeat(fits, self.quotes)].reshape(-1, quotes)
        return np.flatnonzero(fits), grid


def decode_chunk(items: Sequence[bytes], positions: Ints, sealed_at_ms: int, limits: Limits) -> Decoded:
    """Read ``items`` (all of one segment); ``positions[i]`` is the place of ``items[i]`` in it.

    Same rows, same refusals and same reasons as ``metric.decode`` item by item.
    """
    if not items:
        return Decoded(COLUMNS.empty_table(), [])
    lengths = np.fromiter(map(len, items), np.int64, len(items))
    if lengths.sum() > MAX_JOINED_BYTES and len(items) > 1:
        half = len(items) // 2
        newer = decode_chunk(items[:half], positions[:half], sealed_at_ms, limits)
        older = decode_chunk(items[half:], positions[half:], sealed_at_ms, limits)
        return Decoded(_one_table([newer.rows, older.rows]), newer.refusals + older.refusals)
    chunk = _scan(items, lengths, limits)
    tables: list[pa.Table] = []
    pending = np.flatnonzero(chunk.regular)
    careful = [np.flatnonzero(~chunk.regular)]
    misses = 0
    for _ in range(MAX_TEMPLATES):
        if not len(pending) or misses >= MAX_MISSES:
            break
        template = _template(items[pending[0]], sealed_at_ms, limits)
        if template is None:
            careful.append(pending[:1])
            pending = pending[1:]
            misses += 1
            continue
        taken, table = _read_shape(chunk, template, pending, positions, sealed_at_ms, limits)
        misses += len(taken) < MIN_SHAPE_ROWS
        if not len(taken):
            # The template's own values are out of the fast path's range; it would match nothing else either.
            careful.append(pending[:1])
            pending = pending[1:]
            continue
        tables.append(table)
        pending = pending[~np.isin(pending, taken, assume_unique=True)] if len(taken) < len(pending) else pending[:0]
    careful.append(pending)
    table, refusals = _read_carefully(items, np.sort(np.concatenate(careful)), positions, sealed_at_ms, limits)
    if table.num_rows:
        tables.append(table)
    return Decoded(_one_table(tables), refusals)


def _scan(items: Sequence[bytes], lengths: Ints, limits: Limits) -> _Chunk:
    count = len(items)
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    starts, ends = offsets[:-1], offsets[1:]
    buffer = b"".join(items)
    body = np.frombuffer(buffer, np.uint8)
    regular = (lengths > 0) & (lengths <= limits.max_item_bytes)
    # Looking for one byte is many times faster than for two.
    if b"\\" in buffer and b'\\"' in buffer:
        # A quote behind a backslash does not delimit a string; such rows are not for counting quotes.
        escaped = np.flatnonzero((body[:-1] == _BACKSLASH) & (body[1:] == _QUOTE)) + 1
        regular[np.searchsorted(starts, escaped, side="right") - 1] = False
    if not buffer.isascii():
        try:
            buffer.decode("utf-8")
        except UnicodeDecodeError:
            regular &= _count(body >= 0x80, starts, ends) == 0
    has_controls = body.min(initial=0x20) < 0x20
    return _Chunk(
        buffer=buffer,
        starts=starts,
        ends=ends,
        quote_at=np.flatnonzero(body == _QUOTE),
        items=pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(buffer)]
        ),
        controls=_count(body < 0x20, starts, ends) if has_controls else None,
        regular=regular,
    )


def _count(mask: Bools, starts: Ints, ends: Ints) -> Ints:
    running = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
    counts: Ints = running[ends] - running[starts]
    return counts


def _template(item: bytes, sealed_at_ms: int, limits: Limits) -> _Template | None:
    """The shape of one item, or None when it is refused or not of the simple kind."""
    metric = decode(item, sealed_at_ms, limits)
    if isinstance(metric, Refusal):
        return None
    slots: list[_Slot] = []
    constants: dict[str, str] = {}
    names: list[tuple[bool, str]] = []
    in_tags = False
    name: str | None = None
    quotes = 0
    at = 0
    while at < len(item):
        token = _TOKEN.match(item, at)
        if token is None:
            return None
        text, number, literal, mark = token.groups()
        if text is not None:
            if name is None:
                name = _unescape(token.group())
                names.append((in_tags, name))
            else:
                slots.append(_Slot(name, in_tags, True, quotes, token.start() + 1, token.end() - 1))
                name = None
            quotes += 2
        elif number is not None or literal is not None:
            if name is None:
                return None
            if number is not None:
                slots.append(_Slot(name, in_tags, False, quotes, token.start(), token.end()))
            elif in_tags or (name not in OPTIONAL and name != "tags"):
                constants[name] = literal.decode()
            elif literal != b"null":
                return None  # true or false where text belongs: rare, and not worth a rule here
            name = None
        elif mark == b"{":
            if at and (in_tags or name != "tags"):
                return None
            in_tags = name == "tags"
            name = None
        elif mark == b"[":
            return None
        elif mark == b"}":
            in_tags = False
        at = token.end()
    tag_names = [tag for inside, tag in names if inside] + [
        field for inside, field in names if not inside and field not in {"timestamp", "value", "tags", *DIMENSIONS}
    ]
    if len(set(names)) != len(names) or len(set(tag_names)) != len(tag_names):
        return None  # duplicate keys
    if metric.tags.keys() != set(tag_names):
        return None
    kinds = {slot.name: slot.is_text for slot in slots if not slot.in_tags}
    if not kinds.get("metric_type") or kinds.get("value") is not False or "timestamp" not in kinds:
        return None
    bounds = [0, *(edge for slot in slots for edge in (slot.start, slot.end)), len(item)]
    stretches = [item[left:right] for left, right in zip(bounds[::2], bounds[1::2], strict=True)]
    controls = sum(octet < 0x20 for stretch in stretches for octet in stretch)
    return _Template(item, quotes, controls, slots, stretches, constants, tag_names)


def _unescape(quoted: bytes) -> str:
    return _STRING.decode(quoted)


def _read_shape(
    chunk: _Chunk, template: _Template, pending: Ints, positions: Ints, sealed_at_ms: int, limits: Limits
) -> tuple[Ints, pa.Table]:
    """The rows among ``pending`` that have the template's shape, and their columns."""
    rows, quotes = chunk.of_shape(pending, template.quotes, template.controls)
    while len(rows):
        slots = _slots(chunk, template, rows, quotes)
        good = _rebuilt(chunk, template, rows, slots)
        if good.all():
            columns = _columns(chunk, template, slots, positions[rows], sealed_at_ms, limits, good)
            if good.all():
                return rows, pa.Table.from_arrays(columns, schema=COLUMNS)
        rows, quotes = rows[good], quotes[good]
    return rows, COLUMNS.empty_table()


def _slots(chunk: _Chunk, template: _Template, rows: Ints, quotes: Ints) -> list[pa.StringArray]:
    """What lies in each slot, row by row; for rows of another shape anything, as long as it lies within the row."""
    count = len(rows)
    width = 2 * len(template.slots)
    ends = chunk.ends if count == len(chunk.ends) else chunk.ends[rows]
    left = chunk.starts if count == len(chunk.starts) else chunk.starts[rows]
    # One text array whose elements are, in turn, each slot and the stretch after it: no byte is copied.
    edges = np.empty(count * width + 1, np.int32)
    bounds = edges[:-1].reshape(count, width)
    for k, slot in enumerate(template.slots):
        if slot.is_text:
            start, end = quotes[:, slot.quotes_before] + 1, quotes[:, slot.quotes_before + 1]
        else:
            after = template.stretches[k + 1]
            quote = after.find(b'"')
            end = quotes[:, slot.quotes_before] - quote if quote >= 0 else ends - len(after)
            end = np.maximum(end, left)
            start = np.minimum(left + len(template.stretches[k]), end)
        bounds[:, 2 * k] = start
        bounds[:, 2 * k + 1] = end
        left = end
    edges[-1] = edges[-2]
    flat = pa.StringArray.from_buffers(count * width, pa.py_buffer(edges), pa.py_buffer(chunk.buffer))
    at_row = np.arange(0, count * width, width, dtype=np.int32)
    return [flat.take(pa.array(at_row + 2 * k)) for k in range(len(template.slots))]


def _rebuilt(chunk: _Chunk, template: _Template, rows: Ints, slots: list[pa.StringArray]) -> Bools:
    """Which rows are, byte for byte, the template with what lies in their slots put into it."""
    pieces: list[Any] = []
    for stretch, slot in zip(template.stretches, slots, strict=False):
        pieces += [pa.scalar(stretch, pa.large_binary()), slot.cast(pa.binary()).cast(pa.large_binary())]
    pieces.append(pa.scalar(template.stretches[-1], pa.large_binary()))
    rebuilt = pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.large_binary()))
    items = chunk.items if len(rows) == len(chunk.items) else chunk.items.take(pa.array(rows))
    same: Bools = pc.equal(rebuilt, items).to_numpy(zero_copy_only=False)
    return same


def _columns(
    chunk: _Chunk,
    template: _Template,
    slots: list[pa.StringArray],
    positions: Ints,
    sealed_at_ms: int,
    limits: Limits,
    good: Bools,
) -> list[Any]:
    """The columns of rows of the template's shape; ``good`` is cleared where the careful path must decide."""
    count = len(positions)
    columns: dict[str, Any] = {}
    tags: dict[str, Any] = {}
    is_text = {slot.name: slot.is_text for slot in template.slots if not slot.in_tags}
    for slot, found in zip(template.slots, slots, strict=True):
        texts = found
        if not slot.is_text:
            good &= _are_numbers(texts)
        elif b"\\" in chunk.buffer:
            texts = _unescaped(texts, good)
        is_column = not slot.in_tags and (slot.name in DIMENSIONS or slot.name in ("timestamp", "value"))
        (columns if is_column else tags)[slot.name] = texts
    good &= pc.binary_length(columns["metric_type"]).to_numpy(zero_copy_only=False) > 0
    if not good.all():
        return []
    times = columns["timestamp"]
    timestamps = _times_ms(times, good) if is_text["timestamp"] else _epochs_ms(times, good)
    good &= (timestamps >= sealed_at_ms - limits.retention_ms) & (timestamps <= sealed_at_ms + limits.future_ms)
    values = columns["value"].cast(pa.float64())
    good &= np.isfinite(values.to_numpy(zero_copy_only=False))
    dimensions = [columns[name].dictionary_encode() if name in columns else _constant("", count) for name in DIMENSIONS]
    return [
        pa.array(timestamps).cast(pa.timestamp("ms", tz="UTC")),
        *dimensions,
        values,
        _tag_maps(template, tags, count),
        pa.array(positions.astype(np.uint32)),
    ]


def _tag_maps(template: _Template, tags: dict[str, Any], count: int) -> pa.MapArray:
    """Every row has the same tag names; the values alternate row by row."""
    names = template.tag_names
    if not names:
        return pa.MapArray.from_arrays(
            pa.array(np.zeros(count + 1, np.int32)), pa.array([], pa.string()), pa.array([], pa.string())
        )
    offsets = np.arange(0, (count + 1) * len(names), len(names), dtype=np.int32)
    order = np.arange(count * len(names), dtype=np.int64).reshape(len(names), count).T.reshape(-1)
    texts = [
        tags[name] if name in tags else pa.array([template.constant_tags[name]], pa.string()).take(_zeros(count))
        for name in names
    ]
    values = pa.concat_arrays(texts).take(pa.array(order))
    keys = pa.array(names, pa.string()).take(pa.array(np.tile(np.arange(len(names), dtype=np.int32), count)))
    return pa.MapArray.from_arrays(pa.array(offsets), keys, values)


def _constant(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(_zeros(count), pa.array([text], pa.string()))


def _zeros(count: int) -> pa.Array:
    return pa.array(np.zeros(count, np.int32))


def _unescaped(texts: pa.StringArray, good: Bools) -> pa.StringArray:
    """Texts with their JSON escapes resolved; where they are wrong, ``good`` is cleared."""
    encoded = texts.dictionary_encode()
    plain: list[str] = []
    broken: list[int] = []
    for index, text in enumerate(encoded.dictionary.to_pylist()):
        if "\\" in text:
            try:
                text = _unescape(b'"' + text.encode() + b'"')  # noqa: PLW2901
            except (msgspec.DecodeError, UnicodeDecodeError):
                broken.append(index)
        plain.append(text)
    if broken:
        good &= ~np.isin(encoded.indices.to_numpy(), broken)
    return pa.array(plain, pa.string()).take(encoded.indices)


def _layout(texts: pa.StringArray) -> tuple[Bytes, Ints, Ints]:
    """The bytes of a text array, and where each text starts and ends in them."""
    _, offsets_buffer, data = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    octets = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return octets, offsets[:-1], offsets[1:]


def _are_numbers(texts: pa.StringArray) -> Bools:
    """Which texts are plain JSON numbers: an optional minus, digits without a leading zero, optional decimals.

    A number with an exponent is legal JSON too; the careful path reads it.
    """
    octets, starts, ends = _layout(texts)
    if not len(starts):
        return np.ones(0, np.bool_)
    good = ends > starts
    octets = octets[: ends[-1]]
    safe_start = np.minimum(starts, max(len(octets) - 1, 0))
    if not len(octets):
        return good
    digit = (octets - _ZERO) < 10  # uint8 wraps: everything below "0" becomes large
    other = np.flatnonzero(~digit)
    if len(other):
        row = np.searchsorted(starts, other, side="right") - 1
        mark = octets[other]
        at_start = other == starts[row]
        is_minus = (mark == _MINUS) & at_start & (ends[row] - starts[row] > 1)
        before = np.where(at_start, False, digit[np.maximum(other - 1, 0)])
        after = np.where(other + 1 < ends[row], digit[np.minimum(other + 1, len(octets) - 1)], False)
        is_dot = (mark == _DOT) & before & after
        good[row[~(is_minus | is_dot)]] = False
        dots = np.bincount(row[mark == _DOT], minlength=len(starts))
        good &= dots <= 1
    lead = safe_start + (octets[safe_start] == _MINUS)
    lead = np.minimum(lead, len(octets) - 1)
    follows = np.minimum(lead + 1, len(octets) - 1)
    good &= ~((octets[lead] == _ZERO) & (lead + 1 < ends) & digit[follows])
    numbers: Bools = good & digit[lead]
    return numbers


def _epochs_ms(texts: pa.StringArray, good: Bools) -> Ints:
    """Epoch milliseconds of plain JSON numbers; ``good`` is cleared for those left to the careful path."""
    octets, starts, ends = _layout(texts)
    dots = np.flatnonzero(octets[: ends[-1] if len(ends) else 0] == _DOT)
    stop = ends.copy()
    if len(dots):
        stop[np.searchsorted(starts, dots, side="right") - 1] = dots
    whole_digits = stop - starts
    # Up to 15 digits everything below is exact in 64 bits; negative times are long out of range.
    fits = (whole_digits >= 1) & (whole_digits <= 15) & (octets[np.minimum(starts, len(octets) - 1)] != _MINUS)
    good &= fits
    whole = _digits(octets, starts, np.where(fits, whole_digits, 0), 15)
    # floor(whole.fraction × 1000): the first three decimals, missing ones as zeros; only seconds need them.
    thousandths = np.zeros(len(starts), np.int64)
    for place, weight in ((1, 100), (2, 10), (3, 1)):
        at = stop + place
        there = at < ends
        digit = octets[np.minimum(at, len(octets) - 1)].astype(np.int64) - _ZERO
        thousandths += np.where(there, digit, 0) * weight
    return np.where(whole < SECONDS_BELOW, whole * 1000 + thousandths, whole)


def _digits(octets: Bytes, starts: Ints, lengths: Ints, most: int) -> Ints:
    total = np.zeros(len(starts), np.int64)
    for place in range(min(most, int(lengths.max(initial=0)))):
        inside = place < lengths
        digit = octets[np.minimum(starts + place, len(octets) - 1)].astype(np.int64) - _ZERO
        total = np.where(inside, total * 10 + digit, total)
    return total


def _times_ms(texts: pa.StringArray, good: Bools) -> Ints:
    """Epoch milliseconds of ISO-8601 texts of the commonest length with ``T`` and ``Z`` or ``±hh:mm``.

    ``good`` is cleared for every other text: the careful path reads those.
    """
    octets, starts, ends = _layout(texts)
    count = len(starts)
    if not count:
        return np.zeros(0, np.int64)
    lengths = ends - starts
    width = int(lengths[0])
    if width < 20 or width > 35:
        good[:] = False
        return np.zeros(count, np.int64)
    if (lengths == width).all():
        text = octets[starts[0] : ends[-1]].reshape(count, width)
    else:
        good &= lengths == width
        safe = np.minimum(starts, len(octets) - width) if len(octets) >= width else np.zeros(count, np.int64)
        text = np.lib.stride_tricks.sliding_window_view(octets, width)[safe]
    columns = np.ascontiguousarray(text.T)
    if columns[-1, 0] == ord("Z"):
        zone = 1
    elif width >= 25 and columns[-6, 0] in b"+-":
        zone = 6
    else:
        good[:] = False
        return np.zeros(count, np.int64)

    def digits(first: int, last: int) -> npt.NDArray[np.int32]:
        total = np.zeros(count, np.int32)
        for place in range(first, last):
            digit = columns[place] - np.uint8(_ZERO)
            np.logical_and(good, digit < 10, out=good)
            total = total * 10 + digit
        return total

    def literal(place: int, allowed: bytes) -> None:
        np.logical_and(good, np.isin(columns[place], np.frombuffer(allowed, np.uint8)), out=good)

    year, month, day = digits(0, 4), digits(5, 7), digits(8, 10)
    hour, minute, second = digits(11, 13), digits(14, 16), digits(17, 19)
    for place, allowed in ((4, b"-"), (7, b"-"), (10, b"T"), (13, b":"), (16, b":")):
        literal(place, allowed)
    millisecond = np.zeros(count, np.int32)
    fraction_end = width - zone
    if fraction_end > 19:
        if fraction_end == 20:
            good[:] = False
        literal(19, b".")
        shown = min(3, fraction_end - 20)
        millisecond = digits(20, 20 + shown) * 10 ** (3 - shown)
        digits(20 + shown, fraction_end)
    offset_min = np.zeros(count, np.int32)
    if zone == 1:
        literal(width - 1, b"Z")
    else:
        literal(width - 6, b"+-")
        literal(width - 3, b":")
        zone_hours, zone_minutes = digits(width - 5, width - 3), digits(width - 2, width)
        np.logical_and(good, (zone_hours <= 23) & (zone_minutes <= 59), out=good)
        offset_min = (zone_hours * 60 + zone_minutes) * np.where(columns[width - 6] == _MINUS, -1, 1)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    month_ok = (month >= 1) & (month <= 12)
    days_in_month = _DAYS_IN_MONTH[np.where(month_ok, month, 1)] + (leap & (month == 2))
    np.logical_and(good, (year >= 1) & month_ok & (day >= 1) & (day <= days_in_month), out=good)
    np.logical_and(good, (hour <= 23) & (minute <= 59) & (second <= 59), out=good)
    seconds = ((hour * 60 + minute - offset_min) * 60 + second).astype(np.int64)
    return (_days(year, month, day) * 86_400 + seconds) * 1000 + millisecond


_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int32)


def _days(year: npt.NDArray[np.int32], month: npt.NDArray[np.int32], day: npt.NDArray[np.int32]) -> Ints:
    """Days since 1970-01-01 in the Gregorian calendar, counting years from March so that leap days come last."""
    march_year = year - (month <= 2)
    month_of_year = (month + 9) % 12
    days = march_year.astype(np.int64) * 365 + march_year // 4 - march_year // 100 + march_year // 400
    return days + (month_of_year * 306 + 5) // 10 + day - 1 - 719_468


def _read_carefully(
    items: Sequence[bytes], rows: Ints, positions: Ints, sealed_at_ms: int, limits: Limits
) -> tuple[pa.Table, list[tuple[int, Refusal]]]:
    metrics: list[Metric] = []
    kept: list[int] = []
    refusals: list[tuple[int, Refusal]] = []
    for row in rows.tolist():
        position = int(positions[row])
        metric = decode(items[row], sealed_at_ms, limits)
        if isinstance(metric, Refusal):
            refusals.append((position, metric))
        else:
            metrics.append(metric)
            kept.append(position)
    if not metrics:
        return COLUMNS.empty_table(), refusals
    columns = [
        pa.array([metric.timestamp_ms for metric in metrics], pa.int64()).cast(pa.timestamp("ms", tz="UTC")),
        *(
            pa.array([getattr(metric, name) for metric in metrics], pa.string()).dictionary_encode()
            for name in DIMENSIONS
        ),
        pa.array([metric.value for metric in metrics], pa.float64()),
        pa.array([list(metric.tags.items()) for metric in metrics], TAGS),
        pa.array(kept, pa.uint32()),
    ]
    return pa.Table.from_arrays(columns, schema=COLUMNS), refusals


def _one_table(tables: list[pa.Table]) -> pa.Table:
    """One table of one chunk per column, so that an insert is one block."""
    if not tables:
        return COLUMNS.empty_table()
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()
