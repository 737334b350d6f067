"""What every Store promises: the engine inside this process, and a server over HTTP."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.config import Settings
from pipeline.base.errors import StoreOutage, StoreRefused
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.store.arrow import AS_DICTIONARIES
from pipeline.store.client import Store, rows_at_fault

DAY_MS = 86_400_000
BASE_MS = 1_750_000_000_000 // DAY_MS * DAY_MS


@pytest.fixture(scope="module")
def server(engine_path: Path, _open_engine: None) -> Iterator[ClickHouseHttp]:
    """The engine of this process as a server of its own."""
    with ClickHouseHttp(engine_path, writable=True) as server:
        yield server


@pytest.fixture(params=["embedded", "http"])
def any_store(
    request: pytest.FixtureRequest, make_settings: Callable[..., Settings], server: ClickHouseHttp
) -> Iterator[Store]:
    """A store on a fresh empty database, by each of the two ways."""
    with Store.open(make_settings(clickhouse={"dsn": server.url} if request.param == "http" else {})) as store:
        store.command(f"CREATE DATABASE {store.database}")
        yield store
        store.command(f"DROP DATABASE {store.database} SYNC")


def times(values_ms: list[int]) -> pa.Array:
    return pa.array(values_ms, pa.int64()).cast(pa.timestamp("ms", "UTC"))


def numbers(store: Store, *, partition: str = "tuple()", settings: str = "") -> None:
    """A table ``t`` (n, at) partitioned as said."""
    store.command(
        f"CREATE TABLE t (n UInt64, at DateTime64(3, 'UTC')) ENGINE = MergeTree PARTITION BY {partition} ORDER BY n "
        + settings
    )


def rows_of(count: int, *, days: int = 1) -> pa.Table:
    n = np.arange(count, dtype=np.uint64)
    return pa.table({"n": n, "at": times((BASE_MS + (n.astype(np.int64) % days) * DAY_MS).tolist())})


def parts(store: Store) -> list[tuple[int]]:
    """Rows of each part of ``t`` as it was inserted, merged since or not."""
    return store.rows(
        "SELECT rows FROM system.parts WHERE database = currentDatabase() AND table = 't' AND level = 0 ORDER BY rows"
    )


finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=20)


a_row = st.tuples(
    st.integers(0, 2**64 - 1),
    finite,
    texts,
    texts,
    st.integers(0, 10**12),
    st.dictionaries(texts, texts, max_size=3),
    st.dictionaries(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**64 - 1), max_size=3),
    st.booleans(),
)


def test_what_is_inserted_is_read_back_to_the_bit(any_store: Store) -> None:
    """Any row of any type we store is read back as it was sent."""
    any_store.command(
        "CREATE TABLE t (id UInt32, u UInt64, f Float64, s String, l LowCardinality(String), "
        "at DateTime64(3, 'UTC'), tags Map(LowCardinality(String), String), h Map(Int32, UInt64), b Bool) "
        "ENGINE = MergeTree ORDER BY id"
    )

    @given(rows=st.lists(a_row, min_size=1, max_size=20))
    @settings(max_examples=25)
    def comes_back(rows: list[tuple[Any, ...]]) -> None:
        any_store.command("TRUNCATE TABLE t")
        columns = list(zip(*rows, strict=True))
        any_store.insert(
            "t",
            pa.table(
                {
                    "id": pa.array(range(len(rows)), pa.uint32()),
                    "u": pa.array(columns[0], pa.uint64()),
                    "f": pa.array(columns[1], pa.float64()),
                    "s": pa.array(columns[2], pa.string()),
                    "l": pa.array(columns[3], pa.string()).dictionary_encode(),
                    "at": times(list(columns[4])),
                    "tags": pa.array([list(tags.items()) for tags in columns[5]], pa.map_(pa.string(), pa.string())),
                    "h": pa.array([list(h.items()) for h in columns[6]], pa.map_(pa.int32(), pa.uint64())),
                    "b": pa.array(columns[7], pa.bool_()),
                }
            ),
        )
        found = any_store.rows("SELECT u, f, s, l, toUnixTimestamp64Milli(at), tags, h, b FROM t ORDER BY id")
        assert found == rows
        assert [np.float64(row[1]).tobytes() for row in found] == [np.float64(row[1]).tobytes() for row in rows]

    comes_back()


def test_one_insert_is_one_block_per_partition(any_store: Store) -> None:
    """300,000 rows over three days are three parts, whatever the engine's block sizes are."""
    numbers(any_store, partition="toDate(at)")
    any_store.insert("t", rows_of(300_000, days=3))
    assert parts(any_store) == [(100_000,)] * 3


def test_an_insert_in_pieces_is_one_block(any_store: Store) -> None:
    """A table whose columns come in chunks, each with a dictionary of its own, is still one insert."""
    any_store.command("CREATE TABLE t (n UInt64, l LowCardinality(String)) ENGINE = MergeTree ORDER BY n")
    pieces = [
        pa.table({"n": pa.array([i], pa.uint64()), "l": pa.array([f"v{i}"]).dictionary_encode()}) for i in range(5)
    ]
    any_store.insert("t", pa.concat_tables(pieces))
    assert any_store.rows("SELECT n, l FROM t ORDER BY n") == [(i, f"v{i}") for i in range(5)]
    assert parts(any_store) == [(5,)]


def test_equal_inserts_are_two_inserts(any_store: Store) -> None:
    """Two inserts with the same rows count twice, also where ClickHouse remembers what was inserted."""
    numbers(any_store, settings="SETTINGS non_replicated_deduplication_window = 100")
    any_store.insert("t", rows_of(3))
    any_store.insert("t", rows_of(3))
    assert any_store.rows("SELECT count() FROM t") == [(6,)]


def test_a_token_seen_before_drops_the_insert(any_store: Store) -> None:
    """What comes under a token that ClickHouse knows is dropped, even if the rows differ; another token counts."""
    numbers(any_store, settings="SETTINGS non_replicated_deduplication_window = 100")
    any_store.insert("t", rows_of(3), token="a")
    any_store.insert("t", rows_of(2), token="a")
    assert any_store.rows("SELECT count() FROM t") == [(3,)]
    any_store.insert("t", rows_of(3), token="b")
    assert any_store.rows("SELECT count() FROM t") == [(6,)]


def test_an_empty_insert_is_none(any_store: Store) -> None:
    """No rows, no insert, not even of a table that does not exist."""
    any_store.insert("nowhere", rows_of(0))


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        pytest.param(rows_of(1).append_column("more", pa.array([1])), 16, id="a column too many"),
        pytest.param(pa.table({"n": pa.array([None], pa.uint64()), "at": times([0])}), 349, id="null"),
    ],
)
def test_wrong_rows_are_refused_whole(any_store: Store, rows: pa.Table, code: int) -> None:
    """Rows that do not fit are refused with ClickHouse's number and nothing of them is stored."""
    numbers(any_store)
    with pytest.raises(StoreRefused) as refused:
        any_store.insert("t", rows)
    assert refused.value.code == code
    assert rows_at_fault(refused.value) == (code == 349)
    assert any_store.rows("SELECT count() FROM t") == [(0,)]


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT 1 +", "SELECT * FROM", "SELECT a, b WHERE (1"])
def test_a_refusal_shows_nothing_that_was_added_to_the_statement(sql: str, any_store: Store) -> None:
    """The driver writes FORMAT behind each statement, and an unfinished one takes that for its end."""
    for ask in (lambda: any_store.query(sql), lambda: any_store.raw(sql, {}, "CSVWithNames")):
        with pytest.raises(StoreRefused) as refused:
            ask()
        assert refused.value.code
        assert "ArrowStream" not in str(refused.value)
        assert "CSVWithNames" not in str(refused.value)


def test_more_partitions_than_one_insert_may_touch_are_refused_not_retried(any_store: Store) -> None:
    """ClickHouse numbers "too many partitions" like "too many parts"; only the latter goes away by waiting."""
    numbers(any_store, partition="toDate(at)")
    with pytest.raises(StoreRefused, match="partitions") as refused:
        any_store.insert("t", rows_of(150, days=150))
    assert refused.value.code == 252
    assert rows_at_fault(refused.value)


# ClickHouse's own connector retries these, but for the last, a full disk.
PASSING = [3, 107, 159, 164, 202, 203, 209, 210, 241, 242, 252, 285, 319, 425, 999, 243]
LASTING = [6, 27, 53, 60, 62, 131, 349, 469, 516]


def test_codes_that_pass_are_outages(any_store: Store) -> None:
    """What may be accepted later is an outage, and says its number."""
    for code in PASSING:
        with pytest.raises(StoreOutage, match=f"code {code}:"):
            any_store.rows(_throwing(code))


def test_other_codes_are_refusals(any_store: Store) -> None:
    """Everything else would be refused again, and carries its number."""
    for code in LASTING:
        with pytest.raises(StoreRefused) as refused:
            any_store.rows(_throwing(code))
        assert refused.value.code == code


def _throwing(code: int) -> str:
    return f"SELECT throwIf(1, 'told to', toInt16({code})) SETTINGS allow_custom_error_code_in_throwif = 1"


def test_parameters_arrive_as_they_were_given(any_store: Store) -> None:
    """Quotes, tabs, backslashes and braces in a parameter are data, never SQL."""

    @given(text=st.text(), many=st.lists(st.text(), max_size=5), number=finite)
    @settings(max_examples=60)
    def arrives(text: str, many: list[str], number: float) -> None:
        sql = "SELECT {text:String}, {many:Array(String)}, {number:Float64}"
        assert any_store.rows(sql, {"text": text, "many": many, "number": number}) == [(text, many, number)]

    arrives()


def test_unqualified_names_are_in_the_stores_database(any_store: Store) -> None:
    """A table without a database in front is looked for in the store's."""
    assert any_store.rows("SELECT currentDatabase()") == [(any_store.database,)]
    with pytest.raises(StoreRefused) as refused:
        any_store.rows("SELECT * FROM nowhere")
    assert refused.value.code == 60


def test_types_of_a_result(any_store: Store) -> None:
    """Text is plain text, times carry UTC, and dictionaries come when they are asked for."""
    sql = "SELECT toLowCardinality('a') AS l, 'b' AS s, now64(3) AS at, toDateTime(7) AS d, map('a', 1) AS m, true AS b"
    types = {field.name: field.type for field in any_store.query(sql).schema}
    assert types["l"] == types["s"] == pa.string()
    assert types["at"] == pa.timestamp("ms", "UTC")
    assert types["d"] == pa.uint32()
    assert str(types["m"]) == "map<string, uint8>"
    assert types["b"] == pa.bool_()
    assert pa.types.is_dictionary(any_store.query(f"{sql} {AS_DICTIONARIES}").schema.field("l").type)


def test_a_result_without_rows_has_its_columns(any_store: Store) -> None:
    """An empty result keeps names and types."""
    found = any_store.query("SELECT n FROM (SELECT toUInt8(1) AS n) WHERE n = 2")
    assert found.num_rows == 0
    assert found.schema == pa.schema([pa.field("n", pa.uint8(), nullable=False)])


def test_readers_see_one_revision(any_store: Store) -> None:
    """Of a row written again only the newest revision is seen, without saying FINAL, and before any merge."""
    any_store.command(
        "CREATE TABLE t (k UInt8, revision UInt64) ENGINE = ReplacingMergeTree(revision) PARTITION BY k % 2 ORDER BY k"
    )
    any_store.command("SYSTEM STOP MERGES t")
    any_store.command("CREATE VIEW v AS SELECT k, revision AS r FROM t")
    for revision in (1, 3, 2):
        any_store.insert("t", pa.table({"k": pa.array([1, 2], pa.uint8()), "revision": [revision] * 2}))
    on_disk = "SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 't' AND active"
    assert any_store.rows(on_disk) == [(6,)]
    for source in ("t", "(SELECT * FROM t)"):
        assert any_store.rows(f"SELECT k, revision FROM {source} ORDER BY k") == [(1, 3), (2, 3)]
    assert any_store.rows("SELECT k, r FROM v ORDER BY k") == [(1, 3), (2, 3)]


def test_clones_work_side_by_side(any_store: Store) -> None:
    """Threads with clones of their own insert and read at once; every row arrives once and no answer is mixed up."""
    numbers(any_store)
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            with any_store.clone() as mine:
                for _ in range(5):
                    mine.insert("t", rows_of(1000))
                    assert mine.rows("SELECT {worker:UInt8}, count() > 0 FROM t", {"worker": worker}) == [
                        (worker, True)
                    ]
        except BaseException as failure:
            failures.append(failure)

    _all_at_once(work, 4)
    assert not failures
    assert any_store.rows("SELECT count(), sum(n) FROM t") == [(20_000, 20 * sum(range(1000)))]


def test_one_handle_serves_many_threads_in_turn(any_store: Store) -> None:
    """Calls from several threads on one handle wait for each other; each gets its own answer."""
    answers: dict[int, list[int]] = {}

    def work(worker: int) -> None:
        answers[worker] = [any_store.rows(f"SELECT {worker} + sum(number) FROM numbers(1000)")[0][0] for _ in range(10)]

    _all_at_once(work, 4)
    assert answers == {worker: [worker + 499_500] * 10 for worker in range(4)}


def _all_at_once(work: Callable[[int], None], threads: int) -> None:
    running = [threading.Thread(target=work, args=(worker,)) for worker in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def test_raw_answers_in_the_format_asked_for(any_store: Store) -> None:
    """CSV and its kin come as ClickHouse writes them, parameters filled in."""
    assert any_store.raw("SELECT {n:UInt8} AS n, 'a' AS word", {"n": 7}, "CSVWithNames") == b'"n","word"\n7,"a"\n'
