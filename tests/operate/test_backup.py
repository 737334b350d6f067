"""A backup of both stores, taken as config/README.md says, is restored after everything was lost."""

import shutil
import time
from pathlib import Path

import pytest
import redis
from conftest import redis_executables, running_redis

from pipeline.base.config import DrainerSettings, Settings
from pipeline.bench.drain import plain_items
from pipeline.buffer.buffer import Buffer
from pipeline.deliver.drainer import Drainer
from pipeline.metric import Limits
from pipeline.operate.audit import AuditReport, audit
from pipeline.store.client import Store
from pipeline.store.migrate import migrate

SETTINGS = DrainerSettings(batch_rows=100, durable_seal=False)
STORED, WAITING, LATER = 400, 100, 50


def _audited(buffer: Buffer, store: Store) -> AuditReport:
    return audit(store, [buffer], full=True, now_ms=time.time_ns() // 1_000_000)


def _push(buffer: Buffer, first: int, rows: int) -> None:
    buffer.client.lpush(buffer.key, *plain_items(first + rows, 1)[first:])


@pytest.mark.parametrize("version", sorted(redis_executables()))
def test_both_stores_are_restored(version: str, store: Store, settings: Settings, tmp_path: Path) -> None:
    """ClickHouse's own BACKUP and RESTORE, Redis' file: the books balance, and what waited is delivered once."""
    executable = redis_executables()[version]
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with running_redis(executable, here) as url, redis.Redis.from_url(url) as client:
        buffer = Buffer(client)
        _push(buffer, 0, STORED)
        Drainer(buffer, store, SETTINGS, Limits()).drain_until_empty()
        _push(buffer, STORED, WAITING)  # producers go on while the services stand still
        store.command(f"BACKUP DATABASE {store.database} TO Memory('backup')")
        client.save()
        shutil.copy(here / "dump.rdb", there)
        _push(buffer, STORED + WAITING, LATER)  # gone with what came after the backup
        Drainer(buffer, store, SETTINGS, Limits()).drain_until_empty()
    store.command(f"DROP DATABASE {store.database} SYNC")
    store.command(f"RESTORE DATABASE {store.database} FROM Memory('backup')")
    assert migrate(store, settings) == []
    with running_redis(executable, there) as url, redis.Redis.from_url(url) as client:
        buffer = Buffer(client)
        restored = _audited(buffer, store)
        assert (restored.ok, restored.findings) == (True, [])
        assert buffer.client.llen(buffer.key) == WAITING
        Drainer(buffer, store, SETTINGS, Limits()).drain_until_empty()
        assert store.rows("SELECT count(), uniqExact(segment, position) FROM metrics") == [
            (STORED + WAITING, STORED + WAITING)
        ]
        assert _audited(buffer, store).ok
        assert buffer.books().unaccounted == 0
