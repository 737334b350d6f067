"""What the processes do that the kill tests kill: drain, and look whether everything is where it belongs."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from drain_parts import Whereabouts, assert_books_agree, buffer_on, drainer_on, good, make_tables

from pipeline import config, failpoints
from pipeline.ingest import drainer as drainer_module
from pipeline.ingest.columns import decode_chunk
from pipeline.ingest.metric import Limits
from pipeline.store.clickhouse import Store

# Done once in the nursery: the first chunk makes pyarrow import pandas, where it is installed, for a second.
decode_chunk([good(1)] * 3, np.arange(3), time.time_ns() // 1_000_000, Limits())


def drain(
    redis_url: str,
    dsn: str,
    database: str,
    *,
    failpoint: str = "",
    until_empty: bool = False,
    batch_rows: int = 20,
    lease_s: float = 60,
    aof_dir: str | None = None,
    durable_seal: bool = True,
    dies_in_insert: int = 0,
    fsync_log: str | None = None,
) -> None:
    """Drain until killed, or until nothing is left.

    ``dies_in_insert`` = n kills the process at a random moment of its n-th insert. ``fsync_log`` gets a line with
    file and size for every finished fsync: so much of the file is on disk.
    """
    os.environ[failpoints.VARIABLE] = failpoint
    failpoints.reset()
    drainer_module.SETTLE_S = 0.01
    if fsync_log:
        os.fsync = _noting(os.fsync, fsync_log)  # type: ignore[assignment]
    buffer = buffer_on(redis_url, aof_dir=Path(aof_dir) if aof_dir else None)
    store: Any = open_store(dsn, database)
    if dies_in_insert:
        store = _Deadly(store, dies_in_insert)
    settings = {"batch_rows": batch_rows, "lease_s": lease_s, "durable_seal": durable_seal, "flush_interval_s": 0.02}
    drainer_on(buffer, store, **settings).run(until_empty=until_empty)


def set_up(dsn: str, database: str, statements: list[str] | None = None) -> None:
    """Make the drain's tables, and run what else is to be run."""
    with open_store(dsn, database) as store:
        make_tables(store, settings_of(dsn, database))
        for statement in statements or []:
            store.command(statement)


def verify(
    redis_url: str, dsn: str, database: str, good: list[int], bad: list[str], maybe: list[int] | None = None
) -> None:
    """Every item once where it belongs, the books and digests agreeing; ``maybe`` may be missing."""
    with open_store(dsn, database) as store:
        found = Whereabouts(store)
        left_out = set(maybe or []) - found.stored.keys()
        found.assert_each_once((set(good) | set(maybe or [])) - left_out, [item.encode() for item in bad])
        assert_books_agree(buffer_on(redis_url), store)


def settings_of(dsn: str, database: str) -> config.Settings:
    return config.Settings(clickhouse=config.ClickHouseSettings(dsn=dsn, database=database, request_timeout_s=20))


def open_store(dsn: str, database: str) -> Store:
    """The store, as soon as it answers."""
    return Store.open(settings_of(dsn, database))


class _Deadly:
    """A store whose n-th insert the process does not survive."""

    def __init__(self, store: Store, nth: int) -> None:
        self._store = store
        self._left = nth
        self._usual_s = 0.02

    def insert(self, *arguments: Any, **options: Any) -> None:
        self._left -= 1
        if not self._left:
            threading.Thread(target=self._die_during, daemon=True).start()
        started = time.perf_counter()
        self._store.insert(*arguments, **options)
        self._usual_s = time.perf_counter() - started

    def _die_during(self) -> None:
        time.sleep(random.SystemRandom().uniform(0, 1.2 * self._usual_s))
        os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _noting(fsync: Callable[[int], None], log: str) -> Callable[[int], None]:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def noted(file: int) -> None:
        size = os.fstat(file).st_size  # what is written after this may or may not be covered
        fsync(file)
        os.write(descriptor, json.dumps([str(Path(f"/proc/self/fd/{file}").readlink()), size]).encode() + b"\n")

    return noted
