"""The page's flakiest tests beside the named query and the rule itself, over random histories."""

import time
from collections import Counter
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest

from pipeline.base import resources
from pipeline.base.sql_text import literal
from pipeline.web.figures import ReaderPool, figure, parameters
from web.conftest import World

OpenSite = Callable[..., World]
HISTORIES = 8
COUNTED = ("executions", "failures", "passed_after_retry", "retried_attempts", "changes_on_one_commit")


class Row(NamedTuple):
    """An attempt, in the order of the table's columns."""

    at_ms: int
    suite: str
    test: str
    environment: str
    browser: str
    status: str
    run: str
    job: str
    commit: str
    segment: str
    position: int

    @property
    def execution(self) -> tuple[Any, ...]:
        """What names the execution; without a run each row is one."""
        return (self.run, self.job, self.test, self.environment, self.browser) if self.run else self[-2:]


def history(seed: int, began_s: int) -> list[Row]:
    """Four hours of a few tests: retries, runs across hours, two environments, no commit, no run, equal times."""
    rng = np.random.default_rng(seed)
    commits = ["", "a", "b"] if seed % 2 else ["a", "b", "c"]
    words = ["passed", "Passed", "failed", "timed out", "retried", "rerun", "flaky", "skipped", "", "odd"]
    shares = [0.4, 0.1, 0.12, 0.03, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05]
    rows = []
    for position in range(int(rng.integers(60, 250))):
        minute = int(rng.integers(0, 240))
        run = f"run-{minute // 25}" if rng.random() < 0.8 else ""
        rows.append(
            Row(
                (began_s + minute * 60) * 1000 + int(rng.integers(0, 2)),
                f"history-{seed}",
                # A producer may send any character; these look like what parts names elsewhere.
                f"test\0-\u00ff-{rng.integers(0, 5)}",
                str(rng.choice(["staging", "production"])),
                str(rng.choice(["firefox", "safari"])),
                str(rng.choice(words, p=shares)),
                run,
                str(rng.choice(["", "shard-1"])),
                # A run tests one commit.
                commits[minute // 25 % 3] if run else str(rng.choice(commits)),
                str(rng.choice(["s.3", "s.30", "t"])),
                position,
            )
        )
    return rows


def texts(row: Row) -> str:
    """Its texts as SQL, in the order of the columns."""
    return ", ".join(map(literal, row[1:10]))


def by_the_rule(rows: list[Row]) -> dict[tuple[str, str], tuple[int, ...]]:
    """The rule in plain loops: by test and browser the five counts, of those that are flaky."""
    meaning = {"passed": "passed", "Passed": "passed", "failed": "failed", "timed out": "failed", "flaky": "flaky"}
    counts: dict[tuple[str, str], Counter[str]] = {}
    lines: dict[tuple[str, ...], list[tuple[int, bool]]] = {}
    for _, attempts in groupby(
        sorted(rows, key=lambda row: [str(part) for part in row.execution]), lambda row: row.execution
    ):
        group = sorted(attempts, key=lambda row: (row.at_ms, row.segment, row.position))
        decided = [row.status for row in group if row.status not in ("retried", "rerun")]
        tried_again = len(group) - len(decided)
        row = group[0]
        count = counts.setdefault((row.test, row.browser), Counter())
        verdict = meaning.get(decided[-1], "other") if decided else "none"
        if verdict in ("passed", "flaky"):  # what a producer calls failed was saved, too
            tried_again += sum(meaning.get(status) == "failed" for status in decided)
        if verdict == "none" and not row.run:
            count.update(passed_after_retry=1, retried_attempts=1)
        if verdict in ("none", "other"):
            continue
        has_failed = verdict == "failed"
        saved = not has_failed and (tried_again > 0 or verdict == "flaky")
        count.update(executions=1, failures=has_failed, passed_after_retry=saved, retried_attempts=tried_again)
        line = (row.test, row.browser, row.environment, row.commit)
        lines.setdefault(line, []).append((row.at_ms, has_failed))
    moved: Counter[tuple[str, str, bool]] = Counter()
    for (test, browser, _, commit), verdicts in lines.items():
        moved[test, browser, commit == ""] += sum(one[1] != other[1] for one, other in pairwise(sorted(verdicts)))
    for test, browser in counts:
        changes = moved[test, browser, False] + max(0, moved[test, browser, True] - 2)
        counts[test, browser]["changes_on_one_commit"] = changes
    return {
        key: tuple(count[name] for name in COUNTED)
        for key, count in counts.items()
        if count["passed_after_retry"] + count["changes_on_one_commit"] > 0
    }


@pytest.fixture
def world(open_site: OpenSite) -> World:
    """A site whose table of raw rows holds the histories, and nothing else."""
    return open_site()


def test_the_page_and_the_query_find_what_the_rule_says(world: World) -> None:
    """Whatever the history, each test's counts are those of the rule, read attempt by attempt."""
    began_s = int(time.time()) // 3600 * 3600 - 6 * 3600
    histories = {seed: history(seed, began_s) for seed in range(HISTORIES)}
    values = ", ".join(
        f"(fromUnixTimestamp64Milli({row.at_ms}, 'UTC'), 'Duration', {texts(row)}, {row.position})"
        for rows in histories.values()
        for row in rows
    )
    world.store.command(
        "INSERT INTO metrics (timestamp, metric_type, test_suite, test_id, environment, browser, status, run_id, job, "
        f"commit, segment, position) VALUES {values}"
    )
    query = resources.queries()["flakiest_tests"]
    span = {"from": str(began_s - 3600), "to": str(began_s + 5 * 3600)}
    handles = ReaderPool(world.store.clone)
    try:
        for seed, rows in histories.items():
            suite = f"history-{seed}"
            wanted = by_the_rule(rows)
            assert wanted
            told = figure(handles, "flakiest", parameters({**span, "suite": suite}, began_s + 6 * 3600))
            page = [dict(zip(told["columns"], row, strict=True)) for row in told["rows"]]
            assert {(row["test_id"], row["browser"]): tuple(row[name] for name in COUNTED) for row in page} == wanted, (
                suite
            )
            given = {"since": span["from"], "until": span["to"], "suite": suite}
            named = world.store.query(query.sql, query.values(given, (began_s + 6 * 3600) * 1000)).to_pylist()
            assert [(row["test_id"], row["browser_name"], row["flakiness"]) for row in named] == [
                (row["test_id"], row["browser"], row["flakiness"]) for row in page
            ], suite
            assert {
                (row["test_id"], row["browser_name"]): tuple(row[name] for name in COUNTED) for row in named
            } == wanted, suite
    finally:
        handles.close()
