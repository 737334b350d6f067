"""Our reporter in a real run of Playwright on Debian's chromium, against the real endpoint."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import missing
from side_packages import side_npm_packages

from pipeline.cli.main import cli
from pipeline.client.failures import failure
from pipeline.client.importers import formats
from pipeline.client.importers.report import Context
from pipeline.client.run_context import detect

SPEC = """
const { test, expect } = require('@playwright/test');
test.describe('cart', () => {
  test('pays', async ({ page }) => { await page.setContent('<h1>ok</h1>'); expect(await page.title()).toBe(''); });
  test('fails', async () => { expect(1).toBe(2); });
  test('flakes', async ({}, info) => { if (info.retry === 0) throw new TypeError('boom 7 at /tmp/x/y.js'); });
  test.skip('waits', () => {});
  test('is known to fail', async () => { test.fail(); expect(1).toBe(2); });
});
test.describe.serial('group', () => {
  test('opens', () => {});
  test('gives up \\u0007', ({}, info) => { if (info.retry) test.skip(); throw new Error('boom \\u0007'); });
});
"""
CONFIG = """
const use = {browserName: 'chromium', launchOptions: {executablePath: CHROMIUM, args: ['--no-sandbox']}};
module.exports = {testDir: '.', retries: 1, workers: 1, projects: [{name: 'chromium', use}],
  reporter: [['json', {outputFile: 'report.json'}], ['./pipeline-playwright-reporter.mjs', OPTIONS]]};
"""
ROWS = [
    ("cart › pays", "passed", 1),
    ("cart › fails", "retried", 1),
    ("cart › fails", "failed", 2),
    ("cart › flakes", "retried", 1),
    ("cart › flakes", "flaky", 2),
    ("cart › waits", "skipped", 1),
    ("cart › is known to fail", "passed", 1),
    ("group › opens", "retried", 1),
    ("group › opens", "passed", 2),
    ("group › gives up", "retried", 1),
    ("group › gives up", "skipped", 2),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with Playwright, our reporter and one file of tests."""
    chromium = shutil.which("chromium") or missing("chromium is not installed")
    (tmp_path / "node_modules").symlink_to(side_npm_packages("@playwright/test@1") / "node_modules")
    assert CliRunner().invoke(cli, ["reporter", "playwright", "--out", str(tmp_path)]).exit_code == 0
    (tmp_path / "cart.spec.js").write_text(SPEC)
    (tmp_path / "playwright.config.js").write_text(CONFIG.replace("CHROMIUM", json.dumps(chromium)))
    return tmp_path


def playwright(
    project: Path, options: dict[str, Any], *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    config = project / "playwright.config.js"
    config.write_text(config.read_text().replace("OPTIONS", json.dumps(options)))
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("GITHUB_", "GITLAB_", "CI"))}
    command = ["node", "node_modules/@playwright/test/cli.js", "test", *arguments]
    return subprocess.run(command, cwd=project, env=kept | environment, capture_output=True, text=True, check=False)


def run(project: Path, options: dict[str, Any], *arguments: str, **environment: str) -> str:
    done = playwright(project, options, *arguments, **environment)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("pipeline metrics:")]
    return line


def shown(rows: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return [(row["test_name"], row["status"], row["attempt"]) for row in rows]


def imported(project: Path) -> list[dict[str, Any]]:
    with (project / "report.json").open("rb") as file:
        return formats.read(file, Context(0, future_ms=10**15)).rows(0)


def compared(rows: list[dict[str, Any]]) -> list[list[Any]]:
    same = ("test_id", "test_name", "test_suite", "browser", "status", "attempt", "value", "error_type", "timestamp")
    return [[row.get(name) for name in same] for row in rows]


def test_attempts_go_live_to_the_endpoint(project: Path, open_site: Callable[..., Any]) -> None:
    """Each attempt once, named and judged as in Playwright's JSON report, also of a serial suite, which is tried again
    as a whole; the file is gone, since nothing is left."""
    world = open_site(web={"write_key": "secret-key"})
    github = {"GITHUB_ACTIONS": "true", "GITHUB_RUN_ID": "7", "GITHUB_RUN_ATTEMPT": "2", "GITHUB_SHA": "abc"}
    options = {"url": world.site.url, "writeKey": "secret-key", "environment": "staging", "flushForMs": 60_000}
    assert run(project, options, **github) == "pipeline metrics: 11 sent, 0 not sent"
    assert not (project / "pipeline-metrics.ndjson").exists()
    items = world.buffer.client.lrange(world.buffer.keys.buffer, 0, -1)
    rows = [json.loads(item) for item in reversed(items)]
    assert shown(rows) == ROWS
    assert {(row["run_id"], row["commit"], row["environment"]) for row in rows} == {("github-7-2", "abc", "staging")}
    report = imported(project)
    assert compared(rows) == compared(report)
    for name in ("error_message", "error_fingerprint"):
        assert [row["tags"].get(name) for row in rows] == [row["tags"].get(name) for row in report]
    assert rows[3]["tags"]["error_fingerprint"]


def test_what_cannot_be_sent_stays_in_the_file(project: Path) -> None:
    """No service: the run ends as it would have, and the line says how to feed the file."""
    line = run(project, {"url": "http://127.0.0.1:1", "flushForMs": 300, "runId": "r1"}, "-g", "flakes")
    assert line.startswith("pipeline metrics: 0 sent, 2 not sent (")
    assert line.endswith("feed them with: pipeline push pipeline-metrics.ndjson")
    rows = [json.loads(text) for text in (project / "pipeline-metrics.ndjson").read_text().splitlines()]
    assert shown(rows) == ROWS[3:5]
    assert rows[0]["run_id"] == "r1"


KILLED_AT_THE_END = """
const fs = require('fs');
const file = 'pipeline-metrics.ndjson';
module.exports = async () => {
  for (let waited = 0; WAITS && fs.readFileSync(file, 'utf8') && waited < 60_000; waited += 50)
    await new Promise((resolve) => setTimeout(resolve, 50));
  process.kill(process.pid, 'SIGKILL');
};
"""


@pytest.mark.thorough
@pytest.mark.parametrize("is_live", [True, False], ids=["live", "to a file"])
def test_a_run_that_is_killed_leaves_in_its_file_what_was_not_sent(
    project: Path, open_site: Callable[..., Any], is_live: bool
) -> None:
    """Before its end, by -9: what was sent is not in the file too, and what is there has the verdicts of the end."""
    world = open_site(web={"write_key": "secret-key"})
    (project / "end.js").write_text(KILLED_AT_THE_END.replace("WAITS", json.dumps(is_live)))
    config = project / "playwright.config.js"
    config.write_text(config.read_text().replace("retries:", "globalTeardown: './end.js', retries:"))
    options = {"url": world.site.url, "writeKey": "secret-key"} if is_live else {}
    done = playwright(project, {**options, "runId": "r1"})
    assert done.returncode == -signal.SIGKILL
    items = reversed(world.buffer.client.lrange(world.buffer.keys.buffer, 0, -1))
    left = (project / "pipeline-metrics.ndjson").read_text().splitlines()
    sent, kept = [json.loads(item) for item in items], [json.loads(line) for line in left]
    assert sorted(shown(sent if is_live else kept)) == sorted(ROWS)
    assert (kept if is_live else sent) == []


def said(project: Path, function: str, given: list[Any]) -> list[Any]:
    """What the reporter's function answers to each."""
    script = f"({json.dumps(given)}).map((one) => m.{function}(one))"
    script = f"import('./pipeline-playwright-reporter.mjs').then((m) => console.log(JSON.stringify({script})))"
    done = subprocess.run(["node", "-e", script], cwd=project, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def test_runs_are_named_as_python_names_them(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run, commit, branch and links from the same environment, with git's help and with files' too."""
    event, properties = project / "event.json", project / "build.properties"
    event.write_text('{"pull_request": {"number": 7, "head": {"sha": "head1"}}}')
    properties.write_text("teamcity.version=1\nteamcity.buildType.id=Shop_Ui\n")
    forked = {"head_sha": "h", "head_branch": "main", "head_repository": {"full_name": "eve/shop"}}
    forked |= {"repository": {"full_name": "a/shop"}, "pull_requests": [{"number": 3}]}
    request = {"head": {"sha": "h", "repo": {"full_name": "eve/shop"}}, "base": {"repo": {"full_name": "a/shop"}}}
    (project / "fork.json").write_text(json.dumps({"workflow_run": forked, "pull_request": request}))
    fork = {"GITHUB_ACTIONS": "true", "GITHUB_SHA": "b", "GITHUB_EVENT_PATH": str(project / "fork.json")}
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t.test"]
    monkeypatch.chdir(project)
    subprocess.run([*git, "init", "-q", "-b", "trunk"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    gitlab = {"GITLAB_CI": "true", "CI_PIPELINE_ID": "3", "CI_COMMIT_SHA": "c" * 40, "CI_JOB_NAME": "tést #1"}
    github = {"GITHUB_ACTIONS": "true", "GITHUB_RUN_ID": "5", "GITHUB_SHA": "b", "GITHUB_EVENT_PATH": str(event)}
    environments: list[dict[str, str]] = [
        {},
        {"JENKINS_URL": "x", "JOB_NAME": "p/feat%2Fx", "BUILD_NUMBER": "9", "BRANCH_NAME": "feat/x"},
        {"BUILDKITE": "true", "BUILDKITE_BUILD_ID": "u", "BUILDKITE_COMMIT": "HEAD", "BUILDKITE_BRANCH": "main"},
        {"TEAMCITY_VERSION": "1", "TEAMCITY_BUILD_PROPERTIES_FILE": str(properties), "BUILD_NUMBER": "4"},
        {"TEAMCITY_VERSION": "1", "TEAMCITY_PROJECT_NAME": "P", "TEAMCITY_BUILDCONF_NAME": "Ü", "BUILD_NUMBER": "4"},
        *(
            gitlab | {"CI_COMMIT_BRANCH": name}
            for name in ("fix/ünï-#12", "refs/remotes/origin/a", "\x07" + "😀" * 300)
        ),
        gitlab | {"PIPELINE_BRANCH": "refs/heads/zz", "PIPELINE_RUN_ID": "mon numéro 1", "PIPELINE_COMMIT": " "},
        github | {"GITHUB_REF": "refs/heads/main", "GITHUB_HEAD_REF": "feat", "GITHUB_BASE_REF": "main"},
        github | {"GITHUB_REF": "refs/pull/8/merge", "GITHUB_HEAD_REF": "feat"},
        fork | {"GITHUB_REF": "refs/pull/8/merge", "GITHUB_HEAD_REF": "main"},
        fork | {"GITHUB_REF": "refs/heads/main", "GITHUB_EVENT_NAME": "workflow_run"},
        fork | {"GITHUB_REF": "refs/heads/gh-readonly-queue/main/pr-7-abc", "GITHUB_REF_NAME": "q"},
        gitlab | {"CI_COMMIT_BRANCH": "main", "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": "eve/shop"},
        {"JENKINS_URL": "x", "JOB_NAME": "p", "BUILD_NUMBER": "9", "CHANGE_BRANCH": "main", "CHANGE_FORK": "eve"},
        {"TF_BUILD": "True", "BUILD_BUILDID": "3", "SYSTEM_COLLECTIONURI": "https://d/o/", "SYSTEM_TEAMPROJECT": "p"},
    ]
    told = said(project, "runContext.bind(null, {})", environments)
    for one, environ in zip(told, environments, strict=True):
        run = detect(environ)
        fields, nonce = one["fields"], one["fields"]["job"].rpartition("#")[2]
        assert (fields, one["tags"]) == (run.with_nonce(nonce).fields(), run.tags())


def test_failures_are_named_as_python_names_them(project: Path) -> None:
    """The same types and messages from the same texts, so that fingerprints agree."""
    texts = [
        "ValueError: no 3 of 17",
        "\x1b[31mTimeoutError\x1b[39m: page.goto: Timeout 30000ms exceeded.",
        "connect to http://user:secret@h:80/x?token=1 failed",
        "Error: cannot open /home/ci/build/a.txt:12 or src/cart/a.spec.ts:3:7",
        "object at 0x7f3a2c of 550e8400-e29b-41d4-a716-446655440000 at 10.0.0.7:5432 [::1]:80",
        "x" * 500,
        "Error: '/home/john doe/x' or /home/john doe/x or C:\\Users\\Jane Doe\\x.log or ~/a/b or C:\\\\a b\\\\c d",
        "of a1b2c3d, user_8f3kq2, zz-91qa2 and 01ARZ3NDEKTSV4RRFFQ69G5FAV took 1.5e-05 s, 9m5s, at ::1:8080 or a::b",
        "PASSWORD=hunter2 token: ghp_abcdefABCDEF eyJhbGciOiJIUzI1NiJ9.eyJzdWIi.abcDEF Authorization: Basic abc=",
        "{'authorization': 'bearer sk-live-abc', \"Secret_Key\" = 'a b'} Bearer token, \u0130to\u212aen: \u017fecret=x",
        "line\u2028two",
        "\n\u25cf suite\nUncaught app.net.Broken: x",
        "assert 1 == 2",
        "Foo::bar: x",
        "TimeoutExpired",
        "in /a/b\u00a0c/d.txt \u3000",
        "\x00\u0085 \x07a\udce9b\rc",
    ]
    told = [(one["type"], one["message"]) for one in said(project, "failureOf", texts)]
    assert told == [(found.error_type, found.message) for found in map(failure, texts)]
