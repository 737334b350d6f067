"""What a drainer did and what it waits for, for ``status``, health and logs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pipeline.base import log
from pipeline.base.measures import STAGE_SECONDS

_log = log.get(__name__)


@dataclass
class Stages:
    """Seconds and rows by stage, for ``bench`` and ``top``; written by one thread each."""

    rows: int = 0
    read_s: float = 0.0
    decode_s: float = 0.0
    write_s: float = 0.0
    ack_s: float = 0.0

    def took(self, stage: str, seconds: float) -> None:
        """Add to a stage, here and for ``/metrics``."""
        setattr(self, f"{stage}_s", getattr(self, f"{stage}_s") + seconds)
        STAGE_SECONDS.labels(stage).observe(seconds)


@dataclass
class Activity:
    """Counted since the start of the process."""

    stored: int = 0
    dead_lettered: int = 0
    chunks: int = 0
    fenced: int = 0
    retries: int = 0
    set_aside: int = 0
    trouble: str = ""
    heartbeat_s: float = field(default_factory=time.monotonic)
    stages: Stages = field(default_factory=Stages)

    def retrying(self, trouble: Exception | str, pause_s: float) -> None:
        """A neighbour is waited for: said once aloud, then quietly."""
        self.retries += 1
        first = not self.trouble
        self.trouble = str(trouble)
        self.heartbeat_s = time.monotonic()
        (_log.warning if first else _log.info)("retrying", trouble=self.trouble, pause_s=round(pause_s, 2))

    def recovered(self) -> None:
        """The neighbour answers again."""
        if self.trouble:
            _log.info("connection recovered", after=self.trouble)
            self.trouble = ""
