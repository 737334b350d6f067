"""Looking at a pipeline from a program: what ``tap`` and ``top`` print with --json."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import redis_executables

from pipeline.cli import main

Told = list[dict[str, Any]]


@pytest.fixture
def ask(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Told]:
    """Run a command with --json on an empty Redis; each line of its output."""
    monkeypatch.setenv("PIPELINE_REDIS__URL", redis_url)
    monkeypatch.setenv("PIPELINE_DATA_DIR", str(tmp_path))

    def run(*arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["pipeline", *arguments, "--json"])
        main._run()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


ONE_REDIS = pytest.mark.parametrize("redis_url", sorted(redis_executables())[-1:], indirect=True)


@ONE_REDIS
def test_tap_prints_an_object_a_line_and_consumes_nothing(redis_url: str, ask: Callable[..., Told]) -> None:
    """Each item with its buffer, the oldest first. An item that is not JSON, or not UTF-8, is shown as text."""
    items = [b'{"value": 1}', b"no\njson", b"\xff"]
    with redis.Redis.from_url(f"{redis_url}/3") as client:
        client.lpush("metrics:buffer", *items)
        told = ask("tap", "--count", "3")
        assert client.llen("metrics:buffer") == 3
    assert {one["buffer"] for one in told} == {"metrics:buffer"}
    assert [one["item"] for one in told] == ['{"value": 1}', "no\njson", "\\xff"]


@ONE_REDIS
def test_top_prints_once_for_a_program(redis_url: str, ask: Callable[..., Told]) -> None:
    """What status says, and how many items a second were sealed, stored and dead-lettered meanwhile."""
    (told,) = ask("top", "--interval", "0.2")
    assert told["waiting"] == 0
    assert [told[name] for name in ("sealed_per_s", "stored_per_s", "dead_lettered_per_s")] == [0.0, 0.0, 0.0]
