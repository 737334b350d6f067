"""Timing a block or a function: how long it took and how it ended, pushed as one metric.

Nothing here changes what the timed code does: its result and its exceptions pass through, and a metric that cannot be
pushed is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, cast

from pipeline.status_words import FAILED, INTERRUPTED, PASSED

Push = Callable[..., bool]
Function = TypeVar("Function", bound=Callable[..., Any])

_INTERRUPTIONS = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)


class Timing:
    """One block under way; as a decorator each call is a block of its own."""

    def __init__(self, push: Push, metric_type: str, fields: dict[str, Any]) -> None:
        self.fields = fields
        """Fields of the metric; what is added before the block ends goes along."""
        self._push = push
        self._metric_type = metric_type
        self._under_way: list[tuple[tuple[int, int], int]] = []

    def __enter__(self) -> Timing:
        self._under_way.append((_flow(), time.perf_counter_ns()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        took_ms = (time.perf_counter_ns() - self._taken_began_ns()) / 1e6
        fields = dict(self.fields)
        if kind is None:
            fields.setdefault("status", PASSED)
        elif issubclass(kind, _INTERRUPTIONS):
            fields["status"] = INTERRUPTED
        else:
            fields |= {"status": FAILED, "error_type": kind.__name__}
        # A field of another kind must not replace what the timed code raised or returned.
        with contextlib.suppress(Exception):
            self._push(self._metric_type, took_ms, **fields)

    async def __aenter__(self) -> Timing:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Function) -> Function:
        """The function, each call of which is timed. Raises ``TypeError`` for a generator, whose call does no work."""
        if not callable(function):
            raise TypeError(f"a {type(function).__name__} cannot be called: put it above what is timed")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator: time the block that consumes it")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def timed_async(*arguments: Any, **options: Any) -> Any:
                with self._again():
                    return await function(*arguments, **options)

            return cast(Function, timed_async)

        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            with self._again():
                return function(*arguments, **options)

        return cast(Function, timed)

    def _taken_began_ns(self) -> int:
        """When the ending block began: the last one of this thread and task, or the last of all for one that moved."""
        flow = _flow()
        began = list(self._under_way)
        found = next((one for one in reversed(began) if one[0] == flow), began[-1])
        with contextlib.suppress(ValueError):  # another thread took the one that moved
            self._under_way.remove(found)
        return found[1]

    def _again(self) -> Timing:
        return Timing(self._push, self._metric_type, dict(self.fields))


def _flow() -> tuple[int, int]:
    """What runs one block after the other: a thread, or a task in it."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        task = None
    return threading.get_ident(), id(task)
