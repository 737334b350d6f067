import ctypes
import json
import mmap
import struct
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import effort
from hypothesis import example, given, settings
from hypothesis import strategies as st
from items import OPTIONAL, SEALED_AT_MS, Maker, iso, metric

from pipeline.analyse.changes import candidates, noise
from pipeline.buffer.chunk import Chunk
from pipeline.cli.main import cli
from pipeline.decode import columns, scan
from pipeline.decode.columns import COLUMNS, decode_chunk
from pipeline.deliver import ledger
from pipeline.deliver.delivery import identified
from pipeline.metric import DIMENSIONS, Limits, Metric, Refusal, decode
from pipeline.store.client import Store

SMALL = Limits(max_item_bytes=2_000)
NOW = str(SEALED_AT_MS)
PROT_NONE = 0
"""A process that touches a page so protected dies."""


def read_fast(items: Sequence[bytes], limits: Limits = SMALL) -> dict[int, Any]:
    """What ``decode_chunk`` makes of each item, by its index; fails where it accounts for one twice."""
    positions = np.arange(len(items) - 1, -1, -1, dtype=np.int64)
    decoded = decode_chunk(items, positions, SEALED_AT_MS, limits)
    decoded.rows.validate(full=True)
    assert decoded.rows.schema == COLUMNS
    columns_of = {name: decoded.rows[name].to_pylist() for name in COLUMNS.names if name not in ("timestamp", "tags")}
    stamps = decoded.rows["timestamp"].cast("int64").to_pylist()
    found: list[tuple[int, Any]] = [(len(items) - 1 - position, refusal) for position, refusal in decoded.refusals]
    for row, tags in enumerate(decoded.rows["tags"].to_pylist()):
        assert len(dict(tags)) == len(tags), "a tag twice"
        texts = tuple(columns_of[name][row] for name in DIMENSIONS)
        at = len(items) - 1 - columns_of["position"][row]
        found.append((at, (stamps[row], texts, bits(columns_of["value"][row]), dict(tags))))
    assert len(dict(found)) == len(found), "an item accounted for twice"
    return dict(found)


def read_carefully(items: Sequence[bytes], limits: Limits = SMALL) -> dict[int, Any]:
    """The same by ``metric.decode``, item by item."""
    return {at: as_row(decode(item, SEALED_AT_MS, limits)) for at, item in enumerate(items)}


def as_row(read: Metric | Refusal) -> Any:
    if isinstance(read, Refusal):
        return read
    return (read.timestamp_ms, tuple(getattr(read, name) for name in DIMENSIONS), bits(read.value), read.tags)


def bits(value: float) -> bytes:
    """-0.0 is not 0.0."""
    return struct.pack("<d", value)


def assert_agree(items: Sequence[bytes], limits: Limits = SMALL) -> None:
    fast, careful = read_fast(items, limits), read_carefully(items, limits)
    for at, item in enumerate(items):
        assert fast.get(at) == careful[at], f"item {at} of {len(items)}: {item!r}"
    assert len(fast) == len(items)


@settings(max_examples=effort(80, 300))
@given(st.randoms(use_true_random=False))
def test_a_chunk_is_read_as_item_by_item(chance: Random) -> None:
    """Same rows, same refusals, same reasons, whatever shapes, values and damage a chunk holds."""
    assert_agree(Maker(chance).batch(most=12))


@pytest.mark.parametrize("seed", range(effort(2, 10)))
def test_large_mixed_chunks_are_read_as_item_by_item(seed: int) -> None:
    """3,000 items from each seed, a tenth of them mangled, in chunks of up to 400."""
    maker = Maker(Random(seed))
    read = 0
    while read < 3_000:
        items = maker.batch(most=400)
        read += len(items)
        assert_agree(items)


@pytest.mark.long
@pytest.mark.parametrize("seed", [100, 101, 102, 103])
def test_a_million_mixed_items_are_read_as_item_by_item(seed: int) -> None:
    """The same for a million items."""
    maker = Maker(Random(seed))
    read = 0
    while read < 250_000:
        items = maker.batch(most=1_000)
        read += len(items)
        assert_agree(items)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20), st.text('{}[],:"\\0123456789.eE+- \n\ttruefalsn', max_size=30).map(str.encode)
        )
    )
)
def test_any_bytes_are_read_as_item_by_item(items: list[bytes]) -> None:
    """Bytes without any structure, empty items among them."""
    assert_agree(items)


ALIKE = [metric(number, NOW) for number in range(20)]


@settings(max_examples=effort(120, 400))
@given(
    slot=st.sampled_from(("timestamp", "metric_type", "value", "test_id", "attempt", "tags")),
    texts=st.lists(
        st.one_of(
            st.text(max_size=6).map(lambda text: '"' + text + '"'),
            st.text('0123456789.eE+-_ "\\{}[],:', max_size=12),
            st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,4})?", fullmatch=True),
            st.datetimes().map(lambda moment: f'"{moment.isoformat()}Z"'),
            st.integers(SEALED_AT_MS - 10, SEALED_AT_MS + 10).map(str),
        ),
        min_size=1,
        max_size=4,
    ),
)
@example(slot="value", texts=["1,", "2", '"value":3'])
@example(slot="value", texts=["1.2.3", "9" * 400, "-" + "9" * 400, "0." + "0" * 400 + "1", "01", "-", "-.5"])
@example(slot="attempt", texts=["1.2.3", "9" * 400, "1.", ".1", "--1", "1-", "00", "-0", "-00"])
@example(slot="timestamp", texts=["1.2.3", f"{SEALED_AT_MS}.9.9", f"0{SEALED_AT_MS}", f"{SEALED_AT_MS}."])
@example(slot="test_id", texts=['"1","value":2', '"3"'])
@example(slot="test_id", texts=['"\\"', '"'])
@example(slot="tags", texts=['{"a":"}","b":"{"}', '{"a":"","b":""}'])
def test_anything_in_a_slot_is_read_as_item_by_item(slot: str, texts: list[str]) -> None:
    """Rows of one shape with any text where a value belongs: it fits the slot, or the row is read by itself."""
    template = '{"timestamp":%s,"metric_type":%s,"value":%s,"test_id":%s,"attempt":%s,"tags":%s}'
    usual = {
        "timestamp": NOW,
        "metric_type": '"lcp"',
        "value": "1",
        "test_id": '"t"',
        "attempt": "1",
        "tags": '{"a":"b","c":"d"}',
    }
    items = [(template % tuple((usual | {slot: text}).values())).encode() for text in [usual[slot], *texts]]
    assert_agree(items[:1] * 5 + items + items[:1])
    assert_agree(items[1:])


@pytest.mark.parametrize(
    "neighbours",
    [
        pytest.param([b'{"a":1},{"b":2}'], id="two objects in one item"),
        pytest.param([ALIKE[0] + b"," + ALIKE[1]], id="two metrics and a comma"),
        pytest.param([ALIKE[0] + ALIKE[1]], id="two metrics in one item"),
        pytest.param([ALIKE[0] + b"\n" + ALIKE[1]], id="two lines in one item"),
        pytest.param([ALIKE[0][:40], ALIKE[0][40:]], id="halves of a metric"),
        pytest.param([ALIKE[0][:-1], b"}"], id="a brace astray"),
        pytest.param([ALIKE[0] + b'"', b'"' + ALIKE[1]], id="quotes at the border"),
        pytest.param([ALIKE[0][:-2], b'"}' + ALIKE[1]], id="a string that ends next door"),
        pytest.param([ALIKE[0] + b"\\", b'"' + ALIKE[1]], id="a backslash before the neighbour's quote"),
        pytest.param([ALIKE[0] + b"\xc3", b"\xa9" + ALIKE[1]], id="halves of a character"),
        pytest.param([ALIKE[0][:-2] + b"\xc3", b'\xa9"}'], id="a character across the border inside a string"),
        pytest.param([b"", b"", b" "], id="empty items"),
        pytest.param([b" " + ALIKE[0], ALIKE[1] + b" "], id="space around"),
        pytest.param([b"\xff"], id="one item that is no UTF-8"),
        pytest.param([ALIKE[0].replace(b"staging", "Größe".encode())], id="one item beyond ASCII"),
        pytest.param([ALIKE[0].replace(b"staging", b"sta\\u0067ing")], id="one escape"),
        pytest.param([ALIKE[0].replace(b"staging", b"st\\ud800ing")], id="one lone surrogate"),
        pytest.param([ALIKE[0].replace(b"staging", b'st\\"ing')], id="one escaped quote"),
        pytest.param([ALIKE[0].replace(b"staging", b"st\\\\")], id="an escaped backslash before the quote"),
        pytest.param([ALIKE[0].replace(b"staging", b"st\ning")], id="a raw line break in a string"),
        pytest.param([ALIKE[0].replace(b",", b",\n")], id="pretty-printed"),
        pytest.param([ALIKE[0].replace(b'"test_id"', b'"test\\u005fid"')], id="an escape in a name"),
        pytest.param([ALIKE[0].replace(b'"browser"', b'"test_id"')], id="a name twice"),
    ],
)
@pytest.mark.parametrize("at", [0, 10, 20])
def test_an_odd_neighbour_changes_nothing_for_the_others(neighbours: list[bytes], at: int) -> None:
    """First, in the middle or last, alone or between rows of the usual shape."""
    assert_agree([*ALIKE[:at], *neighbours, *ALIKE[at:]])
    assert_agree(neighbours)


def test_items_of_many_shapes_are_all_read() -> None:
    """Every item with a field of its own, alone and many of each; an item with more tags than most, and far more."""
    lonely = [metric(number, NOW)[:-1] + b',"field_%d":%d}' % (number, number) for number in range(300)]
    assert_agree(lonely)
    crowded = [item for item in lonely for _ in range(20)]
    Random(1).shuffle(crowded)
    assert_agree(crowded)
    for count in (scan.MAX_TAGS - 1, scan.MAX_TAGS, scan.MAX_TAGS + 1, 500):
        fields = b"".join(b',"field_%d":%d' % (number, number) for number in range(count - 1))
        assert_agree([ALIKE[0][:-1] + fields + b',"tags":{"team":"web"}}', *ALIKE])
    assert_agree([ALIKE[0][:-1] + b',"field_%d":1,"tags":{%s}}' % (k, b",".join(
        b'"%d":%d' % (tag, tag) for tag in range(60))) for k in range(100)])  # fmt: skip


@pytest.mark.parametrize("digits", range(10))
@pytest.mark.parametrize("offset_min", [None, 0, 90, -1439])
def test_times_of_every_length_are_read_as_item_by_item(digits: int, offset_min: int | None) -> None:
    """Each precision and zone alone, and mixed with another in the same shape."""
    times = [f'"{iso(SEALED_AT_MS - 1_234 * number, digits=digits, offset_min=offset_min)}"' for number in range(20)]
    items = [metric(number, time) for number, time in enumerate(times)]
    assert_agree(items)
    assert_agree(items + ALIKE + [metric(0, f'"{iso(SEALED_AT_MS)}"')])


ANY_TIME = Limits(retention_ms=10**15, future_ms=10**15)


@settings(max_examples=effort(100, 300))
@given(
    st.lists(
        st.tuples(
            st.sampled_from((0, 1, 4, 100, 400, 1600, 1900, 1969, 1970, 2000, 2023, 2024, 2100, 9999)),
            st.integers(0, 13),
            st.integers(0, 32),
            st.integers(0, 25),
            st.integers(0, 61),
            st.integers(0, 61),
            st.sampled_from(("Z", "+00:00", "-00:00", "+23:59", "-23:59", "+24:00", "-00:60", "+14:00")),
        ),
        min_size=2,
        max_size=8,
    )
)
@example([(2023, 11, 14, hour, minute, second, "Z") for hour in (23, 24) for minute in (59, 60) for second in (59, 60)])
@example([(year, 2, day, 0, 0, 0, "Z") for year in (1600, 1900, 2000, 2023, 2024) for day in (28, 29, 30)])
@example([(2023, month, 31, 0, 0, 0, "Z") for month in range(14)])
@example([(2023, 1, 1, 0, 0, 0, zone) for zone in ("+23:59", "+24:00", "-00:60", "-00:00", "+14:00")])
def test_dates_that_do_not_exist_are_refused_by_both(moments: list[tuple[int, int, int, int, int, int, str]]) -> None:
    """Leap years, months of 30 days, hour 24, second 60, zones beyond a day: of one width, so read side by side."""
    times = ['"{:04d}-{:02d}-{:02d}T{:02d}:{:02d}:{:02d}{}"'.format(*moment) for moment in moments]
    assert_agree([metric(0, f'"2023-01-01T00:00:00{zone}"') for zone in ("Z", "+01:00")], ANY_TIME)
    assert_agree([metric(number, time) for number, time in enumerate(times)], ANY_TIME)
    for zone in ("Z", "+01:00"):  # the first row decides which width is read side by side
        assert_agree(
            [metric(number, time) for number, time in enumerate([f'"2023-01-01T00:00:00{zone}"', *times])], ANY_TIME
        )


@pytest.mark.parametrize(
    "number", ["99999999999", "99999999999.999", "100000000000", "100000000000.9", "999999999999999"]
)
@pytest.mark.parametrize("sign", ["", "-"])
def test_seconds_end_where_milliseconds_begin(sign: str, number: str) -> None:
    """A number below 1e11 is seconds, else milliseconds; finer digits are floored; up to 15 digits and beyond."""
    numbers = [sign + number, sign + number + ("0" if "." in number else ".0"), "0", "1", "9999999999999999", "1e3"]
    for first in range(len(numbers)):
        assert_agree([metric(at, text) for at, text in enumerate(numbers[first:] + numbers[:first])], ANY_TIME)


@given(st.integers(-(720 * 3_600_000) - 3, 300_003), st.booleans())
@example(-720 * 3_600_000, False)
@example(-720 * 3_600_000 - 1, True)
@example(300_000, True)
@example(300_001, False)
def test_the_range_of_times_has_the_same_edges(after_ms: int, as_text: bool) -> None:
    """Retention and future are inclusive to the millisecond, for text and number alike."""
    moment_ms = SEALED_AT_MS + after_ms
    items = [
        metric(number, f'"{iso(moment_ms + number)}"' if as_text else str(moment_ms + number))
        for number in range(-2, 3)
    ]
    assert_agree(items)


@pytest.mark.parametrize("max_depth", [1, 2, 3])
def test_limits_are_the_same_for_both(max_depth: int) -> None:
    """Depth and size are judged alike, one byte and one level to either side."""
    items = (
        [item[:-1] + b',"tags":{"a":"{["}}' for item in ALIKE] + [item[:-1] + b',"x":[[1]]}' for item in ALIKE] + ALIKE
    )
    for max_item_bytes in {len(item) + more for item in items for more in (-1, 0)}:
        assert_agree(items, Limits(max_depth=max_depth, max_item_bytes=max_item_bytes))


def test_a_chunk_too_large_to_join_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to single items, which are never cut."""
    monkeypatch.setattr(columns, "MAX_JOINED_BYTES", 500)
    assert_agree([*ALIKE, b"x" * 1_000, b"", b"x" * 3_000, *ALIKE])


def test_the_careful_path_sees_nothing_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """What producers send every day is read by the compiled loops: any order, escapes, Unicode, tags, long numbers."""
    seen: list[bytes] = []
    monkeypatch.setattr(columns, "decode", lambda item, *rest: seen.append(item) or decode(item, *rest))
    plain = [metric(number, NOW) for number in range(1_000)]
    tagged = [
        item[:-1] + b',"tags":{"team":"web","try":"%d","none":null,"yes":true},"shard":%d}' % (at % 7, at)
        for at, item in enumerate(plain)
    ]
    timed = [metric(number, f'"{iso(SEALED_AT_MS - number)}"') for number in range(1_000)]
    measured = [
        metric(number, f"{SEALED_AT_MS / 1000:.6f}", value=Random(number).random() * 1e4) for number in range(99)
    ]
    dumped = [json.dumps(json.loads(item) | {"page": 'a/"ü"\n🦆'}).encode() for item in plain]
    pretty = [json.dumps(json.loads(item), indent=2, sort_keys=True, ensure_ascii=False).encode() for item in dumped]
    items = plain + tagged + timed + measured + dumped + pretty
    Random(1).shuffle(items)
    assert_agree(items)
    assert seen == []


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_read_or_written_outside_the_items(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The joined items end where the mapped memory ends, and the bytes around them stay as they are."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 4096 * page)
    guard = np.frombuffer(memory, np.uint8)[-page:]
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(guard.ctypes.data), page, PROT_NONE) == 0, "no guard page here"
    usable = np.frombuffer(memory, np.uint8)[:-page]
    scan_items = scan.scan_items

    def at_the_edge(buffer: int, starts: Any, ends: Any, *rest: Any) -> Any:
        size = int(ends[-1]) + 1 + scan.PADDING
        place = usable[len(usable) - size :]
        ctypes.memmove(place.ctypes.data, buffer, size)
        usable[: len(usable) - size] = 0xEE
        found = scan_items(place.ctypes.data, starts, ends, *rest)
        assert (usable[: len(usable) - size] == 0xEE).all()
        assert (place[ends] == 0x0A).all() and (place[-scan.PADDING :] == 0x0A).all()
        ctypes.memmove(buffer, place.ctypes.data, size)  # the texts are gathered from there
        return found

    monkeypatch.setattr(scan, "scan_items", at_the_edge)
    maker = Maker(Random(seed))
    for _ in range(60):
        items = maker.batch(most=30)
        if sum(map(len, items)) < len(usable) // 2:
            assert_agree(items)
    for last in (
        ALIKE[0],
        b'{"a":tru',
        b'{"a":nul',
        b'{"a":"\\',
        b'{"a":"\\u12',
        b'{"a":-',
        b'{"a":1e',
        b"{",
        b"",
        b'{"',
    ):
        assert_agree([last])


def test_no_items_are_no_rows() -> None:
    """An empty chunk is read as an empty table of the same columns."""
    decoded = decode_chunk([], np.zeros(0, np.int64), SEALED_AT_MS, SMALL)
    assert (decoded.rows.num_rows, decoded.rows.schema, decoded.refusals) == (0, COLUMNS, [])


def test_rows_of_a_chunk_are_one_block() -> None:
    """Each column is one piece, so that the insert is one block, however many shapes the chunk has."""
    items = [*ALIKE, *(item[:-1] + b',"tags":{"a":"b"}}' for item in ALIKE), ALIKE[0].replace(b":", b" : ")]
    rows = decode_chunk(items, np.arange(len(items)), SEALED_AT_MS, SMALL).rows
    assert {column.num_chunks for column in rows.columns} == {1}


@pytest.mark.parametrize("seed", range(4))
def test_the_digest_is_the_same_here_and_in_clickhouse(seed: int, store: Store) -> None:
    """Over rows with tags, Unicode, escapes, -0.0 and every time form; and any altered value changes it."""
    maker = Maker(Random(seed))
    items = [item for _ in range(5) for item in maker.batch(most=100)]
    rows = decode_chunk(items, np.arange(len(items)), SEALED_AT_MS, SMALL).rows
    assert rows.num_rows > 20 and any(rows["tags"].to_pylist())
    chunk = Chunk("seg", 0, 0, len(items), len(items), len(items), SEALED_AT_MS, 1, False)
    store.command("SYSTEM STOP MERGES metrics")  # rows of 2023 are past the table's TTL
    store.insert("metrics", identified(rows, chunk))
    ((there, count),) = store.rows(f"SELECT {ledger.DIGEST_SQL}, count() FROM metrics")
    assert (count, there) == (rows.num_rows, ledger.digest(rows))
    for name in ("timestamp", "value", "position", *OPTIONAL[:3], "tags"):
        assert ledger.digest(altered(rows, name)) != there, name


def test_the_digest_sees_tags_without_a_name() -> None:
    """A tag whose name is empty counts like any other: its value altered, or the tag gone, is another digest."""
    items = [metric(0, NOW)[:-1] + b',"tags":%s}' % tags for tags in (b'{"":"a"}', b'{"":"b"}', b'{"":""}', b"{}")]
    digests = {ledger.digest(decode_chunk([item], np.zeros(1, np.int64), SEALED_AT_MS, SMALL).rows) for item in items}
    assert len(digests) == 4


def altered(rows: Any, name: str) -> Any:
    """The rows with the first and the last value of one column traded (or, where they are equal, another value)."""
    values = rows[name].to_pylist()
    if values[0] == values[-1]:
        values[0] = {"tags": [("a", "changed")]}.get(name, "changed")
    else:
        values[0], values[-1] = values[-1], values[0]
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, rows.schema.field(name), columns.pa.array(values, rows.schema.field(name).type))


def test_what_is_compiled_can_be_compiled_ahead() -> None:
    """``pipeline prepare`` says how long it took; afterwards the reader and the change detector are compiled."""
    done = CliRunner().invoke(cli, ["prepare", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout).keys() == {"took_s"}
    assert scan.split_replies.signatures and noise._sums.signatures and candidates._propose.signatures
