"""The newest status of the pipeline, shared by all requests: the page, ``/metrics``, ``/readyz``.

One thread looks every few seconds, so that a thousand visitors cost no more than one, and a request
is answered at once with figures that say how old they are. The last hour is kept, a point for each look.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.base import log
from pipeline.base.errors import PipelineError
from pipeline.operate.doctor import examine
from pipeline.operate.status import gather
from pipeline.store.client import Store
from pipeline.web.parts import Parts

_log = log.get(__name__)

LOOK_S = 2.0
STALE_S = 30.0
"""Figures older than this are not taken for the present."""

EXAMINE_S = 60.0
HISTORY_S = 3600.0
CLOSE_S = 2.0


@dataclass(frozen=True)
class PipelineLook:
    """One status check; ``at_s`` is of the monotonic clock, ``at_ms`` of the wall's."""

    at_s: float
    at_ms: int
    status: dict[str, Any]
    stored_per_s: float | None = None
    alerts: dict[str, int] = field(default_factory=dict)
    dead_letters: dict[str, int] = field(default_factory=dict)
    redis_trouble: str = ""
    clickhouse_trouble: str = ""
    job_lag_s: float = 0.0


NOTHING_YET = PipelineLook(float("-inf"), 0, {}, redis_trouble="not asked yet", clickhouse_trouble="not asked yet")


class Pulse:
    """Looks until ``close``."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.newest = NOTHING_YET
        self.history: deque[PipelineLook] = deque(maxlen=int(HISTORY_S / LOOK_S))
        self.findings: list[dict[str, Any]] = []
        """What ``doctor`` finds wrong, with its fix; looked for now and then."""
        self._examined_s = float("-inf")
        self._stop = threading.Event()
        self._looking = threading.Lock()
        self._store: Store | None = None
        self._thread = threading.Thread(target=self._run, name="web-pulse", daemon=True)
        self._listeners: list[Callable[[PipelineLook], object]] = []

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End; a look that hangs is left behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        if not self._thread.is_alive() and self._store is not None:
            self._store.close()

    def listen(self, told: Callable[[PipelineLook], object]) -> Callable[[], None]:
        """Call ``told`` with every new look; returns how to end that."""
        self._listeners.append(told)
        return lambda: self._listeners.remove(told)

    def age_s(self) -> float:
        """How old the newest look is."""
        return time.monotonic() - self.newest.at_s

    def look(self) -> PipelineLook:
        """Look now; one look at a time, so that each is complete when it is told."""
        with self._looking:
            look = self._look()
            self.history.append(look)
            self.newest = look
        for told in list(self._listeners):
            told(look)
        return look

    def _look(self) -> PipelineLook:
        store, store_trouble = self._reader()
        status = gather(self._parts.settings, self._parts.link, self._parts.buffers, store).as_dict()
        if store_trouble:
            status["trouble"] = [*status["trouble"], store_trouble]
        clickhouse_trouble, alerts, letters = store_trouble, {}, {}
        if store is not None:
            try:
                alerts = dict(store.rows("SELECT to_state, count() FROM alerts_now GROUP BY to_state"))
                letters = dict(store.rows("SELECT reason, count() FROM dead_letters_open GROUP BY reason"))
            except PipelineError as error:
                clickhouse_trouble = str(error)
        redis_trouble = next((text for text in status["trouble"] if text.startswith("Redis")), "")
        look = PipelineLook(
            time.monotonic(),
            time.time_ns() // 1_000_000,
            status,
            self._rate(status.get("stored")),
            {state: int(count) for state, count in alerts.items()},
            {reason: int(count) for reason, count in letters.items()},
            redis_trouble,
            clickhouse_trouble,
            max([0.0, *(job["began_s_ago"] - job["interval_s"] for job in self._parts.jobs().values())]),
        )
        self._examine(store)
        return look

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception:
                _log.exception("status check failed")
            self._stop.wait(LOOK_S)

    def _examine(self, store: Store | None) -> None:
        if time.monotonic() - self._examined_s < EXAMINE_S:
            return
        self._examined_s = time.monotonic()
        found = examine(self._parts.settings, self._parts.link, store)
        self.findings = [asdict(finding) for finding in found if finding.severity != "ok"]

    def _reader(self) -> tuple[Store | None, str]:
        if self._store is None:
            try:
                self._store = self._parts.store()
            except PipelineError as error:
                return None, str(error)
        return self._store, ""

    def _rate(self, stored: int | None) -> float | None:
        """Rows stored a second, over the last few looks."""
        if stored is None:
            return None
        before = next((look for look in reversed(self.history) if time.monotonic() - look.at_s >= 2 * LOOK_S), None)
        if before is None or before.status.get("stored") is None:
            return None
        rows = stored - int(before.status["stored"])
        return max(0.0, rows / (time.monotonic() - before.at_s))
