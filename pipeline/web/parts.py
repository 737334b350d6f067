"""What the site needs of the service, and nothing more: where things are, and how they fare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pipeline.base.config import Settings
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.buffer import Buffer
from pipeline.metric import Limits
from pipeline.store.client import Store


class DrainerActivity(Protocol):
    """What a drainer tells of itself."""

    stored: int
    chunks: int
    fenced: int
    retries: int


@dataclass
class Parts:
    """Handed over by the code that builds the service."""

    settings: Settings
    link: RedisLink
    buffers: Sequence[Buffer]
    store: Callable[[], Store]
    """A new handle for the site's own queries; ClickHouse may not be connected yet."""
    reader: Callable[[], Store]
    """A new handle with an analyst's rights."""
    drainers: Mapping[str, DrainerActivity] = field(default_factory=dict)
    """By buffer."""
    loops: Callable[[], Mapping[str, float]] = dict
    """Seconds since each loop turned."""
    jobs: Callable[[], Mapping[str, Mapping[str, Any]]] = dict
    """Runs, failures, missed, last_took_s, began_s_ago, interval_s and trouble of each job."""
    beacons: bool = False
    """Whether the page reports its own vitals; only where they disturb no real ones."""
    raw_hours: Callable[[], int] | None = None
    """Items of so many hours are accepted now. Without it, those of ``retention.raw_hours``."""

    def limits(self) -> Limits:
        """What is accepted now."""
        limits = Limits.of(self.settings)
        return replace(limits, retention_ms=self.raw_hours() * 3_600_000) if self.raw_hours else limits
