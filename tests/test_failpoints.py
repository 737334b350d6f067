"""Failpoints: a process that dies exactly where a test says, and nowhere else."""

import subprocess
import sys
import threading

import pytest

from pipeline.base import failpoints
from pipeline.base.errors import ConfigError, PipelineError


def arm(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, text)
    failpoints.reset()


@pytest.mark.parametrize(("text", "survived"), [("here", 0), ("here:1", 0), ("here:3", 2), ("elsewhere", 5)])
def test_process_dies_at_the_hit_asked_for(text: str, survived: int) -> None:
    """SIGKILL at the N-th hit of that name: no handler, no buffer is flushed, no other hit counts."""
    script = """
import os
from pipeline.base import failpoints
print("lost with the buffer", end="")
for _ in range(5):
    failpoints.hit("another")
    failpoints.hit("here")
    os.write(1, b".")
os._exit(0)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], env={failpoints.VARIABLE: text}, capture_output=True, text=True
    )
    assert ended.stdout == "." * survived
    assert ended.returncode == (0 if survived == 5 else -9)


def test_raises_once_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process the N-th hit raises, the next goes through: what a retry meets."""
    arm(monkeypatch, "here:2:raise")
    failpoints.hit("here")
    with pytest.raises(failpoints.Injected, match="here, hit 2"):
        failpoints.hit("here")
    failpoints.hit("here")
    assert not issubclass(failpoints.Injected, PipelineError)


def test_one_hit_of_many_threads_is_the_nth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hits are counted across threads: exactly one of them is the N-th."""
    arm(monkeypatch, "here:500:raise")
    raised = []
    start = threading.Barrier(8)

    def run() -> None:
        start.wait()
        for _ in range(100):
            try:
                failpoints.hit("here")
            except failpoints.Injected:
                raised.append(threading.get_ident())

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(raised) == 1


def test_pause_holds_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause stops the thread that hit it, while others go on."""
    slept: list[float] = []
    monkeypatch.setattr(failpoints.time, "sleep", slept.append)
    arm(monkeypatch, "here:1:pause=0.5")
    failpoints.hit("here")
    failpoints.hit("here")
    assert slept == [0.5]


@pytest.mark.parametrize("text", ["here:0", "here:x", "here:1:explode", "here:1:pause=-1", "here:1:pause=long"])
def test_a_mistake_is_a_sentence(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read stops the process at its first failpoint, so that no test passes for want of a crash."""
    arm(monkeypatch, text)
    with pytest.raises(ConfigError, match=f"PIPELINE_FAILPOINT is '{text}'"):
        failpoints.hit("anywhere")


def test_unset_is_no_failpoint() -> None:
    """Without the variable every hit returns."""
    for _ in range(3):
        failpoints.hit("here")
