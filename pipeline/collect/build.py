"""Builds the collector of a deployment from its settings."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.base.config import Settings
from pipeline.base.errors import ConfigError
from pipeline.base.keys import BufferKeys
from pipeline.base.nearest import nearest
from pipeline.base.redis_link import RedisLink
from pipeline.collect.catalogue import Catalogue, catalogue
from pipeline.collect.channels import ChannelCounter
from pipeline.collect.collector import Collector, KnownExecutions
from pipeline.collect.redis_health import RedisHealth

if TYPE_CHECKING:
    from pipeline.store.client import Store

_KNOWN = """
SELECT DISTINCT tags['execution_id'] FROM metrics
WHERE timestamp >= fromUnixTimestamp64Milli({oldest_ms:Int64}, 'UTC')
  AND tags['execution_id'] IN {ids:Array(String)}
"""


def build_collector(
    settings: Settings, link: RedisLink, store: Store, stopping: threading.Event | None = None
) -> Collector | None:
    """The collector, or None when ``collect.enabled`` is off. Raises ``ConfigError`` for what cannot be meant."""
    entries = checked_catalogue(settings)
    if not settings.collect.enabled:
        return None
    channels = [entry for entry in entries.channels() if entry.name not in settings.collect.skip]
    return Collector(
        link.database,
        settings.redis.databases.model_dump(),
        BufferKeys(settings.buffer.keys[0]),
        entries,
        settings.collect.interval_s,
        settings.collect.skip,
        known_executions(store) if settings.collect.executions == "missing" else None,
        ChannelCounter(lambda: link.database("notifications"), channels, stopping),
        stopping,
        RedisHealth(link.database("metrics")).look,
    )


def checked_catalogue(settings: Settings) -> Catalogue:
    """The document's entries and the deployment's own. Raises ``ConfigError`` for what cannot be meant."""
    entries = catalogue(settings.collect.keys)
    names = [entry.name for entry in entries.entries]
    for name in settings.collect.skip:
        if name not in names:
            raise ConfigError(
                f"setting 'collect.skip' names {name!r}, which is not in the catalogue; {nearest(name, names)}"
            )
    return entries


def known_executions(store: Store) -> KnownExecutions:
    """Asks ClickHouse which executions it has."""

    def ask(ids: Sequence[str], oldest_ms: int) -> set[str]:
        return {str(one) for (one,) in store.rows(_KNOWN, {"ids": list(ids), "oldest_ms": oldest_ms})}

    return ask
