"""Thirty-three one-line mistakes, each of which some test must notice.

``python tests/mutations.py`` applies every one to a copy of the tree, runs the tests that are named with it, and
reports which were caught, by which test, and which survived; exit 1 when one survived. ``--only NAME`` (repeatable)
chooses some, ``--list`` shows them, ``--jobs N`` runs N side by side. Each job copies the tree once and takes each
mistake out again, so that what the decoder compiled is used again.
``tests/test_house.py`` holds the list to the code: each mistake must still find its line, once.
"""

from __future__ import annotations

import argparse
import functools
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

TIMEOUT = ("--timeout=120", "--timeout-method=signal")
"""A test that a mistake makes wait for ever has noticed it; by a signal it fails like any other."""


@dataclass(frozen=True)
class Mutation:
    """Replace ``line`` (which stands once in ``file``) by ``by``; ``tests`` are given to pytest."""

    name: str
    file: str
    line: str
    by: str
    tests: str


MUTATIONS = [
    # What a metric is, and how it is read
    Mutation(
        "a timestamp too old is accepted", "pipeline/metric.py",
        "if timestamp_ms < sealed_at_ms - limits.retention_ms:",
        "if timestamp_ms < sealed_at_ms - 2 * limits.retention_ms:",
        "tests/decode/test_metric.py",
    ),
    Mutation(
        "a timestamp too far ahead is accepted", "pipeline/metric.py",
        "if timestamp_ms > sealed_at_ms + limits.future_ms:", "if timestamp_ms > sealed_at_ms + 2 * limits.future_ms:",
        "tests/decode/test_metric.py",
    ),
    # The buffer
    Mutation(
        "the oldest acknowledged records are dropped unseen", "pipeline/buffer/lua/drop_acked.lua",
        "if redis.call('LINDEX', KEYS[1], -1) ~= ARGV[1] then return 0 end", "",
        "tests/buffer/test_buffer.py",
    ),
    Mutation(
        "a minute touched again is forgotten", "pipeline/buffer/lua/forget.lua",
        "if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end",
        "redis.call('HDEL', KEYS[1], ARGV[i])",
        "tests/buffer/test_buffer.py",
    ),
    Mutation(
        "a lease that another drainer took is acknowledged", "pipeline/buffer/lua/ack.lua",
        "if not attempts or facts.done[tonumber(ARGV[2])] then return 0 end",
        "if facts.done[tonumber(ARGV[2])] then return 0 end\nattempts = attempts or 1",
        "tests/buffer/test_buffer.py",
    ),
    Mutation(
        "what is spilled is no lag", "pipeline/buffer/lag.py",
        "    if books.spilled:", "    if False:",
        "tests/operate/test_status.py -k lag_and_watermark",
    ),
    Mutation(
        "what waits does not hold the watermark back", "pipeline/buffer/lag.py",
        "        waits_s = max(waits_s, oldest_waiting_s(buffer, now_ms))", "        pass",
        "tests/operate/test_status.py -k watermark",
    ),
    # Delivery
    Mutation(
        "the overflow rule keeps less than it says", "pipeline/deliver/overflow.py",
        "keep = max(int(most * KEPT_SHARE), most - books.in_flight)", "keep = most - books.in_flight - 1",
        "tests/operate/test_overflow_marks.py -k drop",
    ),
    Mutation(
        "rows that expired by right are inserted again", "pipeline/deliver/delivery.py",
        "EXPIRY_MARGIN_MS = 47 * 3_600_000", "EXPIRY_MARGIN_MS = 470 * 3_600_000",
        "tests/deliver/test_expiry.py",
    ),
    Mutation(
        "rows that are there count as missing", "pipeline/deliver/delivery.py",
        'missing = ~np.isin(rows["position"].to_numpy(), stored)',
        'missing = np.isin(rows["position"].to_numpy(), stored)',
        "tests/deliver/test_expiry.py",
    ),
    Mutation(
        "marks are removed from Redis without being written", "pipeline/deliver/dead_letters.py",
        '        "dead_letter_marks",', '        "dead_letter_marks" if False else "dead_letter_marks_nowhere",',
        "tests/operate/test_ledger_job.py",
    ),
    # Numbers
    Mutation(
        "a window is final too early", "pipeline/analyse/windows.py",
        "return now_ms >= (start_s + window_s + grace_s) * 1000", "return now_ms >= (start_s + window_s) * 1000",
        "tests/analyse/test_windows.py tests/jobs/test_rollup.py",
    ),
    Mutation(
        "fewer rows replace more", "pipeline/analyse/windows.py",
        "return 2 * raw_rows + final", "return 2 + final",
        "tests/analyse/test_windows.py tests/jobs/test_rollup.py",
    ),
    Mutation(
        "a value at the limit of good is not good", "pipeline/analyse/vitals.py",
        "above_good = np.greater(values,", "above_good = np.greater_equal(values,",
        "tests/analyse/test_vitals.py",
    ),
    Mutation(
        "the rated percentile is one rank too high", "pipeline/analyse/vitals.py",
        "return (3 * np.asarray(samples, dtype=np.int64) + 3) // 4 - 1",
        "return (3 * np.asarray(samples, dtype=np.int64) + 4) // 4 - 1",
        "tests/analyse/test_vitals.py",
    ),
    Mutation(
        "one run too few is enough history", "pipeline/analyse/baselines.py",
        "is_enough = runs.sizes >= min_runs", "is_enough = runs.sizes >= min_runs - 1",
        "tests/analyse/test_baselines.py",
    ),
    # Jobs
    Mutation(
        "resource keys are kept for two days", "pipeline/jobs/housekeeping.py",
        "RESOURCE_AGE_MS = 24 * 3_600_000", "RESOURCE_AGE_MS = 48 * 3_600_000",
        "tests/jobs/test_housekeeping.py",
    ),
    Mutation(
        "the last second of resource keys is trimmed too", "pipeline/jobs/housekeeping.py",
        'pipe.zremrangebyscore(key, "-inf", f"({oldest_s}")', 'pipe.zremrangebyscore(key, "-inf", oldest_s)',
        "tests/jobs/test_housekeeping.py",
    ),
    Mutation(
        "the platform's retention is not read", "pipeline/jobs/retention.py",
        "return default_hours if hours is None else hours", "return default_hours",
        "tests/jobs/test_housekeeping.py",
    ),
    Mutation(
        "any number is a retention", "pipeline/jobs/retention.py",
        "return int(hours) if 1 <= hours <= MAX_HOURS else None", "return int(hours)",
        "tests/jobs/test_housekeeping.py",
    ),
    Mutation(
        "an older figure replaces a newer one in Redis", "pipeline/jobs/lua/replace.lua",
        "if held and held > tonumber(ARGV[1]) then return 0 end", "",
        "tests/jobs/test_publish.py -k stale",
    ),
    Mutation(
        "page views are torn apart by shards", "pipeline/jobs/vitals_rows.py",
        "if(empty(tags['id']), cityHash64(segment, position), cityHash64(tags['id']))", "cityHash64(segment, position)",
        "tests/jobs/test_vitals_pieces.py",
    ),
    # The operating layer
    Mutation(
        "every process holds the schedule", "pipeline/operate/lua/hold_lease.lua",
        "if left >= 0 and left <= tonumber(ARGV[2]) then return 0 end", "",
        "tests/operate/test_schedule.py",
    ),
    Mutation(
        "a lease is given back by any process", "pipeline/operate/lua/give_back_lease.lua",
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end",
        "return redis.call('DEL', KEYS[1])",
        "tests/operate/test_schedule.py",
    ),
    Mutation(
        "a wall clock that is set back stops the schedule", "pipeline/operate/schedule.py",
        "self._scheduler.modify_job(name, next_run_time=now + timedelta(seconds=left_s))", "pass",
        "tests/operate/test_schedule.py -k wall_clock",
    ),
    Mutation(
        "overdue jobs are not told", "pipeline/operate/schedule.py",
        "return began_s_ago > 2 * interval_s + OVERDUE_S", "return False",
        "tests/operate/test_schedule.py",
    ),
    Mutation(
        "a hanging loop counts as alive", "pipeline/operate/liveness.py",
        "if age + silent_s > STUCK_S}", "if age + silent_s > 1000 * STUCK_S}",
        "tests/operate/test_liveness.py",
    ),
    Mutation(
        "a dead process's heartbeat counts", "pipeline/operate/fleet.py",
        'if abs(now_ms - said["at"]) < silent_for_ms]', "]",
        "tests/operate/test_status.py -k heartbeat",
    ),
    Mutation(
        "unknown is printed as zero", "pipeline/operate/status.py",
        "books = self.books.as_dict() if self.books is not None else UNKNOWN",
        "books = (self.books or Books()).as_dict()",
        "tests/operate/test_status.py -k without_redis",
    ),
    Mutation(
        "a request that failed is reported as done", "pipeline/operate/requests.py",
        'answer.say(state="failed", text=str(error))', 'answer.say(state="done", text="{}")',
        "tests/operate/test_requests.py",
    ),
    # The store and alerts
    Mutation(
        "a missing column is not noticed", "pipeline/store/schema.py",
        "            if has is None:", "            if has is None and False:",
        "tests/store/test_schema.py",
    ),
    Mutation(
        "an alert fires before its time", "pipeline/alerts/judge/state.py",
        "held = now_ms - alert.active_at_ms >= rule.for_ms", "held = True",
        "tests/alerts/test_states.py",
    ),
    Mutation(
        "keep_firing_for is ignored", "pipeline/alerts/judge/state.py",
        "if now_ms - since_ms < rule.keep_firing_for_ms:", "if False:",
        "tests/alerts/test_states.py",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What became of one mutation: the test that caught it, or why none did."""

    mutation: Mutation
    caught_by: str
    seconds: float
    why_not: str = "SURVIVED"

    @property
    def line(self) -> str:
        """The outcome in a line."""
        verdict = f"caught by {self.caught_by}" if self.caught_by else self.why_not
        return f"{self.mutation.name:<56} {verdict} ({self.seconds:.0f} s)"


def mutated(mutation: Mutation, text: str) -> str:
    """The file's text with the mistake in it. Raises ``ValueError`` when its line is not there, or more than once."""
    if text.count(mutation.line) != 1:
        raise ValueError(f"{mutation.name}: {mutation.file} has {text.count(mutation.line)} times: {mutation.line}")
    return text.replace(mutation.line, mutation.by)


def copy_of_tree(place: Path) -> Path:
    """A copy of the sources in ``place``, for one job."""
    copy = Path(tempfile.mkdtemp(dir=place)) / "tree"
    ignored = shutil.ignore_patterns(".git", ".venv", "data", "dist", ".*_cache", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


def run(mutation: Mutation, tree: Path) -> Outcome:
    """Put the mistake into ``tree``, run its tests until one fails, and take it out again."""
    started_s = time.monotonic()
    file = tree / mutation.file
    sound = file.read_text()
    file.write_text(mutated(mutation, sound))
    try:
        failed = first_failure(tree, mutation.tests.split(" "))
    finally:
        file.write_text(sound)
    # A test that fails anyway notices nothing.
    if failed and first_failure(tree, [failed]):
        return Outcome(mutation, "", time.monotonic() - started_s, f"no verdict: {failed} fails without it too")
    return Outcome(mutation, failed, time.monotonic() - started_s)


def run_in_one_of(trees: queue.SimpleQueue[Path], mutation: Mutation) -> Outcome:
    """Take a tree that no other job uses, run there, and give it back."""
    tree = trees.get()
    try:
        return run(mutation, tree)
    finally:
        trees.put(tree)


def first_failure(tree: Path, tests: list[str]) -> str:
    """The first test that fails in ``tree``, or "" when none does."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *TIMEOUT, *tests]
    # A byte-code file is told from its source by size and second: a mistake taken out at once could stay in it.
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "CI": ""}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    failed = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or (done.returncode == 1 and not failed):
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[1] if failed else ""


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="part of a name; may be repeated")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    chosen = [one for one in MUTATIONS if not options.only or any(part in one.name for part in options.only)]
    if options.list:
        print("\n".join(f"{one.name:<56} {one.file}" for one in chosen))
        return 0
    for mutation in chosen:
        mutated(mutation, (ROOT / mutation.file).read_text())
    survived = 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as place, ThreadPoolExecutor(options.jobs) as pool:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for _ in range(options.jobs):
            trees.put(copy_of_tree(Path(place)))
        for outcome in pool.map(functools.partial(run_in_one_of, trees), chosen):
            print(outcome.line, flush=True)
            survived += not outcome.caught_by
    print(f"{len(chosen) - survived} of {len(chosen)} caught")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
