"""Computes any range of windows again from the raw rows: ``pipeline rollup --from --to``.

Safe beside the live job and beside another rebuild: revisions decide (``windows.revision``), so a window is
only ever replaced by one computed from as many raw rows or more. It reads in pieces of bounded memory and
takes no lock. After every piece the place reached is noted in Redis; started again with the same range it goes on from
there. When a neighbour is away the outage is raised, and nothing written so far is lost.

What it cannot do: take rows out of a window. If raw rows were deleted, fewer rows make a lower revision.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis

from pipeline.analyse.windows import stamp
from pipeline.base.config import RollupSettings
from pipeline.base.errors import Stopped
from pipeline.base.failpoints import hit
from pipeline.base.redis_link import outages
from pipeline.jobs import raw_rows as rawrows
from pipeline.jobs.raw_rows import FRAME_S
from pipeline.jobs.rollup import TABLES, Coarser, RollupReport, Runs, Window, WindowVitals, compute

if TYPE_CHECKING:
    from pipeline.store.client import Store

# Counting rows ahead of reading them goes in steps of a day, one partition.
_STEP_S = 86_400


@dataclass(frozen=True)
class RebuildProgress:
    """How far a rebuild has come; times in epoch seconds, on 5-minute boundaries."""

    from_s: int
    to_s: int
    reached_s: int
    report: RollupReport

    @property
    def share(self) -> float:
        """0 at the beginning, 1 at the end."""
        return (self.reached_s - self.from_s) / (self.to_s - self.from_s) if self.to_s > self.from_s else 1.0


@dataclass(frozen=True)
class Checkpoint:
    """Where a rebuild goes on: one field of ``BufferKeys.checkpoints``."""

    client: redis.Redis
    key: str

    def load(self, name: str) -> int | None:
        """The place noted under ``name``; None for what is no place."""
        with outages():
            found = self.client.hget(self.key, name)
        try:
            return int(found) if found is not None else None
        except ValueError:
            return None

    def save(self, name: str, reached_s: int) -> None:
        """Note the place reached."""
        with outages():
            self.client.hset(self.key, name, str(reached_s))

    def clear(self, name: str) -> None:
        """Done: the next rebuild of the range begins at its beginning."""
        with outages():
            self.client.hdel(self.key, name)


def rebuild(
    store: Store,
    from_ms: int,
    to_ms: int,
    now_ms: int,
    settings: RollupSettings,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[RebuildProgress], None] | None = None,
    vitals: WindowVitals | None = None,
    runs: Runs | None = None,
    branches: Collection[str] | None = None,
    stop: threading.Event | None = None,
    coarser: Coarser | None = None,
) -> RollupReport:
    """Compute every window that overlaps [``from_ms``, ``to_ms``) and is over; oldest first.

    With ``vitals`` the Web Vitals of the 5-minute windows too, with ``coarser`` the hours and days made of them, with
    ``runs`` the runs that have rows in them. Windows that are still open are left to the live job. Raises
    ``StoreOutage`` or ``RedisOutage``, and ``Stopped`` after the piece at which ``stop`` was set.
    """
    from_s = from_ms // 1000 // FRAME_S * FRAME_S
    to_s = -(-to_ms // (1000 * FRAME_S)) * FRAME_S
    name = f"rebuild:{from_s}:{to_s}"
    noted_s = checkpoint.load(name) if checkpoint else None
    # A place outside of the range was not noted here, and would leave out what it stands behind.
    reached_s = noted_s if noted_s is not None and from_s <= noted_s <= to_s else from_s
    report = RollupReport()

    def reach(second: int) -> None:
        hit("rebuild.before_checkpoint")
        if checkpoint:
            checkpoint.save(name, second)
        if progress:
            progress(RebuildProgress(from_s, to_s, second, report))

    reach(reached_s)
    over_s = int(now_ms // 1000 - settings.delay_s)
    for step in range(reached_s, to_s, _STEP_S):
        _stop_if_asked(stop)
        frames = range(step, min(step + _STEP_S, to_s), FRAME_S)
        ranges = {frame: (frame, frame + FRAME_S) for frame in frames if frame < over_s}
        for piece in rawrows.pieces(store, ranges):
            _stop_if_asked(stop)
            _rebuild_piece(store, piece, over_s, now_ms, settings, report, runs, branches)
            written = [frame for frame in piece.ranges if frame + FRAME_S <= over_s]
            if vitals:
                vitals.write_windows(written, now_ms)
            if coarser:
                coarser.write(written, now_ms)
            reach(max(piece.ranges) + FRAME_S)
    if checkpoint:
        checkpoint.clear(name)
    if progress:
        progress(RebuildProgress(from_s, to_s, to_s, report))
    return report


def _stop_if_asked(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise Stopped("the rebuild was stopped; asked for again with the same range it goes on from there")


def _rebuild_piece(
    store: Store,
    piece: rawrows.Piece,
    over_s: int,
    now_ms: int,
    settings: RollupSettings,
    report: RollupReport,
    runs: Runs | None,
    branches: Collection[str] | None,
) -> None:
    wanted = {
        width_s: [
            window
            for frame in piece.ranges
            for start in range(frame, frame + FRAME_S, width_s)
            if (window := Window(width_s, start)).end_s <= over_s
        ]
        for width_s in TABLES
    }
    run_ids: set[str] = set()
    computed = compute(store, piece, wanted, report, branches, run_ids)
    if runs:
        runs.write(run_ids, now_ms)
    for windows in computed.values():
        rows = stamp(windows, now_ms, settings.grace_s)
        store.insert(TABLES[windows.window_s], rows)
        report.count(windows.window_s, len(windows.executions), rows.num_rows)
