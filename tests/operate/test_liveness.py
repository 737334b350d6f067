"""Liveness: the loops of a process alone decide, and no neighbour can make a healthy one look dead."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.base import processes
from pipeline.operate import liveness
from pipeline.operate.liveness import SILENT_S, STUCK_S, Beat, Heartbeat, judge, look

NOW_S = 1000.0


def beat(silent_s: float = 1.0, **loops: float) -> Beat:
    return Beat(1, "started", "run", NOW_S - silent_s, loops)


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (beat(), ""),
        (beat(SILENT_S), ""),
        (beat(SILENT_S + 1), "gave no sign of life for 21 s"),
        (beat(-5), "gave no sign of life"),
        (beat(1, drain=STUCK_S - 2), ""),
        (beat(1, drain=STUCK_S, schedule=2), "these loops did not turn: drain for 120 s"),
    ],
    ids=["lives", "just", "silent", "before a reboot", "slow loop", "stuck loop"],
)
def test_a_process_lives_while_its_loops_turn(one: Beat, sentence: str) -> None:
    """Silent for too long, or a loop that does not turn: it hangs, and the sentence says which."""
    (life,) = judge([one], NOW_S, lambda _: True)
    assert (life.trouble == "") == (sentence == "")
    assert sentence in life.trouble


def test_a_process_that_ended_is_not_expected_to_live() -> None:
    """Killed processes leave a file behind; it is passed over."""
    assert judge([beat(5000)], NOW_S, lambda _: False) == []


def test_a_heartbeat_is_seen_and_ends_with_its_process(tmp_path: Path) -> None:
    """A running process is seen, a stopped one is not; a file that is damaged or of a dead process is passed over."""
    turned_s = time.monotonic()
    heartbeat = Heartbeat(tmp_path, "run")
    heartbeat.loops = {"drain": lambda: turned_s, "not begun": lambda: None}
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "live").mkdir()
    left = {"pid": dead.pid, "started": "1", "role": "run", "at_s": 0, "loops": {}}
    (tmp_path / "live" / "1.json").write_text(json.dumps(left))
    heartbeat.start()
    (tmp_path / "live" / "2.json").write_text("[1")
    (life,) = look(tmp_path)
    assert (life.pid, life.role, life.trouble) == (os.getpid(), "run", "")
    assert heartbeat.ages().keys() == {"drain"}
    assert not (tmp_path / "live" / "1.json").exists(), "what a dead process left is removed at the next start"
    heartbeat.stop()
    assert look(tmp_path) == []


def test_a_stopped_process_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP, a frozen disk or a deadlock of the interpreter: the file grows old although the process exists."""
    heartbeat = Heartbeat(tmp_path, "drain")
    heartbeat.beat()
    later_s = time.monotonic() + SILENT_S + 5
    monkeypatch.setattr(liveness.time, "monotonic", lambda: later_s)
    (life,) = look(tmp_path)
    assert "hangs" in life.trouble


def test_looking_creates_nothing(tmp_path: Path) -> None:
    """Where no process ever ran there is no folder, before and after."""
    assert look(tmp_path / "nowhere") == []
    assert list(tmp_path.iterdir()) == []


def test_a_process_number_is_never_mistaken() -> None:
    """The same number with another start is another process."""
    assert processes.started(os.getpid())
    assert processes.started(2**22 + 1) == ""


def test_a_disk_that_refuses_the_file_does_not_stop_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once; liveness then fails by the age of the file."""
    (tmp_path / "live").write_text("a file where the folder should be")
    heartbeat = Heartbeat(tmp_path, "run")
    heartbeat.beat()
    heartbeat.beat()
    assert len([record for record in caplog.records if "heartbeat file not written" in record.getMessage()]) == 1
