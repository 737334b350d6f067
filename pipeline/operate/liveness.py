"""Whether the processes of this data directory live: their loops turn, whatever Redis and ClickHouse do.

Each process writes a small file under ``data_dir/live`` every two seconds: who it is, when (by the monotonic
clock, which all processes of a machine share), and how long ago each of its loops turned. A process that
died, was stopped or hangs falls silent; a loop that hangs shows by its age. Nothing else is asked, so that an
outage next door never has a healthy process restarted.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.base import log, processes

_log = log.get(__name__)

BEAT_S = 2.0
SILENT_S = 20.0
"""A process whose file is older than this hangs."""

STUCK_S = 120.0
"""A loop that did not turn for this long hangs; requests to ClickHouse and Redis give up before."""

FOLDER = "live"


@dataclass(frozen=True)
class Beat:
    """What a process last wrote; ``loops``: seconds since each turned."""

    pid: int
    started: str
    role: str
    at_s: float
    loops: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Life:
    """One process as ``status --live`` shows it; ``trouble`` is empty when it lives."""

    pid: int
    role: str
    silent_s: float
    trouble: str


def judge(beats: Iterable[Beat], now_s: float, is_running: Callable[[Beat], bool]) -> list[Life]:
    """How each process that has not ended is; ``now_s`` is of the monotonic clock."""
    return [_judge(beat, now_s) for beat in beats if is_running(beat)]


def _judge(beat: Beat, now_s: float) -> Life:
    silent_s = round(now_s - beat.at_s, 1)
    if not 0 <= silent_s <= SILENT_S:
        trouble = f"process {beat.pid} ({beat.role}) hangs: it gave no sign of life for {abs(silent_s):,.0f} s"
    elif stuck := {name: age for name, age in beat.loops.items() if age + silent_s > STUCK_S}:
        shown = ", ".join(f"{name} for {age:,.0f} s" for name, age in sorted(stuck.items()))
        trouble = f"process {beat.pid} ({beat.role}) hangs: these loops did not turn: {shown}"
    else:
        trouble = ""
    return Life(beat.pid, beat.role, silent_s, trouble)


def look(data_dir: Path) -> list[Life]:
    """How the processes of ``data_dir`` are. Changes nothing."""
    return judge(_beats(data_dir / FOLDER), time.monotonic(), _is_running)


class Heartbeat:
    """Writes this process's file until ``stop``."""

    def __init__(self, data_dir: Path, role: str) -> None:
        self.loops: dict[str, Callable[[], float | None]] = {}
        """By name, when a loop last turned (monotonic seconds), or None while it has not begun."""
        self._path = data_dir / FOLDER / f"{os.getpid()}.json"
        self._role = role
        self._started = processes.started(os.getpid())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="liveness", daemon=True)
        self._trouble = ""

    def start(self) -> Heartbeat:
        """Begin; files of processes that ended are removed."""
        for path in self._path.parent.glob("*.json"):
            beat = _read(path)
            if beat is None or not _is_running(beat):
                path.unlink(missing_ok=True)
        self.beat()
        self._thread.start()
        return self

    def stop(self) -> None:
        """End, and remove the file: this process is not expected to live any more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(1.0)
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return  # the file says by itself that its process has ended

    def ages(self) -> dict[str, float]:
        """Seconds since each loop turned."""
        turned = {name: loop() for name, loop in list(self.loops.items())}
        return {name: max(0.0, round(time.monotonic() - at_s, 1)) for name, at_s in turned.items() if at_s is not None}

    def beat(self) -> None:
        """Write the file. A disk that refuses it is said once; the file then grows old and tells of it."""
        beat = Beat(os.getpid(), self._started, self._role, time.monotonic(), self.ages())
        draft = self._path.with_suffix(".draft")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(asdict(beat)))
            draft.replace(self._path)
            self._trouble = ""
        except OSError as error:
            if not self._trouble:
                _log.warning("heartbeat file not written", file=str(self._path), reason=str(error))
            self._trouble = str(error)

    def _run(self) -> None:
        while not self._stop.wait(BEAT_S):
            self.beat()


def _is_running(beat: Beat) -> bool:
    started = processes.started(beat.pid)
    if started:
        return started == beat.started
    if Path("/proc/self/stat").exists():
        return False
    try:  # no /proc: the number alone must do
        os.kill(beat.pid, 0)
    except OSError:
        return False
    return True


def _beats(folder: Path) -> list[Beat]:
    return [beat for path in sorted(folder.glob("*.json")) if (beat := _read(path)) is not None]


def _read(path: Path) -> Beat | None:
    try:
        fields = json.loads(path.read_text())
        loops = {str(name): float(age) for name, age in fields["loops"].items()}
        return Beat(int(fields["pid"]), str(fields["started"]), str(fields["role"]), float(fields["at_s"]), loops)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
