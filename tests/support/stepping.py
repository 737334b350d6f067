"""Threads that go one step at a time, so that a test decides who does what in which order.

A ``Work`` runs a body in a thread of its own and stops before everything the body asks of a neighbour
(each place where it calls ``ask``) until it is told how that ends. One thread runs at any moment.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 60


class Killed(BaseException):
    """The end of a thread whose process died: nothing it asks for is done any more."""


@dataclass(frozen=True)
class Fate:
    """How a request ends; ``share`` is there for outcomes of which there are several."""

    name: str = "done"
    share: int = 0


DONE = Fate()
_local = threading.local()


class Work:
    """A body in a thread of its own, stopped before its first request when this returns."""

    def __init__(self, body: Callable[[], None]) -> None:
        self.next = ""
        """What it is about to ask for; empty when it has ended."""
        self.notes: dict[str, Any] = {}
        """What the test wants to know about it."""
        self._fate = DONE
        self._dead = False
        self._failure: BaseException | None = None
        self._go, self._halted = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(body,), daemon=True)
        self._thread.start()
        self._wait()

    def step(self, fate: Fate = DONE) -> None:
        """Let the request end so, and go on to the next; raises what the body failed with."""
        assert self.next, "it has ended"
        self._fate = fate
        self._go.release()
        self._wait()

    def kill(self) -> None:
        """Its process dies here."""
        if self.next:
            self._dead = True
            self._go.release()
            self._thread.join(PATIENCE_S)

    def _wait(self) -> None:
        assert self._halted.acquire(timeout=PATIENCE_S), "it neither ends nor asks for anything"
        if not self.next:
            self._thread.join(PATIENCE_S)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _run(self, body: Callable[[], None]) -> None:
        _local.work = self
        try:
            body()
        except Killed:
            pass
        except BaseException as error:  # raised again in the thread of the test
            self._failure = error
        finally:
            self.next = ""
            self._halted.release()

    def _ask(self, name: str) -> Fate:
        if not self._dead:
            self.next = name
            self._halted.release()
            self._go.acquire()
        if self._dead:
            raise Killed
        return self._fate


def current() -> Work | None:
    """The work whose thread this is."""
    return getattr(_local, "work", None)


def ask(name: str) -> Fate:
    """Stop before a request until its fate is decided; outside of a ``Work`` everything is done at once."""
    work = current()
    return DONE if work is None else work._ask(name)
