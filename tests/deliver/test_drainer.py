"""The drainer over the embedded engine and over HTTP: everything once, whatever the neighbours do."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis
from clickhouse_proxy import ClickHouseProxy, clickhouse_proxy
from conftest import RedisServer, effort, redis_executables
from drain_parts import (
    Whereabouts,
    assert_books_agree,
    bad,
    buffer_on,
    client_of,
    drain_store,
    drainer_on,
    good,
    now_s,
    push,
    running,
    wait_until,
)
from items import metric

from pipeline.base import failpoints
from pipeline.base.backoff import Backoff
from pipeline.base.errors import SchemaMismatch
from pipeline.buffer.buffer import Buffer
from pipeline.deliver import delivery as delivery_module
from pipeline.deliver.drainer import MAX_OPEN_CHUNKS, Drainer
from pipeline.deliver.stopping import GRACE_S
from pipeline.embedded.http_interface import ClickHouseHttp
from pipeline.metric import Limits
from pipeline.store.client import Store
from pipeline.store.partitions import by_days


@pytest.fixture(params=[pytest.param("embedded", marks=pytest.mark.thorough), "http"])
def store(request: pytest.FixtureRequest, engine_path: Path, _open_engine: None) -> Iterator[Store]:
    """A fresh database with the drain's tables, over HTTP and, with ``--thorough``, over the embedded driver, which the
    service's own tests always use."""
    with drain_store(f"chdb://{engine_path}") as embedded:
        if request.param == "embedded":
            yield embedded
            return
        with ClickHouseHttp(embedded, writable=True) as server, over_http(server.url, embedded) as http:
            yield http


@pytest.fixture
def embedded(engine_path: Path, _open_engine: None) -> Iterator[Store]:
    """A fresh database with the drain's tables in this process's engine."""
    with drain_store(f"chdb://{engine_path}") as store:
        yield store


def over_http(url: str, store: Store, timeout_s: float = 20) -> Store:
    from pipeline.base import config

    clickhouse = config.ClickHouseSettings(dsn=url, database=store.database, request_timeout_s=timeout_s)
    return Store.open(config.Settings(clickhouse=clickhouse))


@pytest.fixture
def proxy(embedded: Store) -> Iterator[ClickHouseProxy]:
    """A misbehaving way to the database ``embedded``."""
    with ClickHouseHttp(embedded, writable=True) as server, clickhouse_proxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def far(proxy: ClickHouseProxy, embedded: Store) -> Iterator[Store]:
    """The database behind the proxy, for a client that is patient for a second."""
    with over_http(proxy.url, embedded, timeout_s=1) as store:
        yield store


@pytest.fixture
def url(_redis_servers: Callable[[str], str]) -> str:
    """An empty Redis of the newest version there is."""
    url = _redis_servers(max(redis_executables()))
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory", 0)
        client.flushall()
    return url


@pytest.fixture
def fail_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``fail_at("drainer.before_ack:1:raise")``: from now on, until told otherwise."""

    def set_failpoint(text: str) -> None:
        monkeypatch.setenv(failpoints.VARIABLE, text)
        failpoints.reset()

    return set_failpoint


def wait_for_books(buffer: Buffer, **figures: int) -> None:
    wait_until(lambda: figures.items() <= buffer.books().as_dict().items(), f"the books say {figures}")


# Everything once


def test_every_item_stands_once_where_it_belongs(redis_url: str, store: Store) -> None:
    """Good ones of many days in ``metrics``, bad ones in ``dead_letters``; books, digests and minutes agree."""
    items = [good(number, days_ago=number % 20) if number % 40 else bad(number) for number in range(1_000)]
    buffer = buffer_on(redis_url)
    push(buffer.client, items)
    activity = drainer_on(buffer, store, batch_rows=150).drain_until_empty()
    assert (activity.stored, activity.dead_lettered, activity.chunks) == (975, 25, 7)
    Whereabouts(store).assert_each_once(
        [number for number in range(1_000) if number % 40], [item for item in items if item.startswith(b"bad")]
    )
    assert_books_agree(buffer, store)
    touched = store.rows("SELECT DISTINCT toInt64(toUnixTimestamp(toStartOfMinute(timestamp))) FROM metrics")
    assert buffer.dirty_minutes().keys() == {minute for (minute,) in touched}


def test_what_is_read_back_is_what_was_sent(url: str, store: Store) -> None:
    """Time to the millisecond, every column, tags, and the identity: segment and place from the oldest item on."""
    now_ms = 1000 * now_s()
    items = [
        b'{"timestamp":%d,"metric_type":"lcp","value":0.1,"page":"/a","tags":{"k":"\xc3\xa9"},"extra":[1, 2]}' % now_ms,
        b'{"timestamp":%d.5,"metric_type":"cls","value":-0.0,"browser":"firefox","node":"n"}' % now_s(),
    ]
    buffer = buffer_on(url)
    push(buffer.client, items)
    drainer_on(buffer, store).drain_until_empty()
    rows = store.rows(
        "SELECT position, toUnixTimestamp64Milli(timestamp), metric_type, toString(value), page, browser, node, "
        "status, tags FROM metrics ORDER BY position"
    )
    assert rows == [
        (0, now_ms, "lcp", "0.1", "/a", "", "", "", {"k": "é", "extra": "[1, 2]"}),
        (1, now_ms + 500, "cls", "-0", "", "firefox", "n", "", {}),
    ]


def test_a_refused_item_is_kept_to_the_byte(url: str, store: Store) -> None:
    """With its reason, its size and its place, and none of its neighbours is delayed."""
    odd = [b"\xff\x00\xfe", b"", b'{"a":' + b"[" * 40 + b"]" * 40 + b"}", b"x" * 70_000, b"NaN", "é".encode()[:1]]
    buffer = buffer_on(url)
    push(buffer.client, [good(0), *odd, good(1)])
    drainer_on(buffer, store, max_bad_share=1).drain_until_empty()
    rows = store.rows(
        "SELECT position, hex(payload), payload_bytes, reason, buffer FROM dead_letters ORDER BY position"
    )
    assert [(row[0], bytes.fromhex(row[1]), row[2]) for row in rows] == [
        (place, item, len(item)) for place, item in enumerate(odd, start=1)
    ]
    reasons = ["invalid UTF-8", "not JSON", "too deep", "item too large", "not JSON", "invalid UTF-8"]
    assert [row[3:] for row in rows] == [(reason, "metrics:buffer") for reason in reasons]
    assert sorted(Whereabouts(store).stored) == [0, 1]


def test_one_item_pushed_alone_arrives(url: str, store: Store) -> None:
    """No push follows it, and it is not left waiting for a batch to fill."""
    buffer = buffer_on(url)
    with running(drainer_on(buffer, store, batch_rows=50_000)):
        push(buffer.client, [good(7)])
        wait_for_books(buffer, stored=1)
    Whereabouts(store).assert_each_once([7])


def test_what_is_pushed_while_draining_is_drained(url: str, store: Store) -> None:
    """Segments of every size, sealed while producers go on."""
    buffer, producer = buffer_on(url), client_of(url)
    with running(drainer_on(buffer, store, batch_rows=64)):
        for start in range(0, 3_000, 7):
            push(producer, [good(number) for number in range(start, min(start + 7, 3_000))])
        wait_for_books(buffer, stored=3_000, waiting=0)
    Whereabouts(store).assert_each_once(range(3_000))
    assert_books_agree(buffer, store)


def test_several_drainers_share_one_buffer(url: str, store: Store) -> None:
    """Four at once: each chunk is one drainer's, every row stands once, all of them had work."""
    count = effort(2_400, 6_000)
    buffers = [buffer_on(url) for _ in range(4)]
    producer = client_of(url)
    push(producer, [good(number) for number in range(count * 2 // 3)])
    with_stores = [(buffer, store.clone()) for buffer in buffers]
    drainers = [drainer_on(buffer, clone, batch_rows=50) for buffer, clone in with_stores]
    threads = [threading.Thread(target=drainer.drain_until_empty) for drainer in drainers]
    for thread in threads:
        thread.start()
    push(producer, [good(number) for number in range(count * 2 // 3, count)])
    for thread in threads:
        thread.join(120)
    for _, clone in with_stores:
        clone.close()
    Whereabouts(store).assert_each_once(range(count))
    assert_books_agree(buffers[0], store)
    assert sum(drainer.activity.stored for drainer in drainers) == count
    assert sum(drainer.activity.chunks > 0 for drainer in drainers) >= 2


# ClickHouse refuses rows


def refuse_values_over(store: Store, value: float) -> None:
    store.command(f"ALTER TABLE metrics ADD CONSTRAINT small CHECK value <= {value}")


@pytest.mark.parametrize(
    "at_fault",
    [
        {0, 199},
        *(pytest.param(one, marks=pytest.mark.thorough) for one in ({0}, {199}, {77, 78, 79}, set(range(15)))),
        pytest.param({0, 50, 100, 150, 199}, marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_rows_that_clickhouse_refuses_are_found_and_buried(url: str, store: Store, at_fault: set[int]) -> None:
    """The batch is halved down to them; all others are stored, on however many days."""
    refuse_values_over(store, 10)
    moment = now_s()
    items = [
        metric(number, str(moment - 86_400 * (number % 3)), value=99.0 if number in at_fault else 1.0)
        for number in range(200)
    ]
    buffer = buffer_on(url)
    push(buffer.client, [*items, b"bad"])
    drainer_on(buffer, store, batch_rows=500).drain_until_empty()
    Whereabouts(store).assert_each_once(set(range(200)) - at_fault, [*(items[number] for number in at_fault), b"bad"])
    assert_books_agree(buffer, store)
    rows = store.rows("SELECT detail FROM dead_letters WHERE reason = 'refused by ClickHouse'")
    assert len(rows) == len(at_fault) and all("code 469" in detail for (detail,) in rows)


def test_more_days_than_one_insert_may_touch_are_stored_in_parts(url: str, embedded: Store) -> None:
    """130 partitions in one chunk (250 with ``--thorough``), one row of which is at fault: no other row is blamed, and
    inserts are few."""
    days = effort(130, 250)
    refuse_values_over(embedded, 10)
    limits = Limits(retention_ms=400 * 86_400_000)
    embedded.command("ALTER TABLE metrics REMOVE TTL")
    items = [
        metric(number, str(now_s() - 86_400 * (number % days)), value=99.0 if number == 41 else 1.0)
        for number in range(2 * days)
    ]
    buffer = buffer_on(url)
    push(buffer.client, items)
    counted = CountingStore(embedded)
    drainer_on(buffer, counted, batch_rows=1_000, limits=limits).drain_until_empty()
    assert counted.inserts < 40
    Whereabouts(embedded).assert_each_once(set(range(2 * days)) - {41}, [items[41]])
    assert_books_agree(buffer, embedded)


def test_a_stop_is_obeyed_between_the_parts_of_an_insert(
    url: str, embedded: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days are stored part by part; told to stop, the drainer gives the chunk back, and the rest follows later."""
    monkeypatch.setattr(delivery_module, "by_days", lambda rows, column: by_days(rows, column, 1))
    stop = threading.Event()

    class Stopping(CountingStore):
        def insert(self, *arguments: Any, **options: Any) -> int:
            written = super().insert(*arguments, **options)
            if self.inserts == 3:
                stop.set()
                time.sleep(GRACE_S)
            return written

    buffer = buffer_on(url)
    push(buffer.client, [good(number, days_ago=number % 20) for number in range(40)])
    counted = Stopping(embedded)
    drainer_on(buffer, counted, lease_s=3_600).run(stop)
    assert counted.inserts == 3
    assert (leased(buffer), buffer.books().in_flight) == (0, 40)
    drainer_on(buffer, embedded).drain_until_empty()
    Whereabouts(embedded).assert_each_once(range(40))
    assert_books_agree(buffer, embedded)


def test_when_clickhouse_refuses_most_rows_draining_stops_with_all_data_kept(url: str, embedded: Store) -> None:
    """It is the schema, not the data: nothing is buried, not every row is tried, after the repair all is there."""
    refuse_values_over(embedded, 0)
    buffer = buffer_on(url)
    push(buffer.client, [good(number) for number in range(2_000)])
    counted = CountingStore(embedded)
    with pytest.raises(SchemaMismatch, match="refused by ClickHouse"):
        drainer_on(buffer, counted, batch_rows=2_000).drain_until_empty()
    assert counted.inserts < 100
    assert buffer.books().in_flight == 2_000
    assert embedded.rows("SELECT count() FROM dead_letters") == [(0,)]
    embedded.command("ALTER TABLE metrics DROP CONSTRAINT small")
    drainer_on(buffer, embedded, batch_rows=2_000).drain_until_empty()
    Whereabouts(embedded).assert_each_once(range(2_000))
    assert_books_agree(buffer, embedded)


def test_a_tenth_of_refused_rows_is_not_a_schema_at_odds(url: str, embedded: Store) -> None:
    """Also when they stand side by side."""
    refuse_values_over(embedded, 10)
    count = effort(200, 400)
    items = [metric(number, str(now_s()), value=99.0 if number < count // 10 else 1.0) for number in range(count)]
    buffer = buffer_on(url)
    push(buffer.client, items)
    drainer_on(buffer, embedded, batch_rows=400).drain_until_empty()
    Whereabouts(embedded).assert_each_once(range(count // 10, count), items[: count // 10])


def test_a_long_search_for_rows_at_fault_keeps_its_lease(url: str, embedded: Store) -> None:
    """Every insert on the way renews it, so that no other drainer takes the chunk over, however long the search."""
    refuse_values_over(embedded, 10)
    items = [metric(number, str(now_s()), value=99.0 if number == 41 else 1.0) for number in range(100)]
    buffer = buffer_on(url)
    push(buffer.client, items)
    expiries: list[int] = []

    class Watching(CountingStore):
        def insert(self, *arguments: Any, **options: Any) -> int:
            (name,) = buffer.client.zrange(buffer.keys.segments, 0, -1)
            expiries.append(int(buffer.client.hget(buffer.keys.leases(name.decode()), 0).split(b" ")[1]))
            time.sleep(0.003)
            return super().insert(*arguments, **options)

    drainer_on(buffer, Watching(embedded), lease_s=3_600).drain_until_empty()
    assert len(expiries) > 10 and expiries == sorted(set(expiries))
    Whereabouts(embedded).assert_each_once(set(range(100)) - {41}, [items[41]])


class CountingStore:
    """Counts inserts and their rows on their way."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.inserts = 0
        self.rows = 0

    def insert(self, table: str, rows: pa.Table, *, token: str = "") -> int:
        self.inserts += 1
        self.rows += rows.num_rows
        return self._store.insert(table, rows, token=token)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize(("bad_items", "good_items"), [(501, 50), (1_200, 800), (2_000, 0), (1, 0)])
def test_bad_items_never_stop_the_drainer(url: str, embedded: Store, bad_items: int, good_items: int) -> None:
    """However many are refused at decoding: all become dead letters, and the good ones among them are stored."""
    items = [bad(number) for number in range(bad_items)]
    step = max(1, bad_items // max(good_items, 1))
    for number in range(good_items):
        items.insert(number * (step + 1), good(number))
    buffer = buffer_on(url)
    push(buffer.client, items)
    drainer_on(buffer, embedded, batch_rows=2_000).drain_until_empty()
    Whereabouts(embedded).assert_each_once(range(good_items), [bad(number) for number in range(bad_items)])
    assert_books_agree(buffer, embedded)


# Doubt


def test_what_an_earlier_attempt_stored_is_not_stored_again(
    url: str, store: Store, fail_at: Callable[[str], None]
) -> None:
    """A drainer that fell over before its ack: the next one reads back and finds nothing to do."""
    keep_no_tokens(store)
    buffer = buffer_on(url)
    push(buffer.client, [*(good(number, days_ago=number % 3) for number in range(100)), bad(1)])
    fail_at("drainer.before_ack:1:raise")
    with pytest.raises(failpoints.Injected):
        drainer_on(buffer, store, batch_rows=200, lease_s=0.05).drain_until_empty()
    fail_at("")
    counted = CountingStore(store)
    drainer_on(buffer_on(url), counted, batch_rows=200).drain_until_empty()
    assert counted.inserts == 0
    Whereabouts(store).assert_each_once(range(100), [bad(1)])
    assert_books_agree(buffer, store)


def test_only_what_is_missing_is_inserted(url: str, store: Store, fail_at: Callable[[str], None]) -> None:
    """An insert is atomic per partition only: of three days one may be there, and the dead letters may not."""
    buffer = buffer_on(url)
    items = [*(good(number, days_ago=number % 3) for number in range(99)), bad(1)]
    push(buffer.client, items)
    fail_at("drainer.before_ack:1:raise")
    with pytest.raises(failpoints.Injected):
        drainer_on(buffer, store, batch_rows=200, lease_s=0.05).drain_until_empty()
    fail_at("")
    store.command("ALTER TABLE metrics DROP PARTITION ID {day:String}", {"day": today(store)})
    store.command("TRUNCATE TABLE dead_letters")
    drainer_on(buffer_on(url), store, batch_rows=200).drain_until_empty()
    Whereabouts(store).assert_each_once(range(99), [bad(1)])
    assert_books_agree(buffer, store)


def today(store: Store) -> str:
    ((day,),) = store.rows(
        "SELECT max(partition_id) FROM system.parts WHERE table = 'metrics' AND database = currentDatabase()"
    )
    return str(day)


def test_a_token_that_is_known_without_its_rows_is_not_believed(
    url: str, store: Store, fail_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash ClickHouse may have logged an insert without having it: what it drops is inserted under another."""
    monkeypatch.setattr(delivery_module, "SETTLE_S", 0.01)
    buffer = buffer_on(url)
    push(buffer.client, [*(good(number) for number in range(100)), bad(1)])
    for lost in range(1, 4):
        fail_at("drainer.before_ack:1:raise")
        with pytest.raises(failpoints.Injected):
            drainer_on(buffer, store, batch_rows=200, lease_s=0.05).drain_until_empty()
        fail_at("")
        store.command("ALTER TABLE metrics DELETE WHERE 1 SETTINGS mutations_sync = 2")
        store.command("ALTER TABLE dead_letters DELETE WHERE 1 SETTINGS mutations_sync = 2")
        assert store.rows("SELECT count() FROM metrics") == [(0,)], lost
    drainer_on(buffer_on(url), store, batch_rows=200).drain_until_empty()
    Whereabouts(store).assert_each_once(range(100), [bad(1)])
    assert_books_agree(buffer, store)


def test_what_was_buried_stays_buried_when_clickhouse_changes_its_mind(
    url: str, store: Store, fail_at: Callable[[str], None]
) -> None:
    """Refused and buried, then a crash, then the constraint is gone: the row is not stored as well."""
    refuse_values_over(store, 10)
    items = [metric(number, str(now_s()), value=99.0 if number == 5 else 1.0) for number in range(20)]
    buffer = buffer_on(url)
    push(buffer.client, items)
    fail_at("drainer.before_ack:1:raise")
    with pytest.raises(failpoints.Injected):
        drainer_on(buffer, store, lease_s=0.05).drain_until_empty()
    fail_at("")
    store.command("ALTER TABLE metrics DROP CONSTRAINT small")
    drainer_on(buffer_on(url), store).drain_until_empty()
    Whereabouts(store).assert_each_once(set(range(20)) - {5}, [items[5]])
    assert_books_agree(buffer, store)


def test_what_was_stored_stays_stored_when_limits_change(
    url: str, store: Store, fail_at: Callable[[str], None]
) -> None:
    """Stored, then a crash, then stricter limits: the row is not buried as well, and its digest agrees."""
    buffer = buffer_on(url)
    large = good(7)[:-1] + b',"tags":{"a":"%b"},"more":[1]}' % (b"x" * 500)
    push(buffer.client, [good(0), large, good(1)])
    fail_at("drainer.before_ack:1:raise")
    with pytest.raises(failpoints.Injected):
        drainer_on(buffer, store, lease_s=0.05).drain_until_empty()
    fail_at("")
    drainer_on(buffer_on(url), store, limits=Limits(max_item_bytes=400)).drain_until_empty()
    Whereabouts(store).assert_each_once([0, 1, 7])
    assert_books_agree(buffer, store)


def test_rows_that_outlived_their_retention_are_not_inserted_again(url: str, embedded: Store) -> None:
    """What was tried once and waited past the table's TTL may be gone from it by right."""
    buffer = buffer_on(url)
    old_s = now_s() - 60 * 86_400
    push(buffer.client, [metric(1, str(old_s)), good(2)])
    segment = buffer.seal(10)
    assert segment is not None
    buffer.client.hset(buffer.keys.meta(segment.name), "sealed_at", old_s * 1000)
    chunk = buffer.claim()
    assert chunk is not None
    buffer.release(chunk)
    limits = Limits(future_ms=100 * 86_400_000)
    counted = CountingStore(embedded)
    drainer_on(buffer, counted, limits=limits).drain_until_empty()
    assert (counted.rows, sorted(Whereabouts(embedded).stored)) == (1, [2])
    assert (buffer.books().stored, buffer.books().unaccounted) == (2, 0)


# Late ones


PLACES = [
    *("after_claim", "before_insert", "after_insert"),
    *(pytest.param(one, marks=pytest.mark.thorough) for one in ("after_read", "after_decode")),
    *(pytest.param(one, marks=pytest.mark.thorough) for one in ("between_inserts", "before_ack")),
]


@pytest.mark.parametrize("place", PLACES)
def test_a_drainer_that_sleeps_through_its_lease_is_fenced_off(
    url: str, store: Store, fail_at: Callable[[str], None], place: str
) -> None:
    """Wherever it slept: another finishes the chunk meanwhile, and what the sleeper still does changes nothing."""
    sleeper_buffer, other = buffer_on(url), buffer_on(url)
    push(other.client, [*(good(number, days_ago=number % 3) for number in range(60)), bad(1)])
    fail_at(f"drainer.{place}:1:pause=1.5")
    sleeper = drainer_on(sleeper_buffer, store.clone(), lease_s=0.1)
    with running(sleeper):
        wait_until(lambda: other.open_segments(), "the sleeper has sealed")
        wait_until(hits, "it sleeps")
        drainer_on(other, store).drain_until_empty()
        assert sleeper.activity.chunks == 0, "it woke too early to prove anything"
        wait_until(lambda: sleeper.activity.fenced, "it woke and was fenced off")
    sleeper.store.close()
    Whereabouts(store).assert_each_once(range(60), [bad(1)])
    assert_books_agree(other, store)


def test_a_retry_that_comes_late_is_dropped(
    url: str, proxy: ClickHouseProxy, far: Store, embedded: Store, fail_at: Callable[[str], None]
) -> None:
    """The sleeper's first insert failed; it sleeps before its second, which arrives when another has done the work."""
    sleeper_buffer, other = buffer_on(url), buffer_on(url)
    push(other.client, [good(number) for number in range(60)])
    proxy.plan.extend(["503"])
    fail_at("drainer.before_insert:2:pause=4")
    sleeper = drainer_on(sleeper_buffer, far, lease_s=0.6)
    with running(sleeper):
        wait_until(lambda: hits() >= 2, "it sleeps")
        drainer_on(other, embedded).drain_until_empty()
        assert proxy.passed == 0, "it woke too early to prove anything"
        wait_until(lambda: sleeper.activity.fenced, "it woke and was fenced off")
    assert (proxy.done, proxy.passed) == (["503"], 1)
    Whereabouts(embedded).assert_each_once(range(60))
    assert_books_agree(other, embedded)


@pytest.mark.parametrize("sleeps_at", [2, 5], ids=["the first half", "a part of the second half"])
def test_a_half_that_comes_late_is_dropped(
    url: str, embedded: Store, fail_at: Callable[[str], None], sleeps_at: int
) -> None:
    """The sleeper was looking for a row at fault, and another did so after it."""
    refuse_values_over(embedded, 10)
    items = [metric(number, str(now_s()), value=99.0 if number == 41 else 1.0) for number in range(60)]
    sleeper_buffer, other = buffer_on(url), buffer_on(url)
    push(other.client, items)
    fail_at(f"drainer.before_insert:{sleeps_at}:pause=1.5")
    sleeper = drainer_on(sleeper_buffer, embedded.clone(), lease_s=0.1)
    with running(sleeper):
        wait_until(lambda: hits() >= sleeps_at, "it sleeps")
        drainer_on(other, embedded).drain_until_empty()
        assert sleeper.activity.chunks == 0, "it woke too early to prove anything"
        wait_until(lambda: sleeper.activity.fenced, "it woke and was fenced off")
    sleeper.store.close()
    Whereabouts(embedded).assert_each_once(set(range(60)) - {41}, [items[41]])
    assert_books_agree(other, embedded)


def hits() -> int:
    """How often the failpoint was passed."""
    return failpoints._point.hits if failpoints._point is not None else 0


def test_an_insert_that_the_network_delivers_late_is_dropped(
    url: str, proxy: ClickHouseProxy, far: Store, embedded: Store
) -> None:
    """It hung past the client's patience, was tried again with success, and arrives after all."""
    buffer = buffer_on(url)
    push(buffer.client, [good(number, days_ago=number % 3) for number in range(60)])
    proxy.plan.extend(["late", "late", "503"])
    drainer = drainer_on(buffer, far)
    drainer.drain_until_empty()
    Whereabouts(embedded).assert_each_once(range(60))
    proxy.deliver()
    assert proxy.done == ["late", "late", "503"]
    # On a busy machine more answers than these may come too late.
    assert proxy.passed >= 1 and drainer.activity.retries >= 3
    Whereabouts(embedded).assert_each_once(range(60))
    assert_books_agree(buffer, embedded)


# Outages of ClickHouse


FATES = ("503", "429", "code:241", "code:497", "close before", "hang before")
MORE_FATES = ("502", "408", "code:252", "code:999", "code:159", "code:60", "code:516")
"""Answers of the same kinds, with ``--thorough``."""
STORED_ALL_THE_SAME = ("close after", "half a reply", "hang after")


def keep_no_tokens(store: Store) -> None:
    """Let ClickHouse forget every insert at once, so that nothing but our own reading back prevents doubles."""
    for table in ("metrics", "dead_letters"):
        store.command(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 0")


@pytest.mark.parametrize(
    "fate",
    [*FATES, *STORED_ALL_THE_SAME, *(pytest.param(one, marks=pytest.mark.thorough) for one in MORE_FATES)],
)
def test_whatever_becomes_of_an_insert_each_row_stands_once(
    url: str, proxy: ClickHouseProxy, far: Store, embedded: Store, fate: str
) -> None:
    """First, second and later inserts meet it; nothing is refused for an outage. Reading back is enough: no tokens."""
    keep_no_tokens(embedded)
    buffer = buffer_on(url)
    push(buffer.client, [*(good(number, days_ago=number % 2) for number in range(90)), bad(1)])
    proxy.plan.extend([fate] * 3 if fate in STORED_ALL_THE_SAME else [fate, fate, "pass", fate, "pass", fate])
    drainer = drainer_on(buffer, far, batch_rows=30, max_retry_pause_s=0.1)
    drainer.drain_until_empty()
    assert len(proxy.done) == (3 if fate in STORED_ALL_THE_SAME else 4)
    assert drainer.activity.retries >= len(proxy.done)
    assert drainer.activity.trouble == ""
    Whereabouts(embedded).assert_each_once(range(90), [bad(1)])
    assert_books_agree(buffer, embedded)


@pytest.mark.parametrize("fate", ["503", "close after", "hang after"])
def test_dead_letters_survive_outages_too(url: str, embedded: Store, fate: str) -> None:
    """The same for the inserts into ``dead_letters``."""
    keep_no_tokens(embedded)
    buffer = buffer_on(url)
    push(buffer.client, [item for number in range(30) for item in (good(number), bad(number))])
    with ClickHouseHttp(embedded, writable=True) as server, clickhouse_proxy(server.url, "dead_letters") as proxy:
        proxy.plan.extend([fate] * 3)
        with over_http(proxy.url, embedded, timeout_s=1) as far:
            drainer_on(buffer, far, batch_rows=20, max_bad_share=1).drain_until_empty()
        assert proxy.done == [fate] * 3
    Whereabouts(embedded).assert_each_once(range(30), [bad(number) for number in range(30)])
    assert_books_agree(buffer, embedded)


def test_the_driver_sends_an_insert_once(url: str, proxy: ClickHouseProxy, far: Store, embedded: Store) -> None:
    """A connection closed without an answer is not tried again behind the drainer's back."""
    buffer = buffer_on(url)
    push(buffer.client, [good(number) for number in range(10)])
    proxy.plan.extend(["close before"] * 3)
    drainer = drainer_on(buffer, far)
    drainer.drain_until_empty()
    assert drainer.activity.retries >= 3 and proxy.inserts <= drainer.activity.retries + 1


def test_pauses_grow_while_clickhouse_stays_away(
    url: str, proxy: ClickHouseProxy, far: Store, embedded: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading back that works is no recovery as long as the inserts fail; after a success pauses are short again."""
    pauses: list[float] = []
    monkeypatch.setattr(Backoff, "pause_s", lambda self, failures: pauses.append(self.ceiling_s(failures)) or 0.0)
    buffer = buffer_on(url)
    push(buffer.client, [good(number) for number in range(20)])
    proxy.plan.extend(["code:60"] * 8 + ["pass", "503"])
    drainer_on(buffer, far, batch_rows=10, max_retry_pause_s=4).drain_until_empty()
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5, 2.5, 0.1])  # at most half the lease
    Whereabouts(embedded).assert_each_once(range(20))


def test_while_clickhouse_is_away_the_buffer_grows(
    url: str, proxy: ClickHouseProxy, far: Store, embedded: Store
) -> None:
    """Little is sealed, nothing is refused, producers go on; when it is back everything is drained once."""
    buffer, producer = buffer_on(url), client_of(url)
    proxy.always = "503"
    drainer = drainer_on(buffer, far, batch_rows=50, max_retry_pause_s=0.05, lease_s=0.5)
    with running(drainer):
        for start in range(0, 3_000, 20):
            push(producer, [good(number) for number in range(start, start + 20)])
            time.sleep(0.01)
        wait_until(lambda: drainer.activity.retries > 20, "it has tried often")
        books = buffer.books()
        assert books.segments <= MAX_OPEN_CHUNKS and books.waiting > 1_000
        assert (books.stored, books.dead_lettered, books.unaccounted) == (0, 0, 0)
        assert drainer.activity.trouble
        proxy.always = ""
        wait_for_books(buffer, stored=3_000, waiting=0, in_flight=0)
    assert drainer.activity.trouble == ""
    Whereabouts(embedded).assert_each_once(range(3_000))
    assert_books_agree(buffer, embedded)


@pytest.mark.parametrize("fate", ["503", "hang before"])
def test_a_drainer_that_is_stopped_gives_its_chunks_back(
    url: str, proxy: ClickHouseProxy, far: Store, embedded: Store, fate: str
) -> None:
    """ClickHouse is away when it is told to stop: all it had in hand can be claimed at once by others."""
    buffer = buffer_on(url)
    push(buffer.client, [good(number) for number in range(200)])
    proxy.always = fate
    drainer = drainer_on(buffer, far, batch_rows=20, lease_s=3_600)
    with running(drainer):
        wait_until(lambda: proxy.done, "it is trying")
        wait_until(lambda: leased(buffer) >= 3, "it has read ahead")
    tried = len(proxy.done)
    assert leased(buffer) == 0
    assert tried <= 3, "it tried the chunks one after the other although it was told to stop"
    drainer_on(buffer_on(url), embedded, batch_rows=20).drain_until_empty()
    Whereabouts(embedded).assert_each_once(range(200))


def leased(buffer: Buffer) -> int:
    """Chunks that a drainer holds now."""
    now_ms = buffer._disk.now_ms()
    leases = [
        lease
        for name in buffer.client.zrange(buffer.keys.segments, 0, -1)
        for lease in buffer.client.hvals(buffer.keys.leases(name.decode()))
    ]
    return sum(lease != b"done" and int(lease.split(b" ")[1]) > now_ms for lease in leases)


def test_a_drainer_that_is_stopped_finishes_what_it_can(url: str, store: Store) -> None:
    """ClickHouse answers: chunks in hand are stored and acknowledged, the rest stays, nothing is left leased."""
    buffer = buffer_on(url)
    push(buffer.client, [good(number) for number in range(1_000)])
    drainer = drainer_on(buffer, store, batch_rows=10, lease_s=3_600)
    with running(drainer):
        wait_until(lambda: drainer.activity.chunks >= 2, "it is under way")
    assert leased(buffer) == 0
    assert drainer.activity.stored == buffer.books().stored < 1_000
    drainer_on(buffer_on(url), store).drain_until_empty()
    Whereabouts(store).assert_each_once(range(1_000))


def test_a_drainer_ends_in_time_although_clickhouse_hangs_in_an_insert(
    url: str, proxy: ClickHouseProxy, embedded: Store
) -> None:
    """The insert is abandoned in doubt long before its time-out; the next drainer reads back: each row stands once."""
    buffer = buffer_on(url)
    push(buffer.client, [good(number) for number in range(60)])
    proxy.always = "late"
    with over_http(proxy.url, embedded, timeout_s=600) as far:
        stop = threading.Event()
        drainer = drainer_on(buffer, far, batch_rows=20, lease_s=3_600)
        thread = threading.Thread(target=drainer.run, args=(stop,))
        thread.start()
        wait_until(lambda: proxy.done, "it hangs in an insert")
        wait_until(lambda: leased(buffer) == 3, "it has read ahead")
        stop.set()
        asked_s = time.monotonic()
        thread.join(120)
        assert not thread.is_alive()
        assert time.monotonic() - asked_s < 60, "it waited for the time-out"
        assert leased(buffer) == 1, "what no insert was begun for is given back, the hanging one is not"
        proxy.always = ""
        (segment,) = buffer.client.zrange(buffer.keys.segments, 0, -1)
        key = buffer.keys.leases(segment.decode())
        for number, lease in buffer.client.hgetall(key).items():
            if lease != b"done":
                token, _, attempts = lease.split(b" ")
                buffer.client.hset(key, number, b"%b 1 %b" % (token, attempts))
        drainer_on(buffer_on(url), embedded, batch_rows=20).drain_until_empty()
        proxy.deliver()
    Whereabouts(embedded).assert_each_once(range(60))
    assert_books_agree(buffer, embedded)


# Outages of Redis


@pytest.mark.parametrize(
    "trouble", ["password", "command forbidden", "key forbidden", "read-only", "replica of nothing"]
)
def test_a_change_of_redis_is_waited_out(
    redis_server: Callable[..., RedisServer], embedded: Store, trouble: str
) -> None:
    """Password, ACL or role of Redis change while it drains: said, retried, and undone it goes on by itself."""
    server = redis_server()
    admin = server.client()
    admin.execute_command("ACL", "SETUSER", "admin", "on", ">x", "~*", "&*", "+@all")
    admin = redis.Redis(port=server.port, db=3, username="admin", password="x")
    buffer = buffer_on(server.url)
    push(admin, [good(number) for number in range(100)])
    begin, end = {
        "password": (["SETUSER", "default", "resetpass", ">new"], ["SETUSER", "default", "nopass"]),
        "command forbidden": (["SETUSER", "default", "-evalsha", "-llen"], ["SETUSER", "default", "+@all"]),
        "key forbidden": (["SETUSER", "default", "resetkeys", "~other"], ["SETUSER", "default", "~*"]),
    }.get(trouble, ([], []))
    drainer = drainer_on(buffer, embedded, batch_rows=20, max_retry_pause_s=0.1)
    with running(drainer):
        wait_for_books(buffer, stored=100)
        if begin:
            admin.execute_command("ACL", *begin)
        else:
            admin.config_set("replica-serve-stale-data", "yes" if trouble == "read-only" else "no")
            admin.replicaof("127.0.0.1", 1)
        # By the server: a connection that this thread closed while the drainer reads from it fails inside redis-py.
        admin.client_kill_filter(_type="normal", skipme=True)
        wait_until(lambda: drainer.activity.trouble, "it says what it waits for")
        if begin:
            admin.execute_command("ACL", *end)
        else:
            admin.replicaof("no", "one")
        wait_until(lambda: can_push(admin, good(100)), "producers are let in again")
        wait_until(lambda: not drainer.activity.trouble, "it recovered")
        wait_for_books(buffer, stored=101)
    Whereabouts(embedded).assert_each_once(range(101))


def test_when_redis_goes_away_and_comes_back_nothing_is_lost(
    redis_server: Callable[..., RedisServer], embedded: Store
) -> None:
    """Killed in mid-drain, with its append-only file, several times."""
    server = redis_server(appendonly=True)
    buffer, producer = buffer_on(server.url), client_of(server.url)
    push(producer, [good(number) for number in range(3_000)])
    drainer = drainer_on(buffer, embedded, batch_rows=50, max_retry_pause_s=0.05, lease_s=1)
    with running(drainer):
        for kill in range(3):
            wait_until(lambda done=kill: drainer.activity.chunks > 10 * done + 5, "it is under way")
            server.kill()
            wait_until(lambda: drainer.activity.trouble, "it noticed")
            server.start()
            wait_until(lambda: not drainer.activity.trouble, "it recovered")
        wait_for_books(buffer, stored=3_000)
    Whereabouts(embedded).assert_each_once(range(3_000))
    assert_books_agree(buffer, embedded)


def test_a_drainer_can_start_and_stop_while_redis_is_away(
    redis_server: Callable[..., RedisServer], embedded: Store
) -> None:
    """It waits, says what for, and ends when told to."""
    server = redis_server(appendonly=True)
    buffer = buffer_on(server.url)
    push(buffer.client, [good(1)])
    server.kill()
    drainer = drainer_on(buffer, embedded)
    with running(drainer):
        wait_until(lambda: drainer.activity.trouble, "it says what it waits for")
    server.start()
    drainer_on(buffer_on(server.url), embedded).drain_until_empty()
    Whereabouts(embedded).assert_each_once([1])


def test_a_full_redis_is_drained(url: str, embedded: Store) -> None:
    """Producers are refused; the drainer, over five hours of minutes in one chunk, makes room for them again."""
    buffer, producer = buffer_on(url), client_of(url)
    moment = now_s()
    push(producer, [metric(number, str(moment - 60 * (number % 300))) for number in range(20_000)])
    producer.config_set("maxmemory", producer.info("memory")["used_memory"] - 500_000)
    with pytest.raises(redis.ResponseError, match="maxmemory"):
        push(producer, [good(0)])
    drainer_on(buffer, embedded, batch_rows=20_000).drain_until_empty()
    wait_until(lambda: can_push(producer, good(20_000)), "producers are let in again")
    drainer_on(buffer, embedded).drain_until_empty()
    Whereabouts(embedded).assert_each_once(range(20_001))
    assert_books_agree(buffer, embedded)


def can_push(producer: redis.Redis, item: bytes) -> bool:
    try:
        push(producer, [item])
    except redis.ResponseError:
        return False
    return True


def test_a_bug_in_any_stage_is_loud_and_loses_nothing(
    url: str, embedded: Store, fail_at: Callable[[str], None]
) -> None:
    """The drainer ends with the error as it is, whichever thread met it; the next one finishes the work."""
    buffer = buffer_on(url)
    places = (
        "after_seal",
        "after_claim",
        "after_durable",
        "after_decode",
        "before_insert",
        "after_insert",
        "after_ack",
    )
    for number, place in enumerate(places):
        push(buffer.client, [good(100 * number + at) for at in range(100)])
        fail_at(f"drainer.{place}:2:raise" if place not in ("after_seal",) else f"drainer.{place}:1:raise")
        with pytest.raises(failpoints.Injected, match=place):
            drainer_on(buffer, embedded, batch_rows=20, lease_s=0.05).drain_until_empty()
    fail_at("")
    drainer_on(buffer_on(url), embedded, batch_rows=20).drain_until_empty()
    Whereabouts(embedded).assert_each_once(range(100 * len(places)))
    assert_books_agree(buffer, embedded)


def test_a_drainer_runs_again_after_it_was_stopped(url: str, embedded: Store) -> None:
    """The same object, as the service uses it after a mismatch."""
    buffer = buffer_on(url)
    drainer: Drainer = drainer_on(buffer, embedded)
    for round_number in range(3):
        push(buffer.client, [good(round_number)])
        drainer.drain_until_empty()
    Whereabouts(embedded).assert_each_once(range(3))
