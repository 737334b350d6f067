"""Requests to ClickHouse that are cut off when their time is over."""

import multiprocessing
import threading
import time
from typing import Any

from pipeline.store.answers import _watchdog


class Asked:
    """A request under way."""

    def __init__(self) -> None:
        self.is_cut = threading.Event()

    def cut(self) -> None:
        self.is_cut.set()


def _in_a_child(parents: Asked, told: Any) -> None:
    _watchdog._ends_s.update(dict.fromkeys(_watchdog._ends_s, 0.0))  # an hour later
    own = Asked()
    _watchdog.watch(own, 0.0)  # type: ignore[arg-type]
    told.put((own.is_cut.wait(60), parents.is_cut.is_set()))


def test_a_forked_child_cuts_off_its_own_requests_and_none_of_its_parent() -> None:
    """They share a socket: what the child shuts down ends for its parent too."""
    parents = Asked()
    _watchdog.watch(parents, time.monotonic() + 3600)  # type: ignore[arg-type]
    try:
        fork = multiprocessing.get_context("fork")
        told = fork.Queue()
        child = fork.Process(target=_in_a_child, args=(parents, told))
        child.start()
        own_is_cut, parents_is_cut = told.get(timeout=120)
        child.join()
    finally:
        _watchdog.forget(parents)  # type: ignore[arg-type]
    assert own_is_cut and not parents_is_cut
