"""The life of the service's threads: none is left behind by a drainer that stops, none holds a stop up."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.base.errors import SchemaMismatch
from pipeline.operate import service as service_
from pipeline.operate.liveness import Heartbeat
from pipeline.operate.schedule import Schedule
from pipeline.operate.service import Service

PATIENCE_S = 60.0


class Drainer:
    """Stands in for our own: ``work`` is what its ``run`` does, given the event that stops it."""

    def __init__(self, key: str, work: Callable[[threading.Event], None]) -> None:
        self.buffer = SimpleNamespace(key=key)
        self.activity = SimpleNamespace(trouble="", heartbeat_s=1.0, stored=0, fenced=0, retries=0)
        self.work = work
        self.runs = 0

    def run(self, stop: threading.Event) -> None:
        self.runs += 1
        try:
            self.work(stop)
        finally:
            stop.set()  # as the real one does when it ends


def service_of(directory: Path, *drainers: Drainer) -> tuple[Service, list[str]]:
    """A service with these drainers and nothing else, and what was closed of it."""
    closed: list[str] = []
    nothing: Any = SimpleNamespace(
        start=lambda: None,
        close=lambda **_: closed.append("closed"),
        say=lambda *_: None,
        leave=lambda _: closed.append("left"),
        figures=dict,
    )
    made = Service(
        nothing, nothing, nothing, nothing, [], list(drainers), [], [], Schedule([], None), nothing, nothing,
        Heartbeat(directory, "run"), SimpleNamespace(run=lambda _: None, trouble=""),
    )  # type: ignore[arg-type]  # fmt: skip
    return made, closed


def wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.005)


def test_a_drainer_that_stops_again_and_again_leaves_no_thread_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty stops by a schema that does not fit: as many threads as before, and another drainer is not disturbed."""
    monkeypatch.setattr(service_, "SCHEMA_PAUSE_S", 0.001)

    def refuse(_stop: threading.Event) -> None:
        raise SchemaMismatch("most rows are refused")

    stops, goes_on = Drainer("stops", refuse), Drainer("goes on", lambda stop: stop.wait(PATIENCE_S) and None)
    service, _ = service_of(tmp_path, stops, goes_on)
    service.start()
    wait_until(lambda: stops.runs >= 2)
    before = threading.active_count()
    wait_until(lambda: stops.runs >= 50)
    assert threading.active_count() <= before
    assert goes_on.runs == 1
    assert "most rows are refused" in service.trouble()
    service.stop(within_s=PATIENCE_S)
    assert threading.active_count() < before


def test_a_thread_that_hangs_does_not_hold_the_stop_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is left behind and named, and nothing is closed under it; without one everything is closed."""
    release = threading.Event()
    hangs = Drainer("hangs", lambda _stop: release.wait(PATIENCE_S) and None)
    service, closed = service_of(tmp_path, hangs)
    service.start()
    wait_until(lambda: hangs.runs == 1)
    service.stop(within_s=0.3)
    assert "closed" not in closed
    assert any("drain-hangs" in record.getMessage() for record in caplog.records)
    release.set()

    service, closed = service_of(tmp_path, Drainer("ends", lambda stop: stop.wait(PATIENCE_S) and None))
    service.start()
    service.stop(within_s=PATIENCE_S)
    assert closed.count("closed") == 3
    assert "left" in closed


def test_a_loop_that_has_not_begun_has_no_age(tmp_path: Path) -> None:
    """While the reader is compiled, a minute on a slow machine, the process does not count as stuck."""
    proceed = threading.Event()

    def prepare(_stop: threading.Event) -> None:
        proceed.wait(PATIENCE_S)
        drainer.activity.heartbeat_s = time.monotonic()
        _stop.wait(PATIENCE_S)

    drainer = Drainer("buffer", prepare)
    service, _ = service_of(tmp_path, drainer)
    service.start(scheduled=False)
    wait_until(lambda: drainer.runs == 1)
    assert service.heartbeat.ages() == {}
    proceed.set()
    wait_until(lambda: service.heartbeat.ages().keys() == {"drain buffer"})
    service.stop(within_s=PATIENCE_S)
