"""What the processes do that the kill tests kill: drain, and look whether everything is where it belongs."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drain_parts import Whereabouts, assert_books_agree, buffer_on, drainer_on, good, make_tables

from pipeline.base import config, failpoints
from pipeline.decode.columns import decode_chunk
from pipeline.deliver import ledger
from pipeline.deliver.spill import Spill
from pipeline.metric import Limits
from pipeline.operate.audit import audit_delivery
from pipeline.store.client import Store

# Once, before any child is forked: the first chunk of a process costs half a second of imports.
decode_chunk([good(number) for number in range(100)], np.arange(100), time.time_ns() // 1_000_000, Limits())

NO_TOKENS = [
    f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 0"
    for table in ("metrics", "dead_letters")
]
"""For ``set_up``: without ClickHouse's own help against inserts that come twice."""

USUAL = {"lease_s": 60, "durable_seal": True, "flush_interval_s": 0.02}


def drain(
    redis_url: str,
    dsn: str,
    database: str,
    *,
    aof_dir: Path | None = None,
    failpoint: str = "",
    until_empty: bool = False,
    spill_dir: Path | None = None,
    flush: bool = False,
    fsync_log: Path | None = None,
    **settings: Any,
) -> None:
    """Drain until killed or, with ``until_empty``, until nothing is left.

    With ``spill_dir`` everything takes the way through files; with ``flush`` the ledger's records are moved at the end.
    ``fsync_log`` gets a line for every fsync of an append-only file: so many bytes of it are on disk for certain.
    """
    if fsync_log:
        os.fsync = _noting(os.fsync, fsync_log)
    os.environ[failpoints.VARIABLE] = failpoint
    failpoints.reset()
    buffer = buffer_on(redis_url, aof_dir=aof_dir)
    with _open(dsn, database) as store:
        drainer = drainer_on(buffer, store, **(USUAL | settings))
        spill = Spill(spill_dir, buffer, store, drainer.settings, drainer.limits) if spill_dir else None
        if spill:
            buffer.release_orphans()
            while spill.spill_one():
                pass
        drainer.run(until_empty=until_empty)
        while spill and spill.drain_one():
            pass
        if flush:
            ledger.flush(buffer, store, settled_ms=0)


def set_up(dsn: str, database: str, statements: Sequence[str] = ()) -> None:
    """Make the drain's tables, and run what else is to be run."""
    with _open(dsn, database) as store:
        make_tables(store, _settings(dsn, database))
        for statement in statements:
            store.command(statement)


def verify(redis_url: str, dsn: str, database: str, good: Sequence[int], bad: Sequence[bytes]) -> None:
    """Every item once where it belongs, books, digests and audit agreeing, before and after the ledger is flushed."""
    buffer = buffer_on(redis_url)
    with _open(dsn, database) as store:
        Whereabouts(store).assert_each_once(good, bad)
        assert_books_agree(buffer, store)
        books = buffer.books()
        assert (books.sealed, books.spilled) == (len(good) + len(bad), 0), books
        ledger.flush(buffer, store, settled_ms=0)
        report = audit_delivery(store, [buffer], full=True, now_ms=time.time_ns() // 1_000_000)
        assert report.ok, report
        assert store.rows("SELECT count(), sum(stored), sum(dead_lettered) FROM ledger") == [
            (report.chunks, books.stored, books.dead_lettered)
        ]


def _noting(fsync: Callable[[int], None], log: Path) -> Callable[[int], None]:
    file = log.open("a")

    def noted(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size  # what is written after this may or may not be covered
        fsync(descriptor)
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".aof":
            file.write(f"{size}\n")
            file.flush()

    return noted


def _open(dsn: str, database: str) -> Store:
    return Store.open(_settings(dsn, database))


def _settings(dsn: str, database: str) -> config.Settings:
    return config.Settings(clickhouse=config.ClickHouseSettings(dsn=dsn, database=database, request_timeout_s=20))
