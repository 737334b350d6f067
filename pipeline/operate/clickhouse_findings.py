"""What the doctor looks at in ClickHouse: version, clock, rights, schema, settings, parts, retention, and a row."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import pyarrow as pa

from pipeline.base import resources
from pipeline.base.config import Settings
from pipeline.base.errors import ConfigError, MigrationError, Outage, StoreRefused
from pipeline.base.redis_link import RedisLink
from pipeline.jobs.retention import retention_hours
from pipeline.operate import clickhouse_rights
from pipeline.operate.findings import Finding, clock_finding, version_of
from pipeline.store.client import Store, engine_path
from pipeline.store.migrate import (
    DEDUP_WINDOW_S,
    PLAIN_DEDUP_WINDOW_BLOCKS,
    RAW_TTL_MARGIN_HOURS,
    check,
    dedup_window_blocks,
    engine_of,
    kept_hours,
)
from pipeline.store.schema import differences

MIN_CLICKHOUSE = (24, 8)
MAX_PARTS = 1_000
"""Parts in one partition from which on ClickHouse slows inserts down; at three times as many it refuses them."""

SHOWN_DIFFERENCES = 5
RIGHTS = "give the user of clickhouse.dsn the rights and the profile that config/clickhouse/users.d has for it"

_UNKNOWN_DATABASE = 81


def clickhouse_findings(settings: Settings, store: Store) -> Iterator[Finding]:
    """Version, clock and schema of ClickHouse; as a writer also its settings, and a row written and read back."""
    before_s = time.time()
    try:
        text, now_ms = store.rows("SELECT version(), toUnixTimestamp64Milli(now64(3))")[0]
    except StoreRefused as refused:
        if refused.code != _UNKNOWN_DATABASE:
            raise
        yield _no_schema(store, f"there is no database {store.database!r} yet")
        return
    if version_of(text) < MIN_CLICKHOUSE:
        oldest = ".".join(map(str, MIN_CLICKHOUSE))
        yield Finding("clickhouse version", "warn", text, f"install {oldest} or later: nothing older was tried")
    else:
        yield Finding("clickhouse version", "ok", text)
    yield clock_finding("clickhouse clock", now_ms / 1000, before_s)
    if store.role == "writer" and not store.is_embedded:
        yield from clickhouse_rights_findings(store)
    try:
        check(store)
    except ConfigError as missing:
        yield _no_schema(store, str(missing).partition(": run")[0])
        return
    except MigrationError as changed:
        yield Finding("schema", "bad", str(changed), "run the version of the pipeline that the database belongs to")
        return
    wrong = differences(store)
    if wrong:
        detail = "; ".join(one.text for one in wrong[:SHOWN_DIFFERENCES])
        more = f"; and {len(wrong) - SHOWN_DIFFERENCES} more" if len(wrong) > SHOWN_DIFFERENCES else ""
        yield Finding("schema", "bad", detail + more, "; ".join(dict.fromkeys(one.fix for one in wrong)))
        return
    yield Finding("schema", "ok", f"migration {store.rows('SELECT max(version) FROM schema_migrations')[0][0]}")
    yield _deduplication(settings, store)
    yield _runs(store)
    yield _parts(store)
    if store.role == "writer":
        yield _insert_settings(store)
        yield _canary(store)


def clickhouse_rights_findings(store: Store) -> Iterator[Finding]:
    """What the user of clickhouse.dsn may do as the service, and whether it could migrate, which a service need not."""
    lacking = clickhouse_rights.missing_rights(store, clickhouse_rights.service_needs(store))
    if lacking is None:
        yield Finding("clickhouse rights", "ok", "this version cannot be asked (CHECK GRANT); the canary insert tells")
        return
    if lacking:
        yield Finding(
            "clickhouse rights", "bad", f"the user of clickhouse.dsn lacks {clickhouse_rights.in_short(lacking)}",
            f"{RIGHTS}: there, pipeline_writer is for the service",
        )  # fmt: skip
    else:
        yield Finding("clickhouse rights", "ok", "the user may do all that the service needs")
    lacking = clickhouse_rights.missing_rights(store, clickhouse_rights.migration_needs(store))
    if lacking:
        short = clickhouse_rights.in_short(lacking)
        detail = f"not with this user, as it should be for a service: it lacks {short}"
    else:
        detail = "this user may, which is more than a service needs"
    yield Finding("clickhouse rights to migrate", "ok", detail)


def _no_schema(store: Store, detail: str) -> Finding:
    if store.is_embedded:
        return Finding("schema", "warn", detail, "start 'pipeline run', which makes it, or run 'pipeline migrate'")
    return Finding("schema", "bad", detail, "run 'pipeline migrate'")


def _deduplication(settings: Settings, store: Store) -> Finding:
    """An insert that arrives late, after its chunk was taken over, is told by its token, if the table remembers it."""
    wanted = {
        # Replicated tables remember 10,000 blocks unless told otherwise, others none.
        "non_replicated_deduplication_window": (0, PLAIN_DEDUP_WINDOW_BLOCKS),
        "replicated_deduplication_window": (10_000, dedup_window_blocks(settings)),
        "replicated_deduplication_window_seconds": (3600, DEDUP_WINDOW_S),
    }
    forgetful: list[str] = []
    short: list[str] = []
    for table in ("metrics", "dead_letters"):
        engine = engine_of(store, table)
        local = f"{table}_local" if store.cluster else table
        for setting, (default, least) in wanted.items():
            if setting.startswith("non_") is not engine.startswith("MergeTree"):
                continue
            window = re.search(rf"\b{setting} = (\d+)", engine)
            blocks = int(window[1] if window else default)
            if blocks < least:
                change = f"ALTER TABLE {store.database}.{local} MODIFY SETTING {setting} = {least}"
                (short if blocks else forgetful).append(change)
    if forgetful:
        return Finding(
            "deduplication window", "bad", "an insert that arrives late is not recognised, and its rows are doubled",
            "; ".join(forgetful + short),
        )  # fmt: skip
    if short:
        return Finding(
            "deduplication window", "warn", "an insert that arrives hours late may not be recognised",
            "; ".join(short),
        )  # fmt: skip
    return Finding("deduplication window", "ok", "the tables remember the tokens of inserts")


def _parts(store: Store) -> Finding:
    parts = store.rows(
        "SELECT max(n) FROM (SELECT count() AS n FROM system.parts "
        "WHERE active AND database = currentDatabase() AND table LIKE 'metrics%' GROUP BY table, partition)"
    )[0][0]
    if parts > MAX_PARTS:
        return Finding(
            "parts", "warn", f"{parts:,} in one partition: merges do not keep up, and inserts are slowed down",
            "raise drainer.batch_rows or drainer.flush_interval_s, or give ClickHouse a faster disk",
        )  # fmt: skip
    return Finding("parts", "ok", f"{parts:,} in the fullest partition")


def _runs(store: Store) -> Finding:
    """A run whose jobs hold the same executions was fed in two ways, and counts them twice."""
    found = store.rows(resources.queries("sql/page.sql")["run_twins"].sql, {"run": ""})
    if not found:
        return Finding("runs", "ok", "none of the newest with several jobs was fed twice")
    run_id, job, other, tests = found[0]
    return Finding(
        "runs",
        "warn",
        f"{len(found)} pairs of jobs hold the same executions, so their runs count them twice: {job} and {other} of "
        f"{run_id} have {tests:,} in common",
        "feed a run in one way: by the plugin or the reporter, or by 'pipeline push' of its reports",
    )


def _insert_settings(store: Store) -> Finding:
    """What goes with our inserts must be in force: a profile may hold settings fast."""
    sent = {name: str(value) for name, value in store.insert_settings("canary").items()}
    clause = ", ".join(f"{name} = '{value}'" for name, value in sent.items())
    try:
        found = dict(
            store.rows(
                f"SELECT name, value FROM system.settings WHERE name IN {{names:Array(String)}} SETTINGS {clause}",
                {"names": list(sent)},
            )
        )
    except (StoreRefused, Outage) as refused:  # a user who may only read is told to come back later
        return Finding("insert settings", "bad", str(refused), RIGHTS)
    others = [
        f"{name} is {found.get(name, 'unknown')}, not {value}"
        for name, value in sent.items()
        if found.get(name) != value
    ]
    if others:
        return Finding("insert settings", "bad", "; ".join(others), RIGHTS)
    return Finding("insert settings", "ok", f"all {len(sent)} are taken as sent, async_insert = 0 among them")


def _canary(store: Store) -> Finding:
    """A row goes in and comes back: rights and disk in one."""
    name = f"canary-{time.time_ns():x}"
    row = pa.table({"segment": [name], "position": pa.array([0], pa.uint32()), "mark": ["canary"]})
    row = row.append_column("marked_at", pa.array([time.time_ns() // 1_000_000]).cast(pa.timestamp("ms", tz="UTC")))
    try:
        store.insert("dead_letter_marks", row, token=name)
        found = store.rows("SELECT count() FROM dead_letter_marks WHERE segment = {name:String}", {"name": name})[0][0]
    except StoreRefused as refused:
        return Finding("canary insert", "bad", str(refused), RIGHTS)
    except Outage as outage:
        return Finding(
            "canary insert", "bad", str(outage), "free what it says is short; until then everything stays in Redis"
        )
    if found != 1:
        return Finding(
            "canary insert", "bad", f"one row went in, {found} came back", "look for a proxy or a replica that lags"
        )
    return Finding("canary insert", "ok", "one row in, one row back")


def retention_finding(settings: Settings, link: RedisLink | None, store: Store) -> Finding:
    """Rows must be kept longer than items may be old, and what is accepted the platform may change in Redis."""
    accepted = settings.retention.raw_hours
    if link is not None:
        with contextlib.suppress(Outage):  # which is said elsewhere
            accepted = retention_hours(link, accepted)
    kept = kept_hours(store)
    if kept is None:
        return Finding("retention", "ok", f"items of the last {accepted:,} h are accepted, rows kept for ever")
    detail = f"items of the last {accepted:,} h are accepted, rows kept for {kept:,} h"
    if kept >= accepted + RAW_TTL_MARGIN_HOURS:
        return Finding("retention", "ok", detail)
    if engine_path(settings) is not None:
        return Finding("retention", "warn", detail, "start 'pipeline run' again: it adapts the tables")
    return Finding(
        "retention", "bad", f"{detail}: the oldest vanish",
        f"set retention.raw_hours to {accepted} and run 'pipeline migrate'",
    )  # fmt: skip
