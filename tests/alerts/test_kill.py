"""Killed at every step: nothing is forgotten, and only outside is anything repeated, under the same key."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import effort

from pipeline.alerts.commands import replay
from pipeline.store.client import Store

from .kill_driver import MINUTES, RULE, numbers, work
from .test_views import T0

DRIVER = Path(__file__).parent / "kill_driver.py"
PLACES = (
    *("alerts.after_stage", "alerts.before_commit", "alerts.after_commit", "alerts.after_hand_out"),
    "alerts.after_publish",
    *("alerts.before_insert", "alerts.after_insert", "alerts.after_table"),
    *("notify.after_freeze", "notify.after_send", "notify.after_settle"),
)


class Recorder:
    """What arrived over HTTP: key and body, in order."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str]] = []

    @property
    def distinct(self) -> dict[str, str]:
        """Each key with its body, in order of first arrival."""
        return dict(reversed([*reversed(self.received)]))


@contextmanager
def recording_server() -> Iterator[tuple[str, Recorder]]:
    """A receiver on the loopback interface."""
    recorder = Recorder()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            recorder.received.append((self.headers["Idempotency-Key"], body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", recorder
        finally:
            server.shutdown()
            thread.join()


class Surroundings:
    """A Redis and a receiver, and what stands in them in the end."""

    def __init__(self, redis_url: str, recorder: Recorder) -> None:
        self.url = f"{redis_url}/3"
        self.client = redis.Redis.from_url(self.url)
        self.client.flushall()
        self._recorder = recorder
        self._listener = self.client.pubsub()
        self._listener.subscribe("alerts:critical")

    def outcome(self, table: list[str]) -> dict[str, Any]:
        """What stands where: transition ids in order, notifications by key."""
        heard = []
        while message := self._listener.get_message(timeout=0.2):
            if message["type"] == "message":
                heard.append(json.loads(message["data"])["transition_id"])
        entries = [json.loads(one) for one in reversed(self.client.lrange("alerts:performance", 0, -1))]
        self._listener.close()
        self.client.close()
        return {
            "table": sorted(table),
            "list": [entry["transition_id"] for entry in entries],
            "channel": heard,
            "notifications": self._recorder.distinct,
        }


@pytest.fixture
def undisturbed(_redis_servers: Any, store: Store) -> dict[str, Any]:
    """What stands where when no process is killed."""
    with recording_server() as (url, recorder):
        place = Surroundings(_redis_servers("6.2"), recorder)
        found = place.outcome(work(place.client, store, url))
        assert len(recorder.received) == len(recorder.distinct)
        return found


def test_undisturbed_everything_is_told(undisturbed: dict[str, Any]) -> None:
    """Without any kill: table, list and channel have every transition once, the receiver hears of each."""
    expected = [t.transition_id for t in replay(numbers(), [RULE], T0, T0 + MINUTES * 60_000)]
    assert len(expected) > 20
    for where in ("table", "list", "channel"):
        assert sorted(undisturbed[where]) == sorted(expected), where
    bodies = [json.loads(body) for body in undisturbed["notifications"].values()]
    told = {alert["transition_id"] for body in bodies for alert in body["alerts"]}
    assert len(told) > 15  # a page that breaks and recovers within one interval is told in one line
    over = [alert["transition_id"] for body in bodies for alert in body["alerts"] if alert["state"] == "resolved"]
    assert len(over) == len(set(over)), "a resolution is told once"


def check_killed(redis_url: str, engine: Path, kills: list[str], undisturbed: dict[str, Any]) -> list[str]:
    """Kill one process after the other; in the end everything stands as if no process had been killed.

    Returns which of the kills struck.
    """
    with recording_server() as (url, recorder):
        place = Surroundings(redis_url, recorder)
        command = [sys.executable, str(DRIVER), place.url, str(engine), url, *kills]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "undisturbed 0" in finished.stderr, finished.stderr
        found = place.outcome(json.loads(finished.stdout.splitlines()[-1]))
    assert found == undisturbed
    for key, body in recorder.received:
        assert body == found["notifications"][key], "the same key must mean the same notification"
    return [kill for kill in kills if f"{kill} -9" in finished.stderr]


def test_killed_at_every_step(_redis_servers: Any, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """A kill -9 at each step in turn leaves table, list, channel and notifications as if nothing had happened.

    By default at every third step.
    """
    kills = [f"{place}:2" for place in PLACES]
    kills += ["alerts.after_stage:5", "alerts.after_hand_out:1", "alerts.after_hand_out:5"]
    kills = kills[:: effort(3, 1)]
    assert check_killed(_redis_servers("6.2"), tmp_path, kills, undisturbed) == kills


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_killed_again_and_again(seed: int, _redis_servers: Any, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """The same for twenty random sequences of kills."""
    chance = random.Random(seed)
    kills = [f"{chance.choice(PLACES)}:{chance.randint(1, 4)}" for _ in range(12)]
    assert check_killed(_redis_servers("6.2"), tmp_path, kills, undisturbed)
