"""A drainer in a process of its own, quick to start: what the kill tests kill."""

from pathlib import Path

import redis

from pipeline import config
from pipeline.ingest.buffer import Buffer
from pipeline.ingest.drainer import Drainer
from pipeline.ingest.metric import Limits
from pipeline.store.clickhouse import Store


def drain_for_ever(redis_url: str, clickhouse_url: str, database: str, aof_dir: str) -> None:
    """Drain until killed."""
    settings = config.Settings(clickhouse=config.ClickHouseSettings(dsn=clickhouse_url, database=database))
    drainer = config.DrainerSettings(batch_rows=150, flush_interval_s=0.02, max_retry_pause_s=0.2)
    buffer = Buffer(redis.Redis.from_url(redis_url, retry=None), aof_dir=Path(aof_dir))
    Drainer(buffer, Store.open(settings), drainer, Limits.of(settings)).run()
