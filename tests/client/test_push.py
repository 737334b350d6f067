"""``pipeline push`` as people use it: as a command, on a real Redis."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from conftest import redis_executables

from pipeline.base.errors import Outage, UsageError
from pipeline.cli.main import cli
from pipeline.client import report_files, report_sender
from pipeline.client.report_files import Asked, Input, ReadReport, ReportBatch, inputs_of
from pipeline.client.run_context import RunContext
from pipeline.metric import Limits

ONE_REDIS = pytest.mark.parametrize("redis_url", sorted(redis_executables())[:1], indirect=True)
NOW = datetime.now(UTC) - timedelta(minutes=3)


def iso(moment: datetime = NOW) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def junit(tests: int = 3, when: str = "") -> str:
    cases = "".join(f'<testcase classname="c" name="t{i}" time="0.5"/>' for i in range(tests - 1))
    failing = '<testcase classname="c" name="bad" time="1"><failure message="assert 0"/></testcase>'
    return f'<testsuites><testsuite name="s" timestamp="{when or iso()}">{cases}{failing}</testsuite></testsuites>'


def lighthouse_error() -> str:
    return json.dumps({"lighthouseVersion": "12", "runtimeError": {"code": "NO_FCP", "message": "no paint"}})


def push(*arguments: str, url: str = "redis://127.0.0.1:1", stdin: bytes = b"", cwd: Path | None = None) -> Result:
    """The command in this process, with the exit codes of ``pipeline``."""
    cleared = {name: None for name in os.environ if name.startswith(("GITHUB_", "GITLAB_", "CI"))}
    with contextlib.chdir(cwd or Path.cwd()):
        result = CliRunner().invoke(
            cli, ["push", *arguments], input=stdin, env=cleared | {"PIPELINE_REDIS__URL": url}, standalone_mode=False
        )
    if isinstance(result.exception, UsageError):
        result.exit_code = 2
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def buffered(url: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(f"{url}/3") as client:
        return [json.loads(item) for item in reversed(client.lrange("metrics:buffer", 0, -1))]


@ONE_REDIS
def test_files_directories_patterns_and_a_bad_one_among_them(tmp_path: Path, redis_url: str) -> None:
    """Each input has its result, one bad file costs none of the others, and pushing again adds nothing."""
    (tmp_path / "many").mkdir()
    (tmp_path / "many/a.xml").write_text(junit(3))
    (tmp_path / "many/package.json").write_text('{"name": "x"}')
    (tmp_path / "b1.xml").write_text(junit(4))
    (tmp_path / "broken.xml").write_text("<testsuites><testsuite>")
    arguments = ("many", "b*.xml", "--run-id", "r1", "--branch", "main", "--commit", "abc", "--environment", "staging")
    first = push(*arguments, url=redis_url, cwd=tmp_path)
    assert first.exit_code == 1
    assert "many/a.xml: junit, 3 executions, 1 failed" in first.stdout
    assert "broken.xml: line 1" in first.stderr
    assert "warning: many/package.json: passed over: not a report that is known" in first.stderr
    assert first.stdout.splitlines()[-1] == "7 executions, 2 failed, 1 warning; queued, not yet stored"
    rows = buffered(redis_url)
    assert len(rows) == 7
    assert {(m["run_id"], m["branch"], m["commit"], m["environment"]) for m in rows} == {
        ("r1", "main", "abc", "staging")
    }
    assert len({m["job"] for m in rows}) == 2
    again = push(*arguments, url=redis_url, cwd=tmp_path)
    assert "all of it was pushed before, nothing added" in again.stdout
    assert "many/a.xml: junit, 3 executions, 1 failed, pushed before" in again.stdout
    assert len(buffered(redis_url)) == 7
    forced = push("b1.xml", "--again", "--json", url=redis_url, cwd=tmp_path)
    assert forced.exit_code == 0
    told = json.loads(forced.stdout)
    assert (told["offered"], told["pushed"], told["already_pushed"], told["failed"]) == (4, 4, 0, 1)
    assert len(buffered(redis_url)) == 11


def test_a_report_that_was_cut_off_is_trouble_in_a_directory_too(tmp_path: Path) -> None:
    """It may be all that a killed runner left behind; what is no report is passed over."""
    (tmp_path / "cut.xml").write_text('<testsuites><testsuite name="s"><testcase name="n"')
    (tmp_path / "pom.xml").write_text("<project><modelVersion>")
    first = push(".", "--dry-run", cwd=tmp_path)
    assert (first.exit_code, "pipeline: cut.xml: line 1" in first.stderr) == (1, True)
    assert "pom.xml: passed over" in first.stderr
    (tmp_path / "cut.xml").write_text('{"numTotalTests": 3, "testResults": [{"name": "a.js", "asser')
    assert push(".", "--dry-run", cwd=tmp_path).exit_code == 1
    (tmp_path / "cut.xml").unlink()
    (tmp_path / "tsconfig.json").write_text('{ // a comment\n "compilerOptions": {}}')
    (tmp_path / "whole.xml").write_text(junit(3))
    assert push(".", "--dry-run", cwd=tmp_path).exit_code == 0


def test_a_directory_without_any_report_is_no_empty_success(tmp_path: Path) -> None:
    """What should have written one did not, or writes what is not known."""
    (tmp_path / "package.json").write_text('{"name": "shop"}')
    (tmp_path / "output.xml").write_text('<robot generator="Robot 7.1"/>')
    found = push(".", "--dry-run", cwd=tmp_path)
    assert (found.exit_code, "nothing of this is a report that is known" in found.stderr) == (1, True)
    assert "output.xml: passed over: <robot>: this is Robot Framework's output; `robot --xunit" in found.stderr


@ONE_REDIS
def test_what_the_drainer_would_refuse_is_said_at_once(tmp_path: Path, redis_url: str) -> None:
    """A report 40 days old is not pushed, and --dry-run says why without a Redis; NDJSON goes on, and is told of."""
    (tmp_path / "old.xml").write_text(junit(2, iso(NOW - timedelta(days=40))))
    dry = push("old.xml", "--dry-run", cwd=tmp_path)
    assert dry.exit_code == 1
    assert "c::t0: timestamp too old:" in dry.stderr and "it is not pushed" in dry.stderr
    assert dry.stdout.strip() == "0 executions, 2 refused; nothing pushed (--dry-run)"
    good = f'{{"timestamp":"{iso()}","metric_type":"lcp","value":1}}'
    lines = b"\xef\xbb\xbf" + f"{good}\nnonsense\n{good}\n".encode()
    done = push("old.xml", "-", url=redis_url, stdin=lines, cwd=tmp_path)
    assert done.exit_code == 1
    assert "standard input: line 2: not JSON" in done.stderr and "it becomes a dead letter" in done.stderr
    with redis.Redis.from_url(f"{redis_url}/3") as client:
        assert client.lrange("metrics:buffer", 0, -1) == [good.encode(), b"nonsense", good.encode()]


@ONE_REDIS
def test_the_retention_that_the_platform_keeps_in_redis_counts(tmp_path: Path, redis_url: str) -> None:
    """A report of two days ago is refused where rows are kept for a day, whatever the settings say."""
    (tmp_path / "r.xml").write_text(junit(2, iso(NOW - timedelta(days=2))))
    with redis.Redis.from_url(f"{redis_url}/6") as client:
        client.hset("retention:performance_metrics", "ttl_hours", 24)
    refused = push("r.xml", url=redis_url, cwd=tmp_path)
    assert (refused.exit_code, "timestamp too old" in refused.stderr) == (1, True)
    with redis.Redis.from_url(f"{redis_url}/6") as client:
        client.delete("retention:performance_metrics")
    assert push("r.xml", url=redis_url, cwd=tmp_path).exit_code == 0
    assert len(buffered(redis_url)) == 2


@ONE_REDIS
def test_a_failed_lighthouse_run_is_counted_and_is_trouble(tmp_path: Path, redis_url: str) -> None:
    """Exit 1 and the reason, `lighthouse_error` is pushed; an empty list is refused; --strict makes warnings errors."""
    (tmp_path / "lh.json").write_text(lighthouse_error())
    (tmp_path / "none.json").write_text("[]")
    done = push("lh.json", "none.json", url=redis_url, cwd=tmp_path)
    assert done.exit_code == 1
    assert "Lighthouse measured nothing: NO_FCP: no paint" in done.stderr
    assert "none.json: not a report that is known" in done.stderr
    assert [m["metric_type"] for m in buffered(redis_url)] == ["lighthouse_error"]
    odd = '<testsuite name="s"><testcase name="t" time="-1"/></testsuite>'
    assert push("--dry-run", stdin=odd.encode()).exit_code == 0
    assert push("--dry-run", "--strict", stdin=odd.encode()).exit_code == 1


def test_trouble_with_redis_is_shown_at_once(tmp_path: Path) -> None:
    """The first line of trouble comes long before giving up, which is exit 1."""
    (tmp_path / "a.xml").write_text(junit(2))
    done = push("a.xml", "--retry-for-s", "1", cwd=tmp_path)
    assert done.exit_code == 1
    first, *_, last = done.stderr.splitlines()
    assert "refused" in first and "trying again" in first
    assert "Redis did not take it within 1 s" in last
    assert done.stdout.strip() == "2 executions, 1 failed; nothing queued"
    assert push("nowhere.xml", cwd=tmp_path).exit_code == 2


# The parts


def asked(**changes: Any) -> Asked:
    return Asked(int(NOW.timestamp() * 1000), Limits(), **{"run": RunContext()} | changes)


def batches(path: Path, **changes: Any) -> list[ReportBatch]:
    source = Input(str(path), (path,))
    return list(report_files.read(source, asked(**changes), ReadReport(source)))


class SomeRedis:
    """A sender on a real Redis, and what is in its buffer."""

    def __init__(self, url: str) -> None:
        from pipeline.base.config import Settings
        from pipeline.base.redis_link import RedisLink

        self.link = RedisLink.open(Settings(redis={"url": url}))
        self.sender = report_sender.Sender(self.link, "metrics:buffer", 5, print)

    def send(self, found: list[ReportBatch]) -> int:
        return sum(self.sender.send(batch) for batch in found)

    def length(self) -> int:
        return int(self.link.database("metrics").llen("metrics:buffer"))


def test_a_push_that_was_cut_is_completed_and_nothing_doubled(tmp_path: Path, redis_url: str) -> None:
    """Whichever batches moved before a kill, pushing again adds the others alone; digests lie in the buffer's slot."""
    path = tmp_path / "r.xml"
    path.write_text(junit(1201))
    found = batches(path)
    assert [len(batch.items) for batch in found] == [500, 500, 201]
    some = SomeRedis(redis_url)
    assert some.send(found[1:2]) == 500
    assert some.send(batches(path)) == 701
    assert some.send(batches(path)) == 0
    assert some.length() == 1201
    keys = some.link.database("metrics").keys("{metrics:buffer}:report:*")
    assert len(keys) == 3
    assert all(some.link.database("metrics").ttl(key) > 30 * 86_400 for key in keys)
    some.link.close()


def test_a_batch_that_redis_refuses_left_nothing_behind(tmp_path: Path, redis_url: str) -> None:
    """A full Redis takes neither items nor digest; later both."""
    path = tmp_path / "r.xml"
    path.write_text(junit(3))
    some = SomeRedis(redis_url)
    some.sender.patience_s = 0
    client = some.link.database("metrics")
    client.config_set("maxmemory", 1)
    with pytest.raises(Outage):
        some.send(batches(path))
    client.config_set("maxmemory", 0)
    assert client.keys("*") == []
    assert some.send(batches(path)) == 3
    some.link.close()


@ONE_REDIS
def test_a_file_of_lines_that_grew_adds_its_new_lines(tmp_path: Path, redis_url: str) -> None:
    """Also inside a batch; another file that begins alike is another file."""
    path = tmp_path / "m.ndjson"
    line = f'{{"timestamp":"{iso()}","metric_type":"lcp","value":%d}}\n'
    some = SomeRedis(redis_url)
    written = 0
    for total in (3, 7, 7, 600, 601):
        path.write_text("".join(line % number for number in range(total)))
        assert some.send(batches(path)) == total - written
        written = total
    path.write_text("".join(line % number for number in (0, 1, 99)))
    some.send(batches(path))
    assert some.length() == 601 + 3
    some.link.close()


def test_the_same_report_in_another_run_is_another_report(tmp_path: Path) -> None:
    """A run that never got to its first test writes the same bytes each time: each run counts."""
    path = tmp_path / "r.json"
    path.write_text('{"suites": [], "errors": [{"message": "SyntaxError: no"}]}')
    digests = {batch.digest for run in ("a", "b") for batch in batches(path) for _ in run}
    other = {
        batch.digest
        for run in ("a", "b")
        for batch in report_files.read(
            Input("r", (path,)),
            Asked(0, Limits(), RunContext(run_id=run, ci="github")),
            ReadReport(Input("r", (path,))),
        )
    }
    assert len(digests) == 1
    assert len(other) == 2


def test_the_same_bytes_of_two_legs_of_a_matrix_are_two_reports(tmp_path: Path) -> None:
    """GitHub gives them the same job; their runner differs. Who names the job says what is one session."""
    path = tmp_path / "r.xml"
    path.write_text(junit())
    legs = [RunContext("github-1-1", "test", leg=leg) for leg in ("one", "two", "one")]
    one, two, again = [batches(path, run=leg) for leg in legs]
    assert one == again
    assert one[0].digest != two[0].digest
    jobs = {json.loads(batch.items[0])["job"] for batch in one + two}
    assert len(jobs) == 2
    assert len({batches(path, run=leg, is_job_given=True)[0].digest for leg in legs}) == 1


def test_allure_s_files_of_one_directory_are_one_report(tmp_path: Path) -> None:
    """Attempts of a test are found across files; an empty container costs nothing."""
    for number, status in enumerate(("failed", "passed")):
        result = {"uuid": str(number), "historyId": "h", "name": "t", "fullName": "m.t", "status": status}
        begun = int(NOW.timestamp() * 1000) + number
        times = {"start": begun, "stop": begun + 5}
        (tmp_path / f"{number}-result.json").write_text(json.dumps(result | times))
    (tmp_path / "9-container.json").write_text("{}")
    (found,) = inputs_of([str(tmp_path)])
    (batch,) = report_files.read(found, asked(), ReadReport(found))
    rows = [json.loads(item) for item in batch.items]
    assert [(row["status"], row["attempt"], row["value"]) for row in rows] == [("retried", 1, 5), ("flaky", 2, 5)]
    with pytest.raises(UsageError, match="there is no such file"):
        inputs_of([str(tmp_path / "*.xml")])


@ONE_REDIS
def test_wait_ends_when_everything_is_stored(tmp_path: Path, redis_url: str) -> None:
    """The wait follows the items through the segments; without a drainer it says what is missing."""
    from pipeline.base.config import Settings
    from pipeline.base.redis_link import RedisLink
    from pipeline.buffer.buffer import open_buffer

    settings = Settings(redis={"url": redis_url})
    link = RedisLink.open(settings)
    buffer = open_buffer(settings, link, "metrics:buffer")
    link.database("metrics").lpush("metrics:buffer", b"x")
    told: list[str] = []
    waited = report_sender.wait_until_stored(buffer, 0.3, told.append)
    assert (waited.stored, waited.missing) == (False, "not stored after 0.3 s")
    link.database("metrics").delete("metrics:buffer")
    assert report_sender.wait_until_stored(buffer, 5, told.append).stored
    link.close()


@ONE_REDIS
def test_a_kill_in_the_middle_of_a_push_doubles_nothing(tmp_path: Path, redis_url: str) -> None:
    """SIGKILL at any moment, then again until it is through: every execution stands once."""
    (tmp_path / "r.xml").write_text(junit(20_000))
    command = [sys.executable, "-m", "pipeline", "push", "r.xml"]
    environment = os.environ | {"PIPELINE_REDIS__URL": redis_url}
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    with redis.Redis.from_url(f"{redis_url}/3") as client:
        while not client.llen("metrics:buffer") and running.poll() is None:
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
        running.wait()
        before = client.llen("metrics:buffer")
        assert before % 500 == 0
        done = push("r.xml", "--json", url=redis_url, cwd=tmp_path)
        told = json.loads(done.stdout)
        assert (told["pushed"], told["already_pushed"]) == (20_000 - before, before)
        assert client.llen("metrics:buffer") == 20_000
