"""How a command asks the running service to do something: ``pipeline rollup`` beside ``pipeline run``.

The command puts a request into a list in Redis; the process that holds the schedule takes it, works, and
writes what it does to a hash of that request, which the command reads. Requests are safe to repeat, and a
request whose service died is not answered: the command says so and ends with exit code 1.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.base import log
from pipeline.base.errors import Outage, PipelineError, Stopped
from pipeline.base.redis_link import outages
from pipeline.base.typed_keys import typed
from pipeline.operate.fleet import RedisClock

_log = log.get(__name__)

LOOK_EVERY_S = 0.5
PATIENCE_S = 30.0
"""A command gives up when the service said nothing for this long."""

SIGN_EVERY_S = 5.0
"""A service that works on a request gives a sign this often."""

KEEP_ANSWER_S = 600
MAX_AGE_MS = 60_000
"""An older request is dropped: its command has given up."""

Advance = Callable[[int, int], None]
"""Called with (done, total)."""

Action = Callable[[dict[str, Any], Advance], dict[str, Any]]
"""Does what a request asks for; returns facts."""


@dataclass
class RequestDesk:
    """The service's side. ``is_ours`` says whether this process is to answer."""

    client: Any
    requests_key: str
    answer_key: Callable[[str], str]
    is_ours: Callable[[], bool]
    actions: dict[str, Action] = field(default_factory=dict)

    def run(self, stop: threading.Event) -> None:
        """Answer requests until ``stop`` is set."""
        while not stop.wait(LOOK_EVERY_S):
            try:
                while not stop.is_set() and self.is_ours() and self.answer_one():
                    pass
            except Outage:
                continue  # the drainer says so already

    def answer_one(self) -> bool:
        """Take one request and do it; False when there is none. Raises ``RedisOutage``."""
        with typed(self.client, {self.requests_key: "list"}):
            text = self.client.lpop(self.requests_key)
        if text is None:
            return False
        request = _parsed(text)
        if request is None or RedisClock(self.client).now_ms() - request["at"] > MAX_AGE_MS:
            _log.warning("request dropped", request=text[:200].decode("utf-8", "backslashreplace"))
            return True
        answer = _Answer(self.client, self.answer_key(request["id"]))
        answer.say(state="working")
        action = self.actions.get(request["what"])
        if action is None:
            answer.say(state="failed", text=f"this service does not know the request {request['what']!r}")
            return True
        _log.info("request received", what=request["what"], request=request["id"])
        with answer.signs():
            try:
                facts = action(request, answer.advance)
            except Stopped:
                answer.say(state="failed", text="the service was stopped; it goes on where it was when asked again")
            except Outage as outage:
                answer.say(state="failed", text=str(outage))
            except Exception as error:
                _log.exception("request failed", what=request["what"], request=request["id"])
                answer.say(state="failed", text=str(error))
            else:
                answer.say(state="done", text=json.dumps(facts, default=str))
        return True


@dataclass
class _Answer:
    client: Any
    key: str

    def say(self, **fields: Any) -> None:
        with outages():
            pipe = self.client.pipeline(transaction=False)
            if fields:
                pipe.hset(self.key, mapping=fields)
            pipe.hincrby(self.key, "signs", 1)
            pipe.expire(self.key, KEEP_ANSWER_S)
            pipe.execute()

    def advance(self, done: int, total: int) -> None:
        self.say(done=done, total=total)

    @contextlib.contextmanager
    def signs(self) -> Iterator[None]:
        """Give a sign of life now and then while the block works."""
        ended = threading.Event()

        def give() -> None:
            while not ended.wait(SIGN_EVERY_S):
                with contextlib.suppress(Outage):
                    self.say()

        thread = threading.Thread(target=give, name="request-signs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def ask(
    client: Any,
    requests_key: str,
    answer_key: Callable[[str], str],
    request: dict[str, Any],
    advance: Advance,
    *,
    patience_s: float | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """The command's side: the facts that the service answers.

    Raises ``PipelineError`` when the service failed, or gave no sign for ``patience_s``; the request is then
    taken back. Raises ``Stopped`` when ``stop`` is set; the service goes on with what it has begun.
    """
    stop = stop or threading.Event()
    patience_s = PATIENCE_S if patience_s is None else patience_s
    name = secrets.token_hex(8)
    text = json.dumps({**request, "id": name, "at": RedisClock(client).now_ms()})
    with typed(client, {requests_key: "list"}):
        client.rpush(requests_key, text)
        client.expire(requests_key, KEEP_ANSWER_S)
    signs_s, signs = time.monotonic(), b""
    while True:
        with outages():
            found: dict[bytes, bytes] = client.hgetall(answer_key(name))
        if found.get(b"signs", b"") != signs:
            signs_s, signs = time.monotonic(), found[b"signs"]
        if b"total" in found:
            advance(int(found[b"done"]), int(found[b"total"]))
        state = found.get(b"state")
        if state == b"done":
            facts: dict[str, Any] = json.loads(found[b"text"])
            return facts
        if state == b"failed":
            raise PipelineError(f"the service could not do it: {found[b'text'].decode()}")
        if stop.wait(0.2):
            raise Stopped("stopped waiting; the service goes on with what it has begun")
        if time.monotonic() - signs_s > patience_s:
            with outages():
                client.lrem(requests_key, 0, text)
            raise PipelineError(
                f"the service that holds the schedule gave no answer for {patience_s:.0f} s; "
                "look at it with 'pipeline status', and ask again"
            )


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        request = json.loads(text)
        return {**request, "id": str(request["id"]), "what": str(request["what"]), "at": int(request["at"])}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
