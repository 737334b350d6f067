"""Real input, all the way: this project's own tests report through the plugin, and ClickHouse answers about them."""

import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import run_pipeline
from click.testing import CliRunner
from pytest_server import run_in_fork
from reports import rows
from side_packages import side_packages

from pipeline.base import config
from pipeline.base.clock import ManualClock
from pipeline.cli.main import cli
from pipeline.operate import wiring

TESTS = Path(__file__).parent
SHARDS = {"1": ["client/test_run_context.py", "test_status_words.py"], "2": ["test_backoff.py"]}
PLANTED = """
import time
tries = []

def test_flaky():
    tries.append(1)
    time.sleep(0.2 if len(tries) == 1 else 0.01)
    assert len(tries) > 1, "the first time it fails"
"""
GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_RUN_ID": "77",
    "GITHUB_JOB": "unit",
    "GITHUB_SHA": "merge-commit",
    "GITHUB_SERVER_URL": "https://code.test",
    "GITHUB_REPOSITORY": "o/r",
}
REQUEST = {
    "GITHUB_REF": "refs/pull/12/merge",
    "GITHUB_REF_NAME": "12/merge",
    "GITHUB_HEAD_REF": "feature",
    "GITHUB_BASE_REF": "main",
}


def _run_own_tests(url: str, directory: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """Two shards of a run, a process each; what their JUnit reports say, attempt by attempt."""
    found = []
    for shard, files in SHARDS.items():
        place = directory / shard
        if not place.exists():
            place.mkdir(parents=True)
            for name in files:
                shutil.copy(TESTS / name, place)
        (place / "test_planted.py").write_text(PLANTED if shard == "2" else "")
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest", "--reruns=1"]
        ours = ["--pipeline-metrics", "--pipeline-redis-url", url, "--pipeline-suite", "own", "--junitxml=report.xml"]
        plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        packages = {"PYTHONPATH": str(side_packages("pytest-rerunfailures>=16.6"))}
        done = run_in_fork(place, [*options, *ours], plain | packages | environment)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        found += rows((place / "report.xml").read_bytes())
    return found


def _told(run: dict[str, Any]) -> dict[str, Any]:
    names = ("executions", "passed", "flaky", "failed", "skipped", "retried")
    return {name: run[name] for name in names} | {"jobs": len(run["jobs"])}


@pytest.mark.thorough
@pytest.mark.timeout(240)
def test_own_test_suite_from_pytest_to_query(
    make_settings: Callable[..., config.Settings], _open_engine: None, tmp_path: Path
) -> None:
    """Our tests, sharded over two processes, with a planted flaky test, and the whole run again: two rows of ``runs``
    with CI system, link, branches and pull request; executions, attempts and durations agree with the JUnit reports;
    windows and baselines follow, `push --wait` ends when a report is stored, `pipeline query` shows the slowest."""
    settings = make_settings(data_dir=tmp_path, web={"clickhouse_port": 0})
    clock = ManualClock(time.time_ns() // 1_000_000)
    built = wiring.build(settings, threading.Event(), clock=clock, any_port=True)
    built.start(scheduled=False)
    try:
        url = built.link.url("metrics")
        event = tmp_path / "event.json"
        event.write_text('{"pull_request": {"head": {"sha": "abc"}}}')
        request = _run_own_tests(
            url, tmp_path / "a", GITHUB | REQUEST | {"GITHUB_RUN_ATTEMPT": "1", "GITHUB_EVENT_PATH": str(event)}
        )
        pushed = _run_own_tests(url, tmp_path / "b", GITHUB | {"GITHUB_RUN_ATTEMPT": "2", "GITHUB_REF_NAME": "main"})
        expected = request + pushed
        until = time.monotonic() + 120
        while built.books().stored < len(expected) and time.monotonic() < until:
            time.sleep(0.1)
        stored = built.store.query("SELECT * FROM metrics WHERE metric_type = 'duration'").to_pylist()
        assert len(stored) == len(expected) > 50
        verdicts = Counter((row["test_id"], row["status"], row["attempt"]) for row in stored)
        assert verdicts == Counter((row["test_id"], row["status"], row["attempt"]) for row in expected)
        # JUnit writes three decimals of a second, and adds the attempts of a test that passed in the end up.
        total_ms = sum(row["value"] for row in stored)
        assert total_ms == pytest.approx(sum(row["value"] for row in expected), abs=0.51 * len(expected))
        one, two = (row for row in stored if row["run_id"] == "github-77-1" and "test_flaky" in row["test_id"])
        assert {one["status"]: one["value"] >= 200, two["status"]: two["value"] < 200} == {
            "retried": True,
            "flaky": True,
        }

        clock.advance_s(600)
        for job in ("rollup", "baselines"):
            assert built.run_job(job), built.trouble()
        first, second = built.store.query("SELECT * FROM runs ORDER BY run_id").to_pylist()
        tests = len(pushed) - 1
        assert _told(first) == _told(second) == {
            "executions": tests, "passed": tests, "flaky": 1, "failed": 0, "skipped": 0, "retried": 1, "jobs": 2,
        }  # fmt: skip
        about = ("run_id", "ci_system", "url", "commit", "branch", "base_branch", "pull_request")
        link = "https://code.test/o/r/actions/runs/77"
        assert [first[name] for name in about] == ["github-77-1", "github", link, "abc", "feature", "main", "12"]
        assert [second[name] for name in about] == ["github-77-2", "github", link, "merge-commit", "main", "", ""]
        executions = built.store.rows(
            "SELECT verdict, count(), sum(attempts), sum(total_ms) FROM executions GROUP BY verdict ORDER BY verdict"
        )
        assert [row[:3] for row in executions] == [("flaky", 2, 4), ("passed", 2 * tests - 2, 2 * tests - 2)]
        assert sum(row[3] for row in executions) == pytest.approx(total_ms)

        windows = built.store.rows(
            "SELECT sum(total), sum(passed), sum(retried) FROM metrics_1min WHERE metric_type = 'duration'"
        )
        assert windows == [(2 * tests, 2 * tests, 2)]
        # The branch of the pull request moves no baseline.
        baselines = built.store.rows("SELECT samples FROM baselines WHERE test_suite = 'own' AND test_id = ''")
        assert baselines == [(tests,)]

        environment = {
            **os.environ,
            "PIPELINE_DATA_DIR": str(tmp_path),
            "PIPELINE_CLICKHOUSE__DSN": settings.clickhouse.dsn,
            "PIPELINE_CLICKHOUSE__DATABASE": settings.clickhouse.database,
        }
        asked = run_pipeline(["query", "SELECT * FROM slowest_tests LIMIT 5", "--json"], environment)
        assert asked.returncode == 0, asked.stderr
        slowest = json.loads(asked.stdout)["rows"]
        assert len(slowest) == 5
        report = tmp_path / "b/1/report.xml"
        pushing = {"PIPELINE_REDIS__URL": url.rpartition("/")[0], "PIPELINE_DATA_DIR": str(tmp_path / "other")}
        waited = CliRunner().invoke(cli, ["push", str(report), "--wait", "--run-id", "by-hand"], env=pushing)
        assert waited.exit_code == 0, waited.output
        assert waited.stdout.splitlines()[-1].endswith("executions; stored")
        by_hand = built.store.rows("SELECT count() FROM executions WHERE run_id = 'by-hand'")
        assert by_hand == [(len(rows(report.read_bytes())),)]
    finally:
        built.stop(stop_embedded=True)
