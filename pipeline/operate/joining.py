"""How ClickHouse joins a service that is already at work.

Sealing, spilling, heartbeats and ``status`` need only Redis, so they do not wait for ClickHouse. Everything
else holds a handle that is closed by this gate until ClickHouse answers and its schema is the one that this
version expects. Until then every request is refused with the reason, as an outage, which all callers retry.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable

from pipeline.base import log
from pipeline.base.backoff import Backoff
from pipeline.base.errors import Outage, PipelineError, StoreOutage
from pipeline.store.client import Store

_log = log.get(__name__)

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 5.0


class ClickHouseGate:
    """Closed until ``admit`` has succeeded once.

    ``admit`` connects, checks the schema and returns a handle; ``greet`` is given it once the gate is open.
    """

    def __init__(self, admit: Callable[[], Store], greet: Callable[[Store], None]) -> None:
        self._admit = admit
        self._greet = greet
        self._open = threading.Event()
        self.trouble = ""

    def __call__(self) -> None:
        """Raise ``StoreOutage`` while the gate is closed."""
        if not self._open.is_set():
            raise StoreOutage(self.trouble or "ClickHouse has not answered yet")

    def try_now(self) -> bool:
        """Ask once; whether the gate is open. Raises what waiting would not mend."""
        try:
            store = self._admit()
        except Outage as outage:
            self.trouble = str(outage)
            return False
        self.trouble = ""
        self._open.set()
        _log.info("clickhouse connected")
        with store, contextlib.suppress(Outage):
            self._greet(store)
        return True

    def run(self, stop: threading.Event) -> None:
        """Ask with growing pauses until the gate is open or ``stop`` is set. A wrong schema is waited out, visibly."""
        backoff = Backoff(FIRST_PAUSE_S, MAX_PAUSE_S)
        for failures in itertools.count(1):
            if self._open.is_set() or stop.is_set():
                return
            said = self.trouble
            try:
                if self.try_now():
                    return
            except PipelineError as error:
                self.trouble = str(error)
            if self.trouble != said:
                _log.warning("waiting for clickhouse", trouble=self.trouble)
            stop.wait(backoff.pause_s(failures))
