"""The audit: balances when all is well, and fails when a single row is deleted, doubled, altered or out of nowhere."""

import json
import time
from typing import Any

import pytest
import redis

from pipeline.base import config
from pipeline.base.config import DrainerSettings
from pipeline.bench.drain import plain_items
from pipeline.buffer.buffer import Buffer
from pipeline.deliver import ledger
from pipeline.deliver.drainer import Drainer
from pipeline.metric import Limits
from pipeline.operate.audit import CHECKPOINT, AuditReport, audit
from pipeline.store.client import Store
from pipeline.store.migrate import kept_hours, migrate

ROWS = 400
SETTINGS = DrainerSettings(batch_rows=100, durable_seal=False)


@pytest.fixture
def buffer(redis_url: str) -> Buffer:
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    return Buffer(client)


@pytest.fixture(params=[pytest.param("records in Redis", marks=pytest.mark.thorough), "records in the ledger table"])
def drained(request: pytest.FixtureRequest, buffer: Buffer, store: Store) -> Buffer:
    _drain(buffer, store)
    if "table" in request.param:
        assert ledger.flush(buffer, store, settled_ms=0) == ROWS // 100
        assert ledger.pending_records(buffer) == []
    return buffer


def _drain(buffer: Buffer, store: Store) -> None:
    items = plain_items(ROWS, 1)
    items[5] = b"not json"
    buffer.client.lpush(buffer.key, *items)
    Drainer(buffer, store, SETTINGS, Limits()).drain_until_empty()


def _audit(buffer: Buffer, store: Store, *, full: bool = False) -> AuditReport:
    return audit(store, [buffer], full=full, now_ms=time.time_ns() // 1_000_000)


def _change(store: Store, statement: str) -> None:
    store.command(f"{statement} SETTINGS mutations_sync = 2")


def test_balances_when_all_is_well(drained: Buffer, store: Store) -> None:
    """Every chunk is checked; the next audit looks only at what is new, and finds nothing either."""
    first = _audit(drained, store)
    assert (first.ok, first.chunks, first.findings) == (True, ROWS // 100, [])
    assert first.scope.startswith("everything")
    second = _audit(drained, store)
    assert second.ok
    assert second.scope == "acknowledged since the last audit"


@pytest.mark.parametrize("junk", ["junk", b"\xff", "[]", "{}", '{"at": 1e999, "mutations": 0}', "[" * 100_000, "ahead"])
def test_a_damaged_note_of_the_last_audit_makes_the_next_one_check_everything(
    buffer: Buffer, store: Store, junk: str | bytes
) -> None:
    """Neither an end of the audit nor a reason to leave anything out."""
    _drain(buffer, store)
    assert _audit(buffer, store).ok
    if junk == "ahead":
        noted = json.loads(buffer.checkpoint(CHECKPOINT) or "")
        junk = json.dumps({**noted, "at": noted["at"] + 86_400_000})
    buffer.client.hset(buffer.keys.checkpoints, CHECKPOINT, junk)
    report = _audit(buffer, store)
    assert report.ok and report.scope.startswith("everything")
    assert _audit(buffer, store).scope == "acknowledged since the last audit"


@pytest.mark.parametrize("audited_before", [False, True], ids=["first audit", "audited before"])
def test_a_deleted_row_is_missing(drained: Buffer, store: Store, audited_before: bool) -> None:
    """One row gone: one missing, with segment and chunk, whether or not all was well at the last audit."""
    if audited_before:
        assert _audit(drained, store).ok
    _change(store, "ALTER TABLE metrics DELETE WHERE position = 123")
    report = _audit(drained, store)
    assert (report.ok, report.missing) == (False, 1)
    assert "chunk 1" in report.findings[0].where


def test_a_doubled_row_is_duplicated(drained: Buffer, store: Store) -> None:
    """One row inserted again behind our back: one duplicated, also for an incremental audit."""
    assert _audit(drained, store).ok
    store.command("INSERT INTO metrics SELECT * FROM metrics WHERE position = 7 LIMIT 1")
    report = _audit(drained, store, full=bool(ledger.pending_records(drained)))
    assert (report.ok, report.duplicated) == (False, 1)


def test_a_chunk_sealed_by_another_version_is_audited_by_its_counts(
    buffer: Buffer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its items may decode to other fields here than there: a changed field is no fault, a missing row is one."""
    monkeypatch.setattr("pipeline.buffer.sealing.DECODER_VERSION", 1)
    _drain(buffer, store)
    _change(store, "ALTER TABLE metrics UPDATE run_id = 'from the tag' WHERE position = 42")
    assert _audit(buffer, store).ok
    _change(store, "ALTER TABLE metrics DELETE WHERE position = 123")
    report = _audit(buffer, store, full=True)
    assert (report.ok, report.missing) == (False, 1)


@pytest.mark.parametrize("assignment", ["status = 'x'", "tags = map('a', 'b')"])
def test_an_altered_row_is_altered(drained: Buffer, store: Store, assignment: str) -> None:
    """The same rows with one field changed: counts agree, the digest does not."""
    assert _audit(drained, store).ok
    _change(store, f"ALTER TABLE metrics UPDATE {assignment} WHERE position = 42")
    report = _audit(drained, store)
    assert (report.ok, report.missing, report.duplicated, report.altered) == (False, 0, 0, 1)


def test_a_removed_segment_is_missing(drained: Buffer, store: Store) -> None:
    """All rows of a segment gone."""
    _change(store, "ALTER TABLE metrics DELETE WHERE 1")
    assert _audit(drained, store).missing == ROWS - 1


def test_a_lost_dead_letter_is_missing(drained: Buffer, store: Store) -> None:
    """Dead letters are counted like rows."""
    _change(store, "ALTER TABLE dead_letters DELETE WHERE 1")
    assert _audit(drained, store).missing == 1


@pytest.mark.parametrize(("table", "count"), [("metrics", 3), ("dead_letters", 1)])
def test_rows_of_a_segment_that_redis_never_knew_are_unknown(
    drained: Buffer, store: Store, table: str, count: int
) -> None:
    """What a power cut leaves without a durable seal: rows under a name that was never acknowledged."""
    store.command(f"INSERT INTO {table} SELECT * REPLACE('undone' AS segment) FROM {table} LIMIT {count}")
    report = _audit(drained, store)
    assert (report.ok, report.unknown) == (False, count)
    assert report.findings[0].where == "segment undone"


@pytest.mark.parametrize("expired", [["metrics", "dead_letters"], ["ledger"]])
def test_what_expired_is_nobody_s_loss(drained: Buffer, store: Store, expired: list[str]) -> None:
    """Rows and their ledger expire each at its own pace: what went first is not missed, what stays not unknown."""
    drained.client.lpush(drained.key, b"a chunk of nothing but this")
    Drainer(drained, store, SETTINGS, Limits()).drain_until_empty()
    for table in expired:
        _change(store, f"ALTER TABLE {table} DELETE WHERE 1")
    kept_ms = 3_600_000 * (kept_hours(store) or 0)
    report = audit(store, [drained], full=True, now_ms=time.time_ns() // 1_000_000 + kept_ms)
    assert (report.ok, report.findings) == (True, [])


def test_the_tables_say_how_long_rows_are_kept(buffer: Buffer, store: Store, settings: config.Settings) -> None:
    """The platform may shorten the retention in Redis: what the tables have dropped since is not missed."""
    five_days_ago_ms = time.time_ns() // 1_000_000 - 5 * 86_400_000
    buffer.client.lpush(buffer.key, *[f'{{"metric_type":"a","value":1,"timestamp":{five_days_ago_ms}}}'] * 100)
    Drainer(buffer, store, SETTINGS, Limits()).drain_until_empty()
    assert ledger.flush(buffer, store, settled_ms=0) == 1
    assert _audit(buffer, store).chunks == 1
    migrate(store, settings, raw_hours=24)
    store.command("OPTIMIZE TABLE metrics FINAL")
    assert store.rows("SELECT count() FROM metrics") == [(0,)]
    report = _audit(buffer, store, full=True)
    assert (report.ok, report.chunks) == (True, 0)


def test_counters_that_do_not_add_up_are_unaccounted(drained: Buffer, store: Store) -> None:
    """A counter that lost an item shows at once."""
    drained.client.hincrby(drained.keys.ledger, "sealed", 1)
    report = _audit(drained, store)
    assert (report.ok, report.books.unaccounted) == (False, 1)


def test_rows_on_their_way_do_not_disturb(buffer: Buffer, store: Store) -> None:
    """Sealed and not acknowledged, stored in part or not at all: in flight, and nothing is wrong."""
    _drain(buffer, store)
    buffer.client.lpush(buffer.key, *plain_items(150, 2))
    buffer.seal(100)
    chunk = buffer.claim()
    assert chunk is not None
    report = _audit(buffer, store)
    assert report.ok
    assert report.books.in_flight == 150


@pytest.mark.parametrize("missing", [0, 1])
def test_records_that_reach_the_table_during_an_audit_are_checked(
    buffer: Buffer, store: Store, missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newer chunks come to the ledger table between two statements: no false alarm, and none is left out."""
    _drain(buffer, store)
    assert ledger.flush(buffer, store, settled_ms=0) == ROWS // 100
    later_ms = time.time_ns() // 1_000_000 + 60_000
    for number in range(150):
        item = {"timestamp": later_ms + number, "metric_type": "duration", "value": 1, "test_id": str(number)}
        buffer.client.lpush(buffer.key, json.dumps(item))
    Drainer(buffer, store, SETTINGS, Limits()).drain_until_empty()
    if missing:
        _change(store, "ALTER TABLE metrics DELETE WHERE test_id = '149'")
    asked, flushed = store.rows, []

    def flushing(sql: str, parameters: Any = None) -> Any:
        found = asked(sql, parameters)
        if "max_timestamp" in sql and not flushed:
            flushed.append(ledger.flush(buffer, store, settled_ms=0))
        return found

    monkeypatch.setattr(store, "rows", flushing)
    report = _audit(buffer, store, full=True)
    assert flushed == [2]
    assert (report.ok, report.missing) == (not missing, missing), report.findings


def test_flushed_twice_is_there_once(buffer: Buffer, store: Store) -> None:
    """A crash between the insert into the ledger table and the removal from Redis: the audit still balances."""
    _drain(buffer, store)
    records = buffer.client.lrange(buffer.keys.acked, 0, -1)
    assert ledger.flush(buffer, store, settled_ms=0) == len(records)
    buffer.client.rpush(buffer.keys.acked, *records)
    assert _audit(buffer, store).ok
    assert ledger.flush(buffer, store, settled_ms=0) == len(records)
    assert store.rows("SELECT count() FROM ledger") == [(len(records),)]
    assert _audit(buffer, store, full=True).ok
