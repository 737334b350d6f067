import json
import os
import shutil
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import missing, redis_executables
from pytest_server import run_in_fork
from reports import NOW_MS, rows
from side_packages import side_packages

from pipeline.client.importers.allure import allure
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Context

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


def run_pytest(
    directory: Path, *arguments: str, afresh: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A session of pytest in ``directory``; ``afresh`` in a Python that has imported nothing yet."""
    options = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments]
    theirs = {name: text for name, text in os.environ.items() if not name.startswith(("PIPELINE_", "GITHUB_"))}
    if not afresh:
        return run_in_fork(directory, options, theirs | environment)
    command = [sys.executable, "-m", "pytest", *options]
    return subprocess.run(
        command, cwd=directory, env=theirs | environment, capture_output=True, text=True, errors="replace", check=False
    )


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
    unreadable = ours["test_unreadable"]
    assert (unreadable["test_id"], unreadable["tags"]["phase"]) == ("test_unreadable.py", "collect")
    assert (unreadable["error_type"], unreadable["attempt"]) == ("ModuleNotFoundError", 1)


def test_each_outcome_has_its_status_and_phase(recorded: tuple[list[dict[str, Any]], ET.Element]) -> None:
    """The table of outcomes; identity, suite, browser and environment of the metrics."""
    metrics = {metric["test_name"]: metric for metric in recorded[0] if metric["tags"]["phase"] != "collect"}
    assert {name: (m["status"], m["tags"]["phase"]) for name, m in metrics.items()} == STATUSES
    method = metrics["TestInside::test_method[webkit]"]
    assert method["test_id"] == "test_sample.py::TestInside::test_method[webkit]"
    assert (method["test_suite"], method["browser"], method["environment"]) == ("test_sample", "webkit", "staging")
    assert "browser" not in metrics["test_passes"]
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
    run = run_pytest(tmp_path, "-p", "no:xdist", afresh=True)
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


SUBTESTS = """
import unittest
import pytest
class T(unittest.TestCase):
    def test_of_unittest(self):
        for i in range(3):
            with self.subTest(i=i):
                if i == 1: self.skipTest("not here")
def test_all(subtests):
    for i in range(2):
        with subtests.test(i=i): pytest.skip("not here")
def test_one(subtests):
    for i in range(3):
        with subtests.test(i=i):
            if i == 1: pytest.skip("not here")
            assert i != 2
def test_none(subtests):
    with subtests.test(): pass
"""


@ONE_REDIS
def test_a_skipped_subtest_is_told_as_in_the_junit_report(tmp_path: Path, redis_url: str) -> None:
    """pytest itself reports the test as passed; its JUnit report as skipped, or as failed where another one failed."""
    if not hasattr(pytest, "Subtests"):
        pytest.skip("this pytest has no subtests")
    (tmp_path / "test_parts.py").write_text(SUBTESTS)
    options = ("--pipeline-metrics", f"--pipeline-redis-url={redis_url}", "--junitxml=report.xml")
    run_pytest(tmp_path, "-p", "no:xdist", *options)
    told = {metric["test_name"]: metric["status"] for metric in pushed(redis_url)}
    assert told == {
        "T::test_of_unittest": "skipped", "test_all": "skipped", "test_one": "failed", "test_none": "passed",
    }  # fmt: skip
    report = rows((tmp_path / "report.xml").read_bytes())
    assert told == {metric["test_name"]: metric["status"] for metric in report}


REPEATED = """
import itertools
attempt = itertools.count()
def test_a(): assert 0
def test_flaky(): assert next(attempt) >= 1, "boom 12"
def test_ok(): pass
"""

BROKEN_TEARDOWN = """
import pytest
@pytest.fixture
def torn():
    yield
    raise ValueError("teardown 7")
def test_torn(torn): pass
"""

THREE_TRIES = [("retried", 1), ("retried", 2), ("failed", 3)]
REPEATERS = {
    "rerunfailures, a teardown for every attempt": (["pytest-rerunfailures>=16.6"], ["--reruns=2"], THREE_TRIES),
    "rerunfailures, none for those it repeats": (["pytest-rerunfailures==15.1"], ["--reruns=2"], THREE_TRIES),
    "flaky, which reports no failed call": (["flaky>=3.8"], ["--force-flaky", "--max-runs=3"], [("failed", 1)]),
    "retry, which reports calls alone": (["pytest-retry>=1.7"], ["--retries=1"], [("failed", 1)]),
}


@ONE_REDIS
@pytest.mark.parametrize(("packages", "options", "torn"), REPEATERS.values(), ids=REPEATERS)
def test_every_attempt_is_a_row_and_the_last_one_says_how_it_ended(
    packages: list[str], options: list[str], torn: list[tuple[str, int]], tmp_path: Path, redis_url: str
) -> None:
    """With each plugin that repeats tests, also a test of which the teardown alone fails."""
    (tmp_path / "test_a.py").write_text(REPEATED)
    (tmp_path / "test_torn.py").write_text(BROKEN_TEARDOWN)
    run = run_pytest(
        tmp_path,
        *(*options, "-p", "no:xdist", "--pipeline-metrics", f"--pipeline-redis-url={redis_url}"),
        PYTHONPATH=str(side_packages(*packages)),
    )
    assert run.returncode == 1, run.stdout + run.stderr
    rows = pushed(redis_url)
    failed = THREE_TRIES if "--retries=1" not in options else [("retried", 1), ("failed", 2)]
    assert [(m["test_name"], m["status"], m["attempt"]) for m in rows] == [
        *(("test_a", *row) for row in failed),
        *(("test_flaky", "retried", 1), ("test_flaky", "flaky", 2), ("test_ok", "passed", 1)),
        *(("test_torn", *row) for row in torn),
    ]
    errors = {(m["test_name"], m["error_type"], m["tags"]["error_message"]) for m in rows if "error_type" in m}
    assert errors == {
        ("test_a", "AssertionError", "assert <n>"),
        ("test_flaky", "AssertionError", "boom <n>"),
        ("test_torn", "ValueError", "teardown <n>"),
    }
    assert len({(m["run_id"], m["job"]) for m in rows}) == 1


@ONE_REDIS
def test_under_xdist_attempts_crashes_and_collection_errors_count_once(tmp_path: Path, redis_url: str) -> None:
    """Two workers, each of which cannot collect a file, and a test that kills its worker at every attempt."""
    (tmp_path / "test_a.py").write_text(REPEATED)
    (tmp_path / "test_killer.py").write_text("import os\ndef test_kills(): os._exit(3)\n")
    (tmp_path / "test_bad.py").write_text("raise ValueError('3 wrong')\n")
    run_pytest(
        tmp_path,
        *("-n2", "--reruns=1", "--continue-on-collection-errors"),
        *("--pipeline-metrics", f"--pipeline-redis-url={redis_url}"),
        PYTHONPATH=str(side_packages("pytest-rerunfailures>=16.6")),
    )
    rows = sorted((m["test_id"], m["attempt"], m["status"]) for m in pushed(redis_url))
    assert rows == [
        ("test_a.py::test_a", 1, "retried"),
        ("test_a.py::test_a", 2, "failed"),
        ("test_a.py::test_flaky", 1, "retried"),
        ("test_a.py::test_flaky", 2, "flaky"),
        ("test_a.py::test_ok", 1, "passed"),
        ("test_bad.py", 1, "failed"),
        ("test_killer.py::test_kills", 1, "retried"),
        ("test_killer.py::test_kills", 2, "failed"),
    ]


@ONE_REDIS
@pytest.mark.parametrize("how", ["raise KeyboardInterrupt", "pytest.exit('x')"])
def test_what_was_interrupted_did_not_pass(how: str, tmp_path: Path, redis_url: str) -> None:
    """Status interrupted, with the time until then, and in the phase that was cut."""
    (tmp_path / "test_i.py").write_text(
        f"import pytest, time\ndef test_before(): pass\ndef test_i():\n    time.sleep(0.05)\n    {how}\n"
    )
    run_pytest(tmp_path, "-p", "no:xdist", "--pipeline-metrics", f"--pipeline-redis-url={redis_url}")
    before, cut = pushed(redis_url)
    assert (before["status"], cut["status"], cut["tags"]["phase"]) == ("passed", "interrupted", "call")
    assert cut["value"] >= 50


@ONE_REDIS
def test_a_failed_subtest_of_unittest_fails_its_test(tmp_path: Path, redis_url: str) -> None:
    """pytest itself reports the test as passed and the subtest as failed: one failed execution."""
    if not hasattr(pytest, "Subtests"):
        pytest.skip("this pytest has no subtests")
    (tmp_path / "test_parts.py").write_text(
        "import unittest\nclass T(unittest.TestCase):\n    def test_parts(self):\n        for i in range(3):\n"
        "            with self.subTest(i=i): self.assertNotEqual(i, 1)\n"
    )
    run_pytest(tmp_path, "-p", "no:xdist", "--pipeline-metrics", f"--pipeline-redis-url={redis_url}")
    (metric,) = pushed(redis_url)
    assert (metric["test_id"], metric["status"]) == ("test_parts.py::T::test_parts", "failed")
    assert metric["error_type"] == "AssertionError"


@ONE_REDIS
def test_ids_that_no_text_can_carry_are_stored(tmp_path: Path, redis_url: str) -> None:
    """A Latin-1 directory and a raw id with half a character: U+FFFD in the id, and the session goes on."""
    directory = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(directory)  # noqa: PTH102  # a Path cannot be made of these bytes
    except OSError:
        pytest.skip("this file system takes no such name")
    with open(directory + b"/test_l.py", "w") as file:  # noqa: PTH123
        file.write("def test_l(): pass\n")
    run = run_pytest(tmp_path, "-p", "no:xdist", "--pipeline-metrics", f"--pipeline-redis-url={redis_url}")
    assert run.returncode == 0, run.stdout
    (metric,) = pushed(redis_url)
    assert metric["test_id"] == "caf\ufffd/test_l.py::test_l"


@ONE_REDIS
def test_the_run_comes_from_the_environment_and_from_options(tmp_path: Path, redis_url: str) -> None:
    """A GitHub re-run is a run of its own; an option wins over the environment."""
    (tmp_path / "test_ok.py").write_text("def test_ok(): pass\n")
    github = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_RUN_ID": "77",
        "GITHUB_RUN_ATTEMPT": "2",
        "GITHUB_JOB": "unit",
        "GITHUB_SHA": "abc",
        "GITHUB_REF_NAME": "main",
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_SERVER_URL": "https://code.test",
    }
    run_pytest(
        tmp_path,
        *("-p", "no:xdist", "--pipeline-metrics", f"--pipeline-redis-url={redis_url}", "--pipeline-branch=side"),
        **github,
    )
    (metric,) = pushed(redis_url)
    assert (metric["run_id"], metric["commit"], metric["branch"]) == ("github-77-2", "abc", "side")
    assert metric["job"].startswith("unit#")
    assert metric["tags"]["run_link"] == "https://code.test/o/r/actions/runs/77"


@ONE_REDIS
def test_what_was_only_set_up_did_not_pass(tmp_path: Path, redis_url: str) -> None:
    """``--setup-only`` and ``--setup-plan`` call no test."""
    (tmp_path / "test_it.py").write_text("def test_it(tmp_path): assert 0\n")
    run_pytest(tmp_path, "-p", "no:xdist", "--setup-only", "--pipeline-metrics", PIPELINE_REDIS__URL=redis_url)
    assert [metric["status"] for metric in pushed(redis_url)] == ["skipped"]


WRONG_URLS = {
    "an unknown option": ("redis://127.0.0.1:1?foo=bar", "foo"),
    "a password with #": ("redis://:pa#ss@h:6379", ""),
    "no server": ("redis://127.0.0.1:1", "refused"),
}


@pytest.mark.parametrize(("url", "words"), WRONG_URLS.values(), ids=WRONG_URLS)
def test_no_trouble_of_ours_ends_a_session_otherwise(url: str, words: str, tmp_path: Path) -> None:
    """Exit code 0 also where every warning is an error; the trouble is told without the password."""
    (tmp_path / "test_ok.py").write_text("def test_ok(): pass\n")
    # The modules of the plugin are imported before the session here, of which pytest warns.
    strict = ("-W", "error", "-W", "ignore::pytest.PytestAssertRewriteWarning")
    run = run_pytest(tmp_path, "-p", "no:xdist", *strict, "--pipeline-metrics", f"--pipeline-redis-url={url}")
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("pipeline metrics:")]
    assert words in line
    assert "pa#ss" not in line


def test_a_server_that_never_answers_is_told_as_such(tmp_path: Path) -> None:
    """It takes the connection and says nothing: the summary says that, and not how the socket was closed."""
    (tmp_path / "test_ok.py").write_text("def test_ok(): pass\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}"
        run = run_pytest(tmp_path, "-p", "no:xdist", "--pipeline-metrics", f"--pipeline-redis-url={url}")
    assert run.returncode == 0, run.stdout
    assert "pipeline metrics: 0 sent, 1 dropped (Redis did not answer within 2 s)" in run.stdout


def test_a_broken_reporter_costs_a_line_and_no_session(tmp_path: Path) -> None:
    """Whatever happens inside: the tests run, the exit code is theirs, the summary says what broke."""
    (tmp_path / "conftest.py").write_text(
        "from pipeline.client import pytest_attempts\n"
        "def broken(*a): raise RuntimeError('no')\n"
        "pytest_attempts.Attempts.reported = broken\n"
        "pytest_attempts.Attempts.finished = broken\n"
    )
    (tmp_path / "test_ok.py").write_text("def test_ok(): pass\n")
    run = run_pytest(tmp_path, "-p", "no:xdist", "--pipeline-metrics", "--pipeline-redis-url=redis://127.0.0.1:1")
    assert run.returncode == 0, run.stdout
    assert "RuntimeError: no" in run.stdout


SIDE_BY_SIDE = [
    *("pytest-cov", "coverage", "pytest-mock", "pytest-asyncio", "pytest-randomly", "pytest-sugar", "termcolor"),
    *("pytest-html", "jinja2", "markupsafe", "pytest-metadata", "pytest-rerunfailures>=16.6"),
]
BROWSER_PLUGINS = ["pytest-playwright", "pytest-base-url", "python-slugify", "text-unidecode"]
MOCKED = "def test_mock(mocker): assert mocker.Mock()() is not None\n"
ASYNCHRONOUS = "import asyncio, pytest\n@pytest.mark.asyncio\nasync def test_async(): await asyncio.sleep(0)\n"
BROWSED = """
from itertools import count
attempts = count()
def test_page(page):
    page.set_content("<h1>Cart</h1>")
    assert page.inner_text("h1") == "Cart"
def test_wrong_page(page):
    page.set_content("<h1>Cart</h1>")
    assert page.inner_text("h1") == "Checkout"
def test_flaky_page(page): assert next(attempts)
"""


@ONE_REDIS
def test_allure_s_results_of_the_same_run_name_the_same_executions(tmp_path: Path, redis_url: str) -> None:
    """The real allure-pytest beside the plugin: ids, names, suites and verdicts."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/test_sample.py").write_text(SAMPLE)
    run = run_pytest(
        tmp_path,
        *("-p", "no:xdist", "--alluredir=results", "--pipeline-metrics", f"--pipeline-redis-url={redis_url}"),
        PYTHONPATH=str(side_packages("allure-pytest>=2.16", "allure-python-commons>=2.16", "attrs>=23")),
    )
    context = Context(NOW_MS)
    results = [Node(json.loads(path.read_bytes()), context) for path in (tmp_path / "results").glob("*-result.json")]
    same = ("test_id", "test_name", "test_suite", "status")
    told = sorted([metric[name] for name in same] for metric in pushed(redis_url))
    assert told, run.stdout + run.stderr
    assert sorted([row[name] for name in same] for row in allure(results).rows(NOW_MS)) == told


CHROMIUM_FOUND = """
import pytest
@pytest.fixture(scope="session")
def browser_type_launch_args():
    return {{"executable_path": {path!r}, "args": ["--no-sandbox"]}}
"""


def executions_beside_plugins(path: Path, url: str, *options: str, plugins: list[str]) -> dict[str, str]:
    """Test by test what the plugin pushed, after it was held against the JUnit report of the same run."""
    (path / "test_sample.py").write_text(SAMPLE)
    (path / "test_repeated.py").write_text(REPEATED)
    run = run_pytest(
        path,
        *(*options, "--reruns=1", "--cov=.", "--html=report.html", "--timeout=60", "--junitxml=report.xml"),
        *("--pipeline-metrics", f"--pipeline-redis-url={url}"),
        PYTHONPATH=str(side_packages(*SIDE_BY_SIDE, *plugins)),
    )
    assert run.returncode == 1, run.stdout + run.stderr
    ours = {m["test_id"]: m["status"] for m in pushed(url) if m["status"] != "retried"}
    report = rows((path / "report.xml").read_bytes())
    assert ours == {m["test_id"]: m["status"] for m in report if m["status"] != "retried"}, run.stdout
    return ours


@ONE_REDIS
def test_beside_the_most_used_plugins_it_agrees_with_the_junit_report(tmp_path: Path, redis_url: str) -> None:
    """cov, mock, asyncio, timeout, randomly, sugar, html, rerunfailures: the same executions and verdicts."""
    (tmp_path / "test_more.py").write_text(ASYNCHRONOUS + MOCKED)
    found = executions_beside_plugins(tmp_path, redis_url, "-p", "no:xdist", plugins=[])
    assert found["test_more.py::test_async"] == "passed"


@ONE_REDIS
def test_with_xdist_and_a_browser_it_agrees_with_the_junit_report(tmp_path: Path, redis_url: str) -> None:
    """The same plugins on two workers, with pytest-playwright on a real chromium, which is the rows' browser."""
    chromium = shutil.which("chromium") or missing("chromium is not installed")
    pytest.importorskip("playwright")
    (tmp_path / "conftest.py").write_text(CHROMIUM_FOUND.format(path=chromium))
    (tmp_path / "test_more.py").write_text(BROWSED + MOCKED)
    found = executions_beside_plugins(tmp_path, redis_url, "-n2", "--browser=chromium", plugins=BROWSER_PLUGINS)
    assert found["test_more.py::test_page[chromium]"] == "passed"
    assert found["test_more.py::test_wrong_page[chromium]"] == "failed"
    browsed = {m["test_name"]: m.get("browser") for m in pushed(redis_url) if m["test_id"].startswith("test_more.py")}
    assert {name for name, browser in browsed.items() if browser == "chromium"} == browsed.keys() - {"test_mock"}
    assert len({(m["run_id"], m["job"]) for m in pushed(redis_url)}) == 1
