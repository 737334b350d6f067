"""Blocking work for an event loop, on a fixed number of daemon threads.

A thousand requests that wait cost no thread: only as many as there are workers run, the others wait
in the loop. Threads are daemons, so that work that hangs does not hold up the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class Workers:
    """``count`` threads, started when first needed."""

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self._name = name
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._slots = asyncio.Semaphore(count)

    async def run(self, work: Callable[[], Result], patience_s: float) -> Result:
        """The result of ``work``, done on one of the threads. Raises ``TimeoutError`` when all stay busy so long."""
        async with asyncio.timeout(patience_s):
            await self._slots.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()

        def task() -> None:
            outcome: tuple[Callable[..., None], Any]
            try:
                outcome = (done.set_result, work())
            except BaseException as error:
                outcome = (done.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop has ended: no request waits any more
                loop.call_soon_threadsafe(self._finish, done, *outcome)

        if len(self._threads) < self.count:
            self._threads.append(
                threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            )
            self._threads[-1].start()
        self._tasks.put(task)
        return await done

    def close(self) -> None:
        """Threads end when they are through with what they have."""
        for _ in self._threads:
            self._tasks.put(None)

    def _finish(self, done: asyncio.Future[Any], settle: Callable[..., None], outcome: Any) -> None:
        self._slots.release()
        if not done.cancelled():
            settle(outcome)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
