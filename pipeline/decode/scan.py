"""Reads items byte by byte where they lie: compiled loops, called by ``columns`` and ``items`` and by nothing else.

``scan_items`` reads the items it is certain of and leaves every other to ``metric.decode``, the one careful
definition. It is certain of an item when it is one JSON object of scalars (and one flat object of scalars under
``tags``), without duplicate keys, whose values are of the expected kinds and in range. It refuses nothing.

Compiled by numba on first use (some seconds, then kept in numba's cache) and run without the GIL. Bytes are
read by address, eight at a time where that helps: handing an array to a helper would count references, which took
two thirds of the time. So nothing here checks bounds. What keeps the reading inside the buffer: every item is
followed by a control character, a line's end, which ends a string, a number and a literal; loops that may pass one
compare with the item's end; and ``PADDING`` more bytes stand behind the last one. ``PIPELINE_CHECKED_SCAN=1`` runs
the same loops as plain Python whose memory primitives check every access (a thousand times slower, for tests).

All of it is one module because numba knows from a module's own file alone when its cache is stale.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from pipeline import compiling
from pipeline.compiling import OPTIONS, Function
from pipeline.metric import DIMENSIONS, FIELDS, SECONDS_BELOW

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

PADDING = 16
"""Bytes behind the last item and its line's end: a word may be read from any byte of an item."""

MAX_TAGS = 64
"""An item with more tags is left to the careful path."""

MAX_PROBES = 128
"""An item with a text that meets more others at its place in the table is left to the careful path. Texts made to
collide would else cost the square of their number; ordinary ones meet a few."""

MAX_FRACTION = 18
"""Digits of a number that fit 64 bits; longer ones are converted by Arrow."""

_FIELDS = (*FIELDS, "timestamp", "value", "tags")
"""What a key may be known as; the index of a text field is that of its column."""

_TEXTS = len(FIELDS)
_RARE = len(DIMENSIONS)
"""From this column on a field is mostly absent, and costs nothing then. A column without entries is all empty; in
one with entries, entry 0 is the empty text."""
_METRIC_TYPE = _FIELDS.index("metric_type")
_TIMESTAMP = _FIELDS.index("timestamp")
_VALUE = _FIELDS.index("value")
_TAGS = _FIELDS.index("tags")
_TAG_NAMES = _TEXTS
"""The dictionary of tag names stands behind those of the text fields."""

_NAME_BYTES = 16
NAMES = np.frombuffer(b"".join(name.encode().ljust(15, b"\0") + bytes([len(name)]) for name in _FIELDS), np.uint8)
"""The known keys, each in sixteen bytes, of which the last is the length."""

_TEXT, _NUMBER, _LITERAL, _NULL = 1, 2, 3, 4
_OUT_OF_RANGE = -(1 << 62)

_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_QUOTES = np.uint64(0x22) * _ONES
_BACKSLASHES = np.uint64(0x5C) * _ONES
_SPACES = np.uint64(0x20) * _ONES
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""The golden ratio's fraction, odd: multiplied by it neighbouring words land far apart."""


IS_CHECKED = os.environ.get("PIPELINE_CHECKED_SCAN") == "1"
"""Whether the loops run as plain Python with bounds checks."""

_known: dict[int, Bytes] = {}


def address_of(array: Bytes) -> int:
    """Where the bytes lie; the checked loops remember which bytes those are."""
    address: int = array.ctypes.data
    if IS_CHECKED:
        _known[address] = array
    return address


def compiled(function: Function) -> Function:
    """Compile on first use. Where no directory can be written for the cache, each process compiles anew."""
    return function if IS_CHECKED else compiling.compiled(function)


def inlined(function: Function) -> Function:
    """Compile into each caller."""
    if IS_CHECKED:
        return function
    result: Function = numba.njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)
    return result


def instruction(generator: Callable[..., Any]) -> Any:
    """What the compiler shall write for a call; numba takes the number and names of the arguments from here."""
    return intrinsic(generator)


def _place(bits: int, builder: Any, address: Any, offset: Any) -> Any:
    return builder.inttoptr(builder.add(address, offset), ir.IntType(bits).as_pointer())


@instruction
def _byte(_: Any, address: Any, offset: Any) -> Any:
    """The byte at an address."""

    def generate(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return builder.zext(builder.load(_place(8, builder, *arguments)), ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


@instruction
def _word(_: Any, address: Any, offset: Any) -> Any:
    """Eight bytes at any address, the first one in the lowest bits (numba runs on little-endian machines only)."""

    def generate(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return builder.load(_place(64, builder, *arguments), align=1)

    return types.uint64(types.int64, types.int64), generate


@instruction
def _put(_: Any, address: Any, offset: Any, byte: Any) -> Any:
    """Write a byte."""

    def generate(context: Any, builder: Any, __: Any, arguments: Any) -> Any:
        address, offset, byte = arguments
        builder.store(builder.trunc(byte, ir.IntType(8)), _place(8, builder, address, offset))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@instruction
def _trailing_zeros(_: Any, word: Any) -> Any:
    """Zero bits below the lowest one bit."""

    def generate(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


if IS_CHECKED:
    np.seterr(over="ignore")  # 64-bit words wrap around, as they do in the compiled loops

    def _checked(address: int, offset: int, size: int) -> Bytes:
        array, offset = _known[address], int(offset)
        if not 0 <= offset <= len(array) - size:
            raise IndexError(f"{size} bytes at {offset} of {len(array)}")
        return array[offset : offset + size]

    def _byte(address: int, offset: int) -> int:
        return int(_checked(address, offset, 1)[0])

    def _word(address: int, offset: int) -> np.uint64:
        return np.uint64(int.from_bytes(_checked(address, offset, 8).tobytes(), "little"))

    def _put(address: int, offset: int, byte: int) -> None:
        _checked(address, offset, 1)[0] = byte & 0xFF

    def _trailing_zeros(word: np.uint64) -> int:
        return (int(word) & -int(word)).bit_length() - 1


@compiled
def scan_items(
    buffer: int,
    starts: Ints,
    ends: Ints,
    eligible: npt.NDArray[np.bool_],
    names: int,
    earliest_ms: int,
    latest_ms: int,
) -> tuple[Any, ...]:
    """Read the eligible items; returns one array per output, whose rows are the items that were read.

    ``buffer`` and ``names`` are the addresses of the joined items (writable: escapes are resolved in place) and of
    ``NAMES``. Item ``i`` lies in bytes ``starts[i]`` to ``ends[i]``, where a line ends. Returns (rows,
    timestamps, values, inexact, value_starts, value_lengths, codes, entry_counts, entry_starts, entry_lengths,
    tag_counts, tag_codes, tag_starts, tag_lengths): ``rows`` are the indexes of the items read, ``codes[c, r]``
    numbers the text of column c among ``entry_counts[c]`` entries (places in the buffer); the last row of the
    entries are the tags' names; tags lie one item after the other. Where ``inexact``, the value is the number at
    ``value_starts``, to be converted by Arrow, which rounds correctly.
    """
    count = len(starts)
    rows = np.empty(count, np.int64)
    timestamps = np.empty(count, np.int64)
    values = np.empty(count, np.float64)
    inexact = np.zeros(count, np.bool_)
    value_starts = np.empty(count, np.int64)
    value_lengths = np.empty(count, np.int64)
    codes = np.empty((_TEXTS, count), np.int32)
    tag_counts = np.empty(count, np.int32)
    tag_room = 4 * count + MAX_TAGS
    tag_codes = np.empty(tag_room, np.int32)
    tag_starts = np.empty(tag_room, np.int64)
    tag_lengths = np.empty(tag_room, np.int64)
    # An item adds at most one entry to a column; more tag names than there is room for are left to the careful path.
    room = count + MAX_TAGS
    slots = 1
    while slots < 2 * room:
        slots *= 2
    table = np.empty((_TEXTS + 1, slots), np.int32)  # an entry's number plus 1, where its hash points
    for column in range(_TEXTS + 1):
        if column < _RARE or column == _TAG_NAMES:
            for slot in range(slots):
                table[column, slot] = 0
    entry_counts = np.zeros(_TEXTS + 1, np.int64)
    entry_starts = np.empty((_TEXTS + 1, room), np.int64)
    entry_lengths = np.empty((_TEXTS + 1, room), np.int64)
    # The texts of the item in hand: its text fields, then the names of its tags; those of fields that become tags
    # are filled in from the back.
    text_starts = np.empty(_TEXTS + MAX_TAGS, np.int64)
    text_lengths = np.empty(_TEXTS + MAX_TAGS, np.int64)
    own_starts = np.empty(MAX_TAGS, np.int64)
    own_lengths = np.empty(MAX_TAGS, np.int64)
    expected = np.zeros(_TEXTS + MAX_TAGS, np.int64)  # producers repeat themselves: the n-th key of the last item
    read = tags = 0
    for item in range(count):
        if not eligible[item]:
            continue
        end = ends[item]
        at = _skip_space(buffer, starts[item], end)
        if _byte(buffer, at) != 123:  # {
            continue
        at = _skip_space(buffer, at + 1, end)
        for field in range(_TEXTS):
            text_lengths[field] = 0
        timestamp_ms = _OUT_OF_RANGE
        value, exact, value_start, value_length = 0.0, False, 0, 0
        present = key = inner = outer = 0
        in_tags = good = False
        while _byte(buffer, at) == 34:  # "
            # Its key,
            key_start = at + 1
            field = -1
            if in_tags:
                at, escaped = _string_end(buffer, key_start)
                if at < 0 or escaped:
                    break
            elif _is_name(buffer, key_start, names, expected[key]):
                field = expected[key]
                at = key_start + _byte(names, field * _NAME_BYTES + 15)
            else:
                at, escaped = _string_end(buffer, key_start)
                if at < 0 or escaped:
                    break
                for known in range(_TEXTS + 3):
                    if _is_name(buffer, key_start, names, known):
                        field = expected[key] = known
            if field >= 0:
                if present >> field & 1:
                    break
                present |= 1 << field
            key_length = at - key_start
            key += not in_tags and key < _TEXTS + MAX_TAGS - 1
            at = _skip_space(buffer, at + 1, end)
            if _byte(buffer, at) != 58:  # :
                break
            at = _skip_space(buffer, at + 1, end)
            # its value,
            first = _byte(buffer, at)
            start = at
            if first == 34:
                start = at + 1
                at, escaped = _string_end(buffer, start)
                if at < 0:
                    break
                stop = at
                if escaped:
                    stop = _unescape(buffer, start, stop)
                    if stop < 0:
                        break
                at += 1
                kind = _TEXT
            elif first == 45 or 48 <= first <= 57:
                at = _number_end(buffer, at)
                if at < 0:
                    break
                stop = at
                kind = _NUMBER
            elif first == 123 and field == _TAGS:
                in_tags = True
                at = _skip_space(buffer, at + 1, end)
                if _byte(buffer, at) != 125:  # }
                    continue
                stop = at
                kind = _NULL
            else:
                at, kind = _literal_end(buffer, at)
                if at < 0:
                    break
                stop = at
            # where it belongs,
            if field == _TIMESTAMP:
                if kind == _TEXT:
                    timestamp_ms = _iso_ms(buffer, start, stop)
                elif kind == _NUMBER:
                    timestamp_ms = _epoch_ms(buffer, start, stop)
            elif field == _VALUE:
                if kind != _NUMBER:
                    break
                value, exact = _float(buffer, start, stop)
                value_start, value_length = start, stop - start
            elif field == _TAGS:
                if kind != _NULL:
                    break
            elif field >= 0:
                if field == _METRIC_TYPE and kind != _TEXT:
                    break
                if kind != _NULL:
                    text_starts[field], text_lengths[field] = start, stop - start
            else:
                if inner + outer == MAX_TAGS:
                    break
                own = inner if in_tags else MAX_TAGS - 1 - outer
                inner += in_tags
                outer += not in_tags
                text_starts[_TEXTS + own], text_lengths[_TEXTS + own] = key_start, key_length
                own_starts[own], own_lengths[own] = start, stop - start
            # and what follows.
            at = _skip_space(buffer, at, end)
            if in_tags and _byte(buffer, at) == 125:
                in_tags = False
                at = _skip_space(buffer, at + 1, end)
            if _byte(buffer, at) == 44:  # ,
                at = _skip_space(buffer, at + 1, end)
                continue
            good = _byte(buffer, at) == 125 and not in_tags and _skip_space(buffer, at + 1, end) == end
            break
        if not (good and earliest_ms <= timestamp_ms <= latest_ms):
            continue
        if (
            not (present >> _VALUE & 1 and text_lengths[_METRIC_TYPE])
            or entry_counts[_TAG_NAMES] + inner + outer > room
        ):
            continue
        if tags + inner + outer > tag_room:
            tag_room = 2 * (tags + inner + outer)
            tag_codes = _longer(tag_codes, tags, tag_room)
            tag_starts = _longer(tag_starts, tags, tag_room)
            tag_lengths = _longer(tag_lengths, tags, tag_room)
        # Number the texts; the tags of the object come first, then the fields that became tags, each in the order sent.
        for text in range(_TEXTS + inner + outer):
            column = min(text, _TAG_NAMES)
            own = text if text < _TEXTS + inner else 2 * _TEXTS + inner + MAX_TAGS - 1 - text
            start, length = text_starts[own], text_lengths[own]
            if _RARE <= text < _TEXTS:
                if length == 0:
                    if entry_counts[text]:
                        codes[text, read] = 0
                    continue
                if entry_counts[text] == 0:
                    # The first one of its kind: entry 0 is the empty text of all before it.
                    for row in range(read):
                        codes[text, row] = 0
                    for free in range(slots):
                        table[text, free] = 0
                    entry_counts[text] = 1
                    entry_starts[text, 0], entry_lengths[text, 0] = start, 0
            slot = _hash(buffer, start, length) & (slots - 1)
            probes = 0
            while probes < MAX_PROBES:
                code = np.int64(table[column, slot]) - 1
                if code < 0:
                    code = entry_counts[column]
                    entry_counts[column] += 1
                    table[column, slot] = code + 1
                    entry_starts[column, code], entry_lengths[column, code] = start, length
                    break
                if entry_lengths[column, code] == length and _same(
                    buffer, start, buffer, entry_starts[column, code], length
                ):
                    break
                slot = (slot + 1) & (slots - 1)
                probes += 1
            if probes == MAX_PROBES:
                good = False
                break
            if text < _TEXTS:
                codes[text, read] = code
                continue
            tag = tags + text - _TEXTS
            for before in range(tags, tag):
                # A name twice: which one counts, and what the other is called, is decided carefully.
                good &= tag_codes[before] != code
            tag_codes[tag] = code
            tag_starts[tag], tag_lengths[tag] = own_starts[own - _TEXTS], own_lengths[own - _TEXTS]
        if not good:
            continue
        rows[read] = item
        timestamps[read] = timestamp_ms
        values[read] = value
        inexact[read] = not exact
        value_starts[read], value_lengths[read] = value_start, value_length
        tag_counts[read] = inner + outer
        tags += inner + outer
        read += 1
    return (
        rows[:read], timestamps[:read], values[:read], inexact[:read], value_starts[:read], value_lengths[:read],
        codes[:, :read], entry_counts, entry_starts, entry_lengths,
        tag_counts[:read], tag_codes[:tags], tag_starts[:tags], tag_lengths[:tags],
    )  # fmt: skip


@compiled
def split_replies(
    buffer: int, at: int, filled: int, starts: Ints, ends: Ints, found: int, target: int
) -> tuple[int, int]:
    """Note where the bulk strings of a Redis reply lie ("$", length, CR LF, bytes, CR LF), as far as it has come.

    Reading goes on at ``at``, up to ``filled``; ``found`` strings were found before, ``target`` is how many there
    are in the end. Returns the new ``found`` and ``at``; ``at`` is -1 if there is something else.
    """
    while found < target and at < filled:
        if _byte(buffer, at) != 36:
            return found, -1
        length = 0
        start = at + 1
        while start < filled and 48 <= _byte(buffer, start) <= 57:
            length = length * 10 + _byte(buffer, start) - 48
            start += 1
        if start == filled:
            break
        if start == at + 1 or _byte(buffer, start) != 13:
            return found, -1
        start += 2
        if start + length + 2 > filled:
            break
        starts[found] = start
        ends[found] = start + length
        found += 1
        at = start + length + 2
    return found, at


@compiled
def gather(buffer: int, starts: Ints, lengths: Ints) -> tuple[npt.NDArray[np.int32], Bytes]:
    """The texts at these places of the buffer, as the offsets and the bytes of an Arrow string array."""
    offsets = np.empty(len(starts) + 1, np.int32)
    offsets[0] = 0
    for k in range(len(starts)):
        offsets[k + 1] = offsets[k] + lengths[k]
    texts = np.empty(offsets[-1], np.uint8)
    for k in range(len(starts)):
        for byte in range(lengths[k]):
            texts[offsets[k] + byte] = _byte(buffer, starts[k] + byte)
    return offsets, texts


@compiled
def crc32(texts: int, offsets: Ints) -> npt.NDArray[np.uint64]:
    """zlib's CRC-32 of each text; text ``k`` lies in bytes ``offsets[k]`` to ``offsets[k + 1]`` at an address."""
    table = np.empty(256, np.uint64)
    for byte in range(256):
        rest = np.uint64(byte)
        for _ in range(8):
            rest = (rest >> np.uint64(1)) ^ (np.uint64(0xEDB88320) * (rest & np.uint64(1)))
        table[byte] = rest
    found = np.empty(len(offsets) - 1, np.uint64)
    for text in range(len(found)):
        rest = np.uint64(0xFFFFFFFF)
        for at in range(offsets[text], offsets[text + 1]):
            rest = table[(np.int64(rest) ^ _byte(texts, at)) & 255] ^ (rest >> np.uint64(8))
        found[text] = rest ^ np.uint64(0xFFFFFFFF)
    return found


@inlined
def _longer(array: Any, used: int, room: int) -> Any:
    longer = np.empty(room, array.dtype)
    for k in range(used):  # a slice would compile for two seconds, for its error messages
        longer[k] = array[k]
    return longer


@inlined
def _skip_space(buffer: int, at: int, end: int) -> int:
    while at < end and _byte(buffer, at) <= 32:
        byte = _byte(buffer, at)
        if byte != 32 and byte != 10 and byte != 13 and byte != 9:
            break
        at += 1
    return at


@inlined
def _is_name(buffer: int, at: int, names: int, field: int) -> bool:
    """Whether the key that begins here is this known one."""
    name = field * _NAME_BYTES
    length = _byte(names, name + 15)
    if _byte(buffer, at + length) != 34:
        return False
    return _same(buffer, at, names, name, length)


@inlined
def _same(buffer: int, at: int, other_buffer: int, other: int, length: int) -> bool:
    while length >= 8:
        if _word(buffer, at) != _word(other_buffer, other):
            return False
        at += 8
        other += 8
        length -= 8
    return length == 0 or bool((_word(buffer, at) ^ _word(other_buffer, other)) << np.uint64(64 - 8 * length) == 0)


@inlined
def _hash(buffer: int, at: int, length: int) -> int:
    hashed = np.uint64(length)
    while length > 0:
        word = _word(buffer, at)
        if length < 8:
            word <<= np.uint64(64 - 8 * length)
        hashed = (hashed ^ word) * _HASH_FACTOR
        hashed ^= hashed >> np.uint64(32)  # a product's low bits know nothing of the factor's high ones
        at += 8
        length -= 8
    return int(hashed * _HASH_FACTOR >> np.uint64(32))


@inlined
def _string_end(buffer: int, at: int) -> tuple[int, bool]:
    """Where the closing quote stands, -1 if a control character comes first; and whether there are escapes."""
    escaped = False
    while True:
        # The lowest high bit belongs to the first byte that is a quote, a backslash or a control character; above it
        # there may be false ones, because what is borrowed there ran through.
        word = _word(buffer, at)
        quote, backslash = word ^ _QUOTES, word ^ _BACKSLASHES
        stops = ((quote - _ONES) & ~quote) | ((backslash - _ONES) & ~backslash) | ((word - _SPACES) & ~word)
        stops &= _HIGHS
        if stops == 0:
            at += 8
            continue
        at += _trailing_zeros(stops) >> 3
        byte = _byte(buffer, at)
        if byte == 34:
            return at, escaped
        if byte != 92 or _byte(buffer, at + 1) < 32:
            return -1, escaped
        escaped = True
        at += 2


@inlined
def _unescape(buffer: int, start: int, stop: int) -> int:
    """Resolve JSON escapes in place; where the text then ends, -1 if an escape is wrong or a surrogate alone."""
    to = at = start
    while at < stop:
        byte = _byte(buffer, at)
        at += 1
        if byte == 92:
            byte = _byte(buffer, at)
            at += 1
            if byte == 117:  # u
                byte = _hex4(buffer, at, stop)
                at += 4
                if (
                    0xD800 <= byte < 0xDC00
                    and at + 6 <= stop
                    and _byte(buffer, at) == 92
                    and _byte(buffer, at + 1) == 117
                ):
                    low = _hex4(buffer, at + 2, stop)
                    at += 6
                    byte = 0x10000 + ((byte - 0xD800) << 10) + (low - 0xDC00) if 0xDC00 <= low <= 0xDFFF else -1
                if byte < 0 or 0xD800 <= byte <= 0xDFFF:
                    return -1
                to = _put_character(buffer, to, byte)
                continue
            if byte == 110:  # n
                byte = 10
            elif byte == 116:  # t
                byte = 9
            elif byte == 114:  # r
                byte = 13
            elif byte == 98:  # b
                byte = 8
            elif byte == 102:  # f
                byte = 12
            elif byte != 34 and byte != 92 and byte != 47:
                return -1
        _put(buffer, to, byte)
        to += 1
    return to


@inlined
def _hex4(buffer: int, at: int, stop: int) -> int:
    if at + 4 > stop:
        return -1
    number = 0
    for k in range(at, at + 4):
        byte = _byte(buffer, k)
        if 48 <= byte <= 57:
            number = number * 16 + byte - 48
        elif 97 <= byte | 32 <= 102:
            number = number * 16 + (byte | 32) - 87
        else:
            return -1
    return number


@inlined
def _put_character(buffer: int, to: int, point: int) -> int:
    """Write one character in UTF-8, which is never longer than its escape; where the next one goes."""
    if point < 0x80:
        _put(buffer, to, point)
        return to + 1
    if point < 0x800:
        _put(buffer, to, 0xC0 | point >> 6)
    else:
        if point < 0x10000:
            _put(buffer, to, 0xE0 | point >> 12)
        else:
            _put(buffer, to, 0xF0 | point >> 18)
            _put(buffer, to + 1, 0x80 | point >> 12 & 0x3F)
            to += 1
        _put(buffer, to + 1, 0x80 | point >> 6 & 0x3F)
        to += 1
    _put(buffer, to + 1, 0x80 | point & 0x3F)
    return to + 2


@inlined
def _digits_end(buffer: int, at: int) -> int:
    while 48 <= _byte(buffer, at) <= 57:
        at += 1
    return at


@inlined
def _number_end(buffer: int, at: int) -> int:
    """One past a JSON number, -1 if it is none."""
    at += _byte(buffer, at) == 45
    whole = at
    at = _digits_end(buffer, at)
    if at == whole or (_byte(buffer, whole) == 48 and at > whole + 1):
        return -1
    if _byte(buffer, at) == 46:  # .
        fraction = at + 1
        at = _digits_end(buffer, fraction)
        if at == fraction:
            return -1
    if _byte(buffer, at) | 32 == 101:  # e
        at += 1
        at += _byte(buffer, at) == 43 or _byte(buffer, at) == 45
        exponent = at
        at = _digits_end(buffer, at)
        if at == exponent:
            return -1
    return at


@inlined
def _literal_end(buffer: int, at: int) -> tuple[int, int]:
    """One past true, false or null, and which kind; -1 for anything else."""
    word = _word(buffer, at)
    four = word & np.uint64(0xFFFFFFFF)
    if four == np.uint64(0x65757274):  # true
        return at + 4, _LITERAL
    if four == np.uint64(0x6C6C756E):  # null
        return at + 4, _NULL
    if word & np.uint64(0xFFFFFFFFFF) == np.uint64(0x65736C6166):  # false
        return at + 5, _LITERAL
    return -1, 0


@inlined
def _float(buffer: int, at: int, stop: int) -> tuple[float, bool]:
    """The number, and whether it is the nearest float.

    It is when digits and power of ten are both exact floats, since the division rounds once (Clinger, 1990).
    """
    negative = _byte(buffer, at) == 45
    at += negative
    mantissa = in_fraction = 0
    power = 1.0
    exact = stop - at <= MAX_FRACTION
    while at < stop and exact:
        byte = _byte(buffer, at)
        if byte == 46:
            in_fraction = 1
        elif byte <= 57:
            mantissa = mantissa * 10 + byte - 48
            if in_fraction:
                power *= 10.0
        else:
            exact = False  # an exponent is rare
        at += 1
    value = float(mantissa) / power
    return (-value if negative else value), exact and mantissa < 1 << 53


@inlined
def _epoch_ms(buffer: int, at: int, stop: int) -> int:
    """Milliseconds of a number of seconds or milliseconds, rounded down; out of range where there is any doubt."""
    dot = _digits_end(buffer, at)
    if dot == at or dot - at > 15:
        return _OUT_OF_RANGE  # negative, or beyond what is a time
    number = _digits(buffer, at, dot)
    thousandths = 0
    if dot < stop:
        if _byte(buffer, dot) != 46 or _digits_end(buffer, dot + 1) != stop:
            return _OUT_OF_RANGE  # an exponent is rare
        thousandths = _thousandths(buffer, dot + 1, stop)
    return number * 1000 + thousandths if number < SECONDS_BELOW else number


@inlined
def _digits(buffer: int, at: int, stop: int) -> int:
    number = 0
    while at < stop:
        number = number * 10 + _byte(buffer, at) - 48
        at += 1
    return number


@inlined
def _thousandths(buffer: int, at: int, stop: int) -> int:
    """The first three of these decimals, as if zeros followed."""
    thousandths = 0
    for k in range(at, at + 3):
        thousandths = thousandths * 10 + (_byte(buffer, k) - 48 if k < stop else 0)
    return thousandths


@inlined
def _two(buffer: int, at: int) -> int:
    """Two digits as a number, negative if they are none."""
    tens, ones = _byte(buffer, at) - 48, _byte(buffer, at + 1) - 48
    return tens * 10 + ones if 0 <= tens <= 9 and 0 <= ones <= 9 else -10_000


@inlined
def _iso_ms(buffer: int, at: int, stop: int) -> int:
    """Milliseconds of YYYY-MM-DDTHH:MM:SS[.digits](Z|±HH:MM|±HHMM), rounded down; out of range for any other text."""
    if stop - at < 20:
        return _OUT_OF_RANGE
    if _byte(buffer, at + 4) != 45 or _byte(buffer, at + 7) != 45:
        return _OUT_OF_RANGE
    if _byte(buffer, at + 13) != 58 or _byte(buffer, at + 16) != 58:
        return _OUT_OF_RANGE
    if _byte(buffer, at + 10) | 32 != 116 and _byte(buffer, at + 10) != 32:
        return _OUT_OF_RANGE
    year = _two(buffer, at) * 100 + _two(buffer, at + 2)
    month, day = _two(buffer, at + 5), _two(buffer, at + 8)
    hour, minute, second = _two(buffer, at + 11), _two(buffer, at + 14), _two(buffer, at + 17)
    if not (0 <= hour <= 23 and 0 <= minute <= 59 and 0 <= second <= 59):
        return _OUT_OF_RANGE
    if not (year >= 1 and 1 <= month <= 12 and 1 <= day <= _days_in_month(year, month)):
        return _OUT_OF_RANGE
    at += 19
    millisecond = 0
    if _byte(buffer, at) == 46:
        fraction = at + 1
        at = _digits_end(buffer, fraction)
        if at == fraction or at >= stop:
            return _OUT_OF_RANGE
        millisecond = _thousandths(buffer, fraction, at)
    sign = _byte(buffer, at)
    offset_min = 0
    if sign == 43 or sign == 45:
        if stop - at != 5 and (stop - at != 6 or _byte(buffer, at + 3) != 58):
            return _OUT_OF_RANGE
        hours, minutes = _two(buffer, at + 1), _two(buffer, stop - 2)
        if not (0 <= hours <= 23 and 0 <= minutes <= 59):
            return _OUT_OF_RANGE
        offset_min = (hours * 60 + minutes) * (44 - sign)
    elif sign | 32 != 122 or at + 1 != stop:  # z
        return _OUT_OF_RANGE
    # Days since 1970-01-01, counting years from March so that leap days come last.
    march_year = year - (month <= 2)
    days = march_year * 365 + march_year // 4 - march_year // 100 + march_year // 400
    days += ((month + 9) % 12 * 306 + 5) // 10 + day - 1 - 719_468
    return (((days * 24 + hour) * 60 + minute - offset_min) * 60 + second) * 1000 + millisecond


@inlined
def _days_in_month(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31
