import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import redis_executables

from pipeline.client.pytest_plugin import Execution

ONE_REDIS = pytest.mark.parametrize("redis_url", sorted(redis_executables())[:1], indirect=True)

SAMPLE = """
import time
import pytest

@pytest.fixture
def slow():
    time.sleep(0.02)
    yield
    time.sleep(0.03)

@pytest.fixture
def broken(): raise RuntimeError("setup")

@pytest.fixture
def breaks_after():
    yield
    raise RuntimeError("teardown")

def test_passes(slow): time.sleep(0.01)
def test_fails(): assert 0
def test_setup_error(broken): pass
def test_teardown_error(breaks_after): pass
def test_fails_twice(breaks_after): assert 0
@pytest.mark.skip(reason="no")
def test_skipped(): pass
def test_skips_itself(): pytest.skip("no")
@pytest.mark.xfail
def test_xfail(): assert 0
@pytest.mark.xfail
def test_xpass(): pass
@pytest.mark.xfail(strict=True)
def test_strict_xpass(): pass
class TestInside:
    @pytest.mark.parametrize("browser", ["chromium", "webkit"])
    def test_method(self, browser): pass
"""

STATUSES = {
    "test_passes": ("passed", "call"),
    "test_fails": ("failed", "call"),
    "test_setup_error": ("failed", "setup"),
    "test_teardown_error": ("failed", "teardown"),
    "test_fails_twice": ("failed", "call"),
    "test_skipped": ("skipped", "setup"),
    "test_skips_itself": ("skipped", "call"),
    "test_xfail": ("skipped", "call"),
    "test_xpass": ("passed", "call"),
    "test_strict_xpass": ("failed", "call"),
    "TestInside::test_method[chromium]": ("passed", "call"),
    "TestInside::test_method[webkit]": ("passed", "call"),
}


def run_pytest(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments]
    ours = {name: text for name, text in os.environ.items() if not name.startswith("PIPELINE_")}
    return subprocess.run(command, cwd=directory, env=ours | environment, capture_output=True, text=True, check=False)


def pushed(url: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(f"{url}/3") as client:
        return [json.loads(item) for item in reversed(client.lrange("metrics:buffer", 0, -1))]


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, _redis_servers: Callable[[str], str]
) -> tuple[list[dict[str, Any]], ET.Element]:
    """One run of the sample and of a file that cannot be collected: its metrics, and the suite in its JUnit report."""
    directory = tmp_path_factory.mktemp("recorded")
    (directory / "test_sample.py").write_text(SAMPLE)
    (directory / "test_unreadable.py").write_text("import nothing_of_that_name\n")
    url = _redis_servers(sorted(redis_executables())[0])
    with redis.Redis.from_url(url) as client:
        client.flushall()
    run = run_pytest(
        directory,
        "--pipeline-metrics",
        "--pipeline-environment=staging",
        "--junitxml=report.xml",
        "--continue-on-collection-errors",
        PIPELINE_REDIS__URL=url,
    )
    assert "pipeline metrics: 13 sent, 0 dropped" in run.stdout
    suite = ET.parse(directory / "report.xml").getroot().find("testsuite")
    assert suite is not None
    return pushed(url), suite


def test_metrics_and_the_junit_report_of_one_run_agree(recorded: tuple[list[dict[str, Any]], ET.Element]) -> None:
    """Same executions, same statuses, same durations to JUnit's millisecond; what could not be collected included."""
    metrics, suite = recorded
    # JUnit splits a test that fails in its call and again in its teardown in two elements.
    assert len(metrics) == len(suite.findall("testcase")) - 1
    seconds: dict[str, float] = defaultdict(float)
    elements: dict[str, list[str]] = defaultdict(list)
    for case in suite.iter("testcase"):
        name = f"{case.attrib['classname']}.{case.attrib['name']}".lstrip(".")
        seconds[name] += float(case.attrib["time"])
        elements[name] += [child.tag for child in case]
    ours = {}
    for metric in metrics:
        path, _, name = metric["test_id"].partition("::")
        ours[".".join(filter(None, [path.removesuffix(".py"), name.replace("::", ".")]))] = metric
    assert ours.keys() == seconds.keys()
    for name, metric in ours.items():
        assert metric["value"] / 1000 == pytest.approx(seconds[name], abs=0.0011), name
        failed = {"failure", "error"} & set(elements[name])
        assert metric["status"] == ("failed" if failed else "skipped" if "skipped" in elements[name] else "passed")
    assert ours["test_sample.test_passes"]["value"] >= 60
    assert ours["test_unreadable"]["tags"] == {"phase": "collect"}


def test_each_outcome_has_its_status_and_phase(recorded: tuple[list[dict[str, Any]], ET.Element]) -> None:
    """The table of outcomes; identity, suite, browser and environment of the metrics."""
    metrics = {metric["test_name"]: metric for metric in recorded[0] if metric["tags"]["phase"] != "collect"}
    assert {name: (m["status"], m["tags"]["phase"]) for name, m in metrics.items()} == STATUSES
    method = metrics["TestInside::test_method[webkit]"]
    assert method["test_id"] == "test_sample.py::TestInside::test_method[webkit]"
    assert (method["test_suite"], method["browser"], method["environment"]) == ("test_sample", "webkit", "staging")
    assert metrics["test_passes"]["browser"] == ""
    assert {m["metric_type"] for m in metrics.values()} == {"duration"}


@ONE_REDIS
def test_under_xdist_the_controller_sends_each_execution_once(tmp_path: Path, redis_url: str) -> None:
    """Two workers, one of which a test kills: every outcome once, with its worker; the killer has failed."""
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "test_zz_killer.py").write_text("import os\ndef test_kills(): os._exit(3)\n")
    run = run_pytest(
        tmp_path,
        "-n2",
        "--pipeline-metrics",
        f"--pipeline-redis-url={redis_url}",
        "--pipeline-suite=nightly",
        "--pipeline-browser=firefox",
    )
    assert "pipeline metrics: 13 sent, 0 dropped" in run.stdout
    metrics = pushed(redis_url)
    statuses = {m["test_name"]: m["status"] for m in metrics}
    assert statuses == {name: status for name, (status, _) in STATUSES.items()} | {"test_kills": "failed"}
    assert len(metrics) == len(statuses)
    assert {m["test_suite"] for m in metrics} == {"nightly"}
    assert {m["browser"] for m in metrics} == {"firefox"}
    assert all(m["tags"]["worker"].startswith("gw") for m in metrics)


def test_a_run_without_redis_ends_as_it_would_have(tmp_path: Path) -> None:
    """Exit code 0, and the summary says what was dropped and why."""
    (tmp_path / "test_ok.py").write_text("def test_ok(caplog): assert not caplog.records\n")
    run = run_pytest(tmp_path, "--pipeline-metrics", "--pipeline-redis-url=redis://127.0.0.1:1")
    assert run.returncode == 0, run.stdout
    assert "pipeline metrics: 0 sent, 1 dropped" in run.stdout
    assert "refused" in run.stdout
    assert run.stderr == ""


def test_a_wrong_setting_is_told_and_ends_no_run(tmp_path: Path) -> None:
    """The tests come first: exit code 0, one line names the setting."""
    (tmp_path / "test_ok.py").write_text("def test_ok(): pass\n")
    run = run_pytest(tmp_path, "--pipeline-metrics", PIPELINE_REDIS__URL="http://nonsense")
    assert run.returncode == 0, run.stdout
    assert "pipeline metrics: none sent (ConfigError: setting 'redis.url'" in run.stdout


def test_without_the_option_nothing_is_imported_or_said(tmp_path: Path) -> None:
    """Neither Redis nor pydantic nor the client are loaded, and the summary is pytest's own."""
    (tmp_path / "test_ok.py").write_text(
        "import sys\n"
        "def test_ok():\n"
        "    assert 'pipeline.client.pytest_plugin' in sys.modules\n"
        "    assert not {'redis', 'pydantic', 'msgspec', 'pipeline.client.producer'} & set(sys.modules)\n"
    )
    run = run_pytest(tmp_path, "-p", "no:xdist")
    assert run.returncode == 0, run.stdout
    assert "pipeline metrics" not in run.stdout


@ONE_REDIS
def test_subtests_count_with_their_test(tmp_path: Path, redis_url: str) -> None:
    """One execution, failed when a subtest failed, with the time of the test itself."""
    if not hasattr(pytest, "Subtests"):
        pytest.skip("this pytest has no subtests")
    (tmp_path / "conftest.py").write_text(
        "def pytest_runtest_logreport(report):\n"
        "    if not hasattr(report, 'context'):\n"
        "        print(repr(report.duration), file=open('durations', 'a'))\n"
    )
    (tmp_path / "test_parts.py").write_text(
        "def test_parts(subtests):\n"
        "    for i in range(3):\n"
        "        with subtests.test(i=i):\n"
        "            assert i != 1\n"
    )
    run_pytest(tmp_path, "--pipeline-metrics", f"--pipeline-redis-url={redis_url}")
    (metric,) = pushed(redis_url)
    assert metric["status"] == "failed"
    seconds = sum(float(line) for line in (tmp_path / "durations").read_text().split())
    assert metric["value"] == pytest.approx(seconds * 1000, abs=0.0001)


def test_attempts_that_a_plugin_repeats_add_up() -> None:
    """The reports of pytest-rerunfailures: the duration of all attempts, the last one's status, counted retries."""

    def report(when: str, outcome: str, duration: float) -> pytest.TestReport:
        location = ("test_a.py", 1, "test_a")
        return pytest.TestReport("test_a.py::test_a", location, {}, outcome, None, when, duration=duration)  # type: ignore[arg-type]

    execution = Execution()
    for _ in range(2):
        execution.take(report("setup", "passed", 1))
        execution.take(report("call", "rerun", 10))
    for phase in ("setup", "call", "teardown"):
        execution.take(report(phase, "passed", 0.5))
    assert (execution.duration_s, execution.status, execution.retries) == (23.5, "passed", 2)
