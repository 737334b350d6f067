"""Real input, all the way: this project's own tests report through the plugin, and ClickHouse answers about them."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.base import config
from pipeline.base.clock import ManualClock
from pipeline.operate import wiring

TESTS = Path(__file__).parent
OWN_TESTS = ("analyse/test_intervals.py", "alerts/test_states.py")


def _run_own_tests(url: str, report: Path) -> None:
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts="),
        *("--pipeline-metrics", "--pipeline-redis-url", url, "--pipeline-suite", "own", "--junitxml", str(report)),
        *(str(TESTS / name) for name in OWN_TESTS),
    ]
    done = subprocess.run(
        command, cwd=TESTS.parent, capture_output=True, text=True, env={**os.environ, "PIPELINE_BRANCH": "main"}
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _junit(report: Path) -> dict[str, tuple[float, str]]:
    """Test to (seconds, status), as the JUnit report has it."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        status = "passed"
        if case.find("skipped") is not None:
            status = "skipped"
        elif case.find("failure") is not None or case.find("error") is not None:
            status = "failed"
        found[f"{case.get('classname')}::{case.get('name')}"] = (float(case.get("time", "0")), status)
    return found


@pytest.mark.timeout(240)
def test_own_test_suite_from_pytest_to_query(
    make_settings: Callable[..., config.Settings], _open_engine: None, tmp_path: Path
) -> None:
    """Our tests, run with the plugin, are drained, rolled up and baselined; count, durations and status agree with
    the JUnit report of the same run, and `pipeline query` shows the slowest of them."""
    settings = make_settings(data_dir=tmp_path, web={"clickhouse_port": 0})
    clock = ManualClock(time.time_ns() // 1_000_000)
    built = wiring.build(settings, threading.Event(), clock=clock, any_port=True)
    built.start(scheduled=False)
    try:
        report = tmp_path / "report.xml"
        _run_own_tests(built.link.url("metrics"), report)
        expected = _junit(report)
        until = time.monotonic() + 60
        while built.books().stored < len(expected) and time.monotonic() < until:
            time.sleep(0.1)
        rows = built.store.rows("SELECT test_id, value, status, test_suite FROM metrics WHERE metric_type = 'duration'")
        assert len(rows) == len(expected) > 50
        assert {suite for *_, suite in rows} == {"own"}
        assert sorted(status for _, _, status, _ in rows) == sorted(status for _, status in expected.values())
        total_ms = sum(value for _, value, _, _ in rows)
        # JUnit writes three decimals of a second.
        assert total_ms == pytest.approx(1000 * sum(s for s, _ in expected.values()), abs=0.51 * len(expected))

        clock.advance_s(600)
        for job in ("rollup", "baselines"):
            assert built.run_job(job), built.trouble()
        windows = built.store.rows(
            "SELECT sum(total), sum(passed), sum(sum) FROM metrics_1min WHERE metric_type = 'duration'"
        )
        skipped = sum(status == "skipped" for _, status in expected.values())
        passed = sum(status == "passed" for _, status in expected.values())
        assert windows[0][:2] == (len(expected) - skipped, passed)
        assert windows[0][2] == pytest.approx(total_ms)
        baselines = built.store.rows("SELECT samples FROM baselines WHERE test_suite = 'own' AND test_id = ''")
        assert baselines and baselines[0][0] == len(expected) - skipped

        environment = {
            **os.environ,
            "PIPELINE_DATA_DIR": str(tmp_path),
            "PIPELINE_CLICKHOUSE__DSN": settings.clickhouse.dsn,
            "PIPELINE_CLICKHOUSE__DATABASE": settings.clickhouse.database,
        }
        asked = subprocess.run(
            [sys.executable, "-m", "pipeline", "query", "SELECT * FROM slowest_tests LIMIT 5", "--json"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert asked.returncode == 0, asked.stderr
        slowest = json.loads(asked.stdout)["rows"]
        assert len(slowest) == 5
        worst = max(rows, key=lambda row: row[1])
        assert any(worst[0] in str(row) for row in slowest)
    finally:
        built.stop(stop_embedded=True)
