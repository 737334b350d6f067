"""The rollup job: keeps ``metrics_1min`` and ``metrics_5min`` equal to the raw rows.

The acknowledgement of a chunk notes the minutes it touched; a turn takes that set, computes the
windows of those minutes that are over, writes them and forgets a minute only if no chunk touched it
meanwhile, and only once both its windows are final. So a turn that is missed, or dies at any
instruction, leaves work lying that the next one finds; a late row costs its own two windows.

Why two workers at once, or a stale one, do no harm: the revision of a window grows with the number of raw
rows it was computed from (``windows.stamp``), the higher revision wins, in whatever order they are written, and the
same rows give the same content. All series of a window go in one insert, which lands as one part.

When ClickHouse or Redis is away ``run`` raises the outage; what was written stays written and is
computed again, to the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipeline.analyse.series import factorise, ranked
from pipeline.analyse.windows import Windows, is_final, merge_series, roll_up, stamp, widen
from pipeline.base.config import RollupSettings
from pipeline.base.errors import Stopped
from pipeline.base.failpoints import hit
from pipeline.jobs import raw_rows as rawrows
from pipeline.jobs.raw_rows import FRAME_S, MINUTE_S, Piece

if TYPE_CHECKING:
    from pipeline.jobs.publish import Publisher
    from pipeline.store.client import Store

TABLES = {MINUTE_S: "metrics_1min", FRAME_S: "metrics_5min"}

# Windows computed but not final are kept, so that becoming final costs no second look at the raw rows;
# about 1 kB a row, so 200 MB at most. Beyond that they are computed again.
_KEPT_ROWS = 200_000

Touches = tuple[tuple[int, int, int], ...]
"""What a window was computed after: (minute, buffer, counter) of every dirty minute in it."""


class DirtyMinutes(Protocol):
    """What the job needs of a ``Buffer``."""

    def dirty_minutes(self) -> dict[int, int]:
        """Minute (epoch seconds) to a counter that grows with every touch."""
        ...

    def forget_minutes(self, counters: Mapping[int, int]) -> None:
        """Forget minutes whose counter is still the same."""
        ...


class Runs(Protocol):
    """What the job needs of a ``RunsJob``."""

    def write(self, run_ids: Collection[str], now_ms: int) -> int:
        """Write these runs as their raw rows have them now."""
        ...


class WindowVitals(Protocol):
    """What the job needs of a ``VitalsJob``."""

    def write_windows(self, starts_s: Collection[int], now_ms: int) -> int:
        """Write the Web Vitals of the 5-minute windows that begin at ``starts_s``."""
        ...


class Coarser(Protocol):
    """What the job needs of a ``CoarserJob``."""

    def write(self, starts_s: Collection[int], now_ms: int) -> int:
        """Bring the hours and days of the 5-minute windows that begin at ``starts_s`` up to date."""
        ...


@dataclass(frozen=True, order=True)
class Window:
    """The window of ``width_s`` seconds that starts at ``start_s``."""

    width_s: int
    start_s: int

    @property
    def end_s(self) -> int:
        """The first second after it."""
        return self.start_s + self.width_s


@dataclass
class RollupReport:
    """What one turn did."""

    windows_1min: int = 0
    windows_5min: int = 0
    raw_rows: int = 0
    written_rows: int = 0
    forgotten_minutes: int = 0
    dirty_minutes: int = 0
    """Minutes that stay: open, not final yet, or touched again."""

    def count(self, width_s: int, windows: int, rows: int) -> None:
        """Add windows written."""
        if width_s == MINUTE_S:
            self.windows_1min += windows
        else:
            self.windows_5min += windows
        self.written_rows += rows


@dataclass(frozen=True)
class _Written:
    """A window as last written by this process."""

    touches: Touches
    is_final: bool
    kept: Windows | None = None


@dataclass
class RollupJob:
    """Rolls up what is due. Holds only what saves work: a new one over the same store and buffers does the same."""

    store: Store
    buffers: Sequence[DirtyMinutes]
    settings: RollupSettings
    publisher: Publisher | None = None
    vitals: WindowVitals | None = None
    runs: Runs | None = None
    branches: Collection[str] | None = None
    """Speed is judged on rows of these branches; None: of all."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Looked at between two pieces."""
    coarser: Coarser | None = None
    _written: dict[Window, _Written] = field(default_factory=dict)

    def run(self, now_ms: int) -> RollupReport:
        """Compute and write every touched window that ended ``delay_s`` ago; forget the minutes that are settled.

        Raises ``StoreOutage``, ``RedisOutage`` or ``Stopped``; then some windows may be written and nothing is lost.
        """
        dirty = [buffer.dirty_minutes() for buffer in self.buffers]
        touched = _touched(dirty)
        # A minute that is not dirty any more was settled, by us or another worker: what is known of it is void.
        self._written = {window: known for window, known in self._written.items() if window in touched}
        due = {window: touches for window, touches in touched.items() if self._is_due(window, touches, now_ms)}
        report = RollupReport()
        for window, windows in self._unchanged(due).items():
            self._write({window: due.pop(window)}, windows, now_ms, report)
        for piece in rawrows.pieces(self.store, _ranges(due)):
            if self.stop.is_set():
                raise Stopped("rolling up was stopped between two pieces")
            self._roll_up(piece, due, now_ms, report)
            self._settle(dirty, touched, piece.ranges, report)
        if self.publisher is not None:
            self.publisher.publish(now_ms)
        self._settle(dirty, touched, {_frame(minute) for minutes in dirty for minute in minutes}, report)
        report.dirty_minutes = len(set().union(*dirty))
        return report

    # What is due

    def _is_due(self, window: Window, touches: Touches, now_ms: int) -> bool:
        if now_ms < (window.end_s + self.settings.delay_s) * 1000:
            return False
        known = self._written.get(window)
        return known is None or known.touches != touches or (self._is_final(window, now_ms) and not known.is_final)

    def _is_final(self, window: Window, now_ms: int) -> bool:
        return is_final(window.start_s, window.width_s, now_ms, self.settings.grace_s)

    def _unchanged(self, due: Mapping[Window, Touches]) -> dict[Window, Windows]:
        """Windows that did not change since they were written and that are due because they became final."""
        unchanged: dict[Window, Windows] = {}
        for window, touches in due.items():
            known = self._written.get(window)
            if known is not None and known.touches == touches and known.kept is not None:
                unchanged[window] = known.kept
        return unchanged

    # Computing and writing

    def _roll_up(self, piece: Piece, due: Mapping[Window, Touches], now_ms: int, report: RollupReport) -> None:
        wanted = {
            width_s: {
                w: touches for w, touches in due.items() if w.width_s == width_s and _frame(w.start_s) in piece.ranges
            }
            for width_s in TABLES
        }
        run_ids: set[str] = set()
        found = compute(self.store, piece, wanted, report, self.branches, run_ids)
        if self.runs is not None:
            # Before any window is remembered as written: an outage here leaves the windows due, and so the runs.
            self.runs.write(run_ids, now_ms)
        for width_s, windows in found.items():
            hit("rollup.before_insert")
            self._write(wanted[width_s], windows, now_ms, report)

    def _write(self, wanted: Mapping[Window, Touches], windows: Windows, now_ms: int, report: RollupReport) -> None:
        """Write windows of one width in one insert; ``wanted`` names also those that turned out to have no rows."""
        rows = stamp(windows, now_ms, self.settings.grace_s)
        self.store.insert(TABLES[windows.window_s], rows)
        hit("rollup.after_insert")
        if self.vitals is not None and windows.window_s == FRAME_S:
            # Before anything is remembered as written: an outage here leaves the windows due.
            self.vitals.write_windows([window.start_s for window in wanted], now_ms)
        if self.coarser is not None and windows.window_s == FRAME_S:
            # Likewise, and of those windows that were just written.
            self.coarser.write([window.start_s for window in wanted], now_ms)
        report.count(windows.window_s, len(windows.executions), rows.num_rows)
        for window, touches in wanted.items():
            final = self._is_final(window, now_ms)
            self._written[window] = _Written(touches, final, None if final else self._keep(window, windows))
        if self.publisher is not None:
            self.publisher.offer(windows, now_ms, self.settings.grace_s)

    def _keep(self, window: Window, windows: Windows) -> Windows | None:
        kept = sum(known.kept.rows.num_rows for known in self._written.values() if known.kept is not None)
        one = windows.only({window.start_s})
        return one if kept + one.rows.num_rows <= _KEPT_ROWS else None

    # Forgetting

    def _settle(
        self,
        dirty: Sequence[dict[int, int]],
        touched: Mapping[Window, Touches],
        frames: Iterable[int],
        report: RollupReport,
    ) -> None:
        """Forget the minutes whose windows are final, and published where they are to be; ``dirty`` loses them too."""
        hit("rollup.before_forget")
        frames = set(frames)
        for buffer, minutes in zip(self.buffers, dirty, strict=True):
            settled = {
                minute: counter
                for minute, counter in minutes.items()
                if _frame(minute) in frames and all(self._is_settled(window, touched) for window in _windows_of(minute))
            }
            if settled:
                buffer.forget_minutes(settled)
                report.forgotten_minutes += len(settled)
                for minute in settled:
                    del minutes[minute]

    def _is_settled(self, window: Window, touched: Mapping[Window, Touches]) -> bool:
        known = self._written.get(window)
        if known is None or not known.is_final or known.touches != touched[window]:
            return False
        return self.publisher is None or not self.publisher.is_pending(window.width_s, window.start_s)


def compute(
    store: Store,
    piece: Piece,
    wanted: Mapping[int, Collection[Window]],
    report: RollupReport,
    branches: Collection[str] | None = None,
    run_ids: set[str] | None = None,
) -> dict[int, Windows]:
    """Roll up the wanted windows of a piece, by width; a width of which nothing is wanted is left out.

    Adds to ``run_ids`` the runs that have rows in the piece.
    """
    parts: dict[int, list[Windows]] = {width_s: [] for width_s, windows in wanted.items() if windows}
    for shard in range(piece.shards):
        rows = rawrows.read(store, piece, shard)
        report.raw_rows += rows.num_rows
        if run_ids is not None:
            run_ids.update(run_id for run_id in ranked(rows.column("run_id")).values.to_pylist() if run_id)
        series = factorise(rows)
        narrow: Windows | None = None
        for width_s, found in sorted(parts.items()):
            if narrow is None:
                windows = narrow = roll_up(rows, width_s, series, branches)
            else:
                windows = widen(narrow, rows, width_s, series, branches)
            found.append(windows.only({window.start_s for window in wanted[width_s]}))
    return {width_s: merge_series(found) if len(found) > 1 else found[0] for width_s, found in parts.items()}


def _frame(second: int) -> int:
    return second // FRAME_S * FRAME_S


def _windows_of(minute: int) -> tuple[Window, Window]:
    return Window(MINUTE_S, minute), Window(FRAME_S, _frame(minute))


def _touched(dirty: Sequence[Mapping[int, int]]) -> dict[Window, Touches]:
    """Every window that has a dirty minute, with what there is to see of it."""
    touches: dict[Window, list[tuple[int, int, int]]] = {}
    for number, minutes in enumerate(dirty):
        for minute, counter in minutes.items():
            for window in _windows_of(minute):
                touches.setdefault(window, []).append((minute, number, counter))
    return {window: tuple(sorted(found)) for window, found in touches.items()}


def _ranges(due: Iterable[Window]) -> dict[int, tuple[int, int]]:
    """What has to be read, by frame, the newest first: while a backlog is worked off, today is up to date."""
    ranges: dict[int, tuple[int, int]] = {}
    for window in sorted(due, key=lambda window: -window.start_s):
        frame = _frame(window.start_s)
        start, end = ranges.get(frame, (window.start_s, window.end_s))
        ranges[frame] = min(start, window.start_s), max(end, window.end_s)
    return ranges
