"""Requests: a command asks the running service through Redis and is told what became of it."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from pipeline.base.errors import PipelineError, StoreOutage
from pipeline.operate import requests
from pipeline.operate.requests import Advance, RequestDesk, ask

REQUESTS = "requests"
PATIENCE_S = 60.0


def answer_key(name: str) -> str:
    return f"answer:{name}"


class Service:
    """A desk at work in a thread."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.seen: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.desk = RequestDesk(self.client, REQUESTS, answer_key, lambda: True, {"rollup": self.roll_up})
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.desk.run, args=(self.stop,), daemon=True)

    def roll_up(self, request: dict[str, Any], advance: Advance) -> dict[str, Any]:
        self.seen.append(request)
        advance(1, 2)
        if self.error is not None:
            raise self.error
        return {"windows": 7}

    def ask(self, what: str = "rollup", **options: Any) -> dict[str, Any]:
        return ask(self.client, REQUESTS, answer_key, {"what": what, "from_ms": 5}, self.told.append_pair, **options)

    class Told(list[tuple[int, int]]):
        def append_pair(self, done: int, total: int) -> None:
            self.append((done, total))

    told = Told()


@pytest.fixture
def service(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(requests, "LOOK_EVERY_S", 0.01)
    made = Service(redis_url)
    made.told = Service.Told()
    yield made
    made.stop.set()
    if made.thread.is_alive():
        made.thread.join(PATIENCE_S)


def test_the_service_does_what_is_asked_and_says_so(service: Service) -> None:
    """The facts come back, progress on the way; nothing stays in Redis but the answer, which expires."""
    service.thread.start()
    assert service.ask(patience_s=PATIENCE_S) == {"windows": 7}
    assert service.seen[0]["from_ms"] == 5
    assert (1, 2) in service.told
    assert not service.client.exists(REQUESTS)
    (answer,) = service.client.keys("answer:*")
    assert service.client.ttl(answer) > 0


def test_without_an_answer_the_command_gives_up_and_takes_its_request_back(service: Service) -> None:
    """No service runs: an error after its patience, and no service does it later."""
    with pytest.raises(PipelineError, match=r"no answer for 0 s.*pipeline status"):
        service.ask(patience_s=0.2)
    assert not service.client.exists(REQUESTS)


@pytest.mark.parametrize("error", [StoreOutage("ClickHouse is away"), ValueError("a bug")], ids=["outage", "bug"])
def test_what_the_service_could_not_do_is_an_error_of_the_command(error: Exception, service: Service) -> None:
    """Failure is never reported as success, and the service goes on."""
    service.error = error
    service.thread.start()
    with pytest.raises(PipelineError, match=str(error)):
        service.ask(patience_s=PATIENCE_S)
    service.error = None
    assert service.ask(patience_s=PATIENCE_S) == {"windows": 7}


def test_a_request_that_is_unknown_is_refused_in_words(service: Service) -> None:
    """A newer command beside an older service."""
    service.thread.start()
    with pytest.raises(PipelineError, match="does not know the request 'dance'"):
        service.ask("dance", patience_s=PATIENCE_S)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"id": 1}', b'{"id":1,"what":"rollup","at":1e400}', b"\xff"])
def test_junk_among_the_requests_is_dropped(text: bytes, service: Service) -> None:
    """What is no request is passed over; so is one that is older than its asker's patience."""
    service.client.rpush(REQUESTS, text, json.dumps({"id": "old", "what": "rollup", "at": 1}))
    assert service.desk.answer_one() and service.desk.answer_one() and not service.desk.answer_one()
    assert service.seen == []


def test_only_the_holder_of_the_schedule_answers(service: Service) -> None:
    """Another process of the fleet leaves requests to it."""
    service.desk.is_ours = lambda: False
    service.thread.start()
    with pytest.raises(PipelineError, match="no answer"):
        service.ask(patience_s=0.3)


def test_requests_of_another_type_are_an_error_in_words(service: Service) -> None:
    """The command names the key; the service goes on with everything else."""
    service.client.set(REQUESTS, "junk")
    service.thread.start()
    with pytest.raises(PipelineError, match="requests holds a string instead of a list"):
        service.ask(patience_s=PATIENCE_S)
    service.client.delete(REQUESTS)
    assert service.ask(patience_s=PATIENCE_S) == {"windows": 7}


def test_long_work_gives_signs_of_life(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that takes longer than the command's patience, without any progress to tell, is waited for."""
    monkeypatch.setattr(requests, "SIGN_EVERY_S", 0.02)
    ended = threading.Event()
    service.desk.actions["wait"] = lambda _request, _advance: {"waited": ended.wait(2.0)}
    service.thread.start()
    assert service.ask("wait", patience_s=1.0) == {"waited": False}
