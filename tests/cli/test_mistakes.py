"""Wrong use of the command line: one sentence, exit code 2, never a traceback and never a secret."""

import json
import sys
from pathlib import Path

import pytest

from pipeline.cli import main

SECRET = "hunter2-Xy"


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and everything that was printed."""
    monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
    code = 0
    try:
        main._run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("alerts", "silence", "rule=x", "--for", "10x"),
        ("alerts", "silence", "rule=x", "--for", ""),
        ("alerts", "silence", "--for", "1h"),
        ("alerts", "silence", "rule=x", "--for", "99999999d"),
        ("alerts", "silence", "rule=x", "--for", "9" * 5000 + "d"),
        ("rules", "replay", "--from", "2026-01-02", "--to", "2026-01-01"),
        ("rules", "replay", "--from", "2106-01-01"),
        ("rollup", "--from", "yesterday"),
        ("rollup", "--from", "99999999999999999999d"),
        ("rollup", "--to", "1h"),
        ("query", "SELECT 1", "--param", "a"),
        ("query", "SELECT 1; SELECT 2"),
        ("tap", "--count", "0"),
        ("demo", "--seconds", "nan"),
        ("nothing",),
        ("rollup", "--from", "2026-01-02", "--to", "2026-01-01"),
        ("rollup", "--from", "2100-01-01"),
        ("rollup", "--from", "1969-12-31"),
        ("query", "broken_since", "--since", "0001-01-01"),
        ("query", "broken_since", "--since", "99999999999"),
        ("query", "SELECT 1 FORMAT JSON"),
        ("query", "SELECT '\udcff'"),
        ("alerts", "silence", "rule=\udcff", "--for", "1h"),
        ("dlq", "show", "\udcff:1"),
        ("dlq", "ls", "--reason", "\udcff"),
    ],
)
def test_wrong_arguments(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Arguments that make no sense end in a sentence and exit code 2, before anything is opened."""
    monkeypatch.setenv("PIPELINE_REDIS__URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("PIPELINE_DATA_DIR", str(tmp_path / "data"))
    code, text = run(monkeypatch, capsys, *arguments)
    assert code == 2, text
    assert "Traceback" not in text
    assert "set_int_max_str_digits" not in text
    assert len(text) < 1000
    assert not (tmp_path / "data").exists()


def test_an_option_is_named_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not as the program calls it."""
    assert run(monkeypatch, capsys, "top", "--interval", "nan") == (2, "pipeline: --interval must be a finite number\n")


def test_a_user_without_a_name_may_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], redis_url: str
) -> None:
    """A container may run under any number."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54_321)
    monkeypatch.setenv("PIPELINE_REDIS__URL", redis_url)
    code, text = run(monkeypatch, capsys, "alerts", "silence", "rule=x")
    assert code == 0, text
    assert "user 54321" in text


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PIPELINE_REDIS__URL", f"redis://:{SECRET}/x@h:6379", "redis.url"),
        ("PIPELINE_REDIS__URL", f"redis://:{SECRET}@h:port", "redis.url"),
        ("PIPELINE_REDIS_URL", f"redis://:{SECRET}@h", "PIPELINE_REDIS__URL"),
        ("PIPELINE_REDIS__UR1", f"redis://:{SECRET}@h", "did you mean 'redis.url'"),
        ("PIPELINE_CLICKHOUSE__DSN", f"https://u:{SECRET}@h:99999", "clickhouse.dsn"),
        ("PIPELINE_ALERTS__CHANNELS", f'[{{"url": "https://h/{SECRET}"', "alerts.channels"),
        ("PIPELINE_ALERTS__CHANNELS", f'[{{"name": "a", "kind": "webhok", "url": "https://h/{SECRET}"}}]', "kind"),
        ("PIPELINE_ALERTS__CHANNELS", f'[{{"name": "a", "kind": "webhook", "url": "{SECRET}"}}]', "url"),
        ("PIPELINE_ALERTS__CHANNELS", f'[{{"name": "a", "kind": "webhook", "ur1": "{SECRET}"}}]', "ur1"),
        ("PIPELINE_ALERTS__CHANNELS", f'[{{"name": "a", "kind": "webhook", "url": "https:///{SECRET}"}}]', "no host"),
        ("PIPELINE_WEB__TOKEN", f"{SECRET}\udcff", "PIPELINE_WEB__TOKEN"),
        ("PIPELINE_REDIS__TLS__CA_FILE", "/nowhere/ca.pem", "redis.tls.ca_file"),
        ("PIPELINE_CLICKHOUSE__TLS__CERT_FILE", "/nowhere/cert.pem", "clickhouse.tls.cert_file"),
        ("PIPELINE_CLICKHOUSE__CLUSTER", "main", "embedded engine, which is no cluster"),
        ("PIPELINE_WEB__PORT", "true", "web.port"),
        ("PIPELINE_DATA_DIR", "/dev/null", "data_dir"),
        ("PIPELINE_DATA_DIR", "/dev/null/data", "data_dir"),
        ("PIPELINE_ALERTS__RULES_FILE", "/nowhere/rules.yaml", "/nowhere/rules.yaml"),
    ],
)
@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.timeout(100)  # a `run` that is not refused would run
def test_validate_refuses_what_run_refuses(
    command: str,
    variable: str,
    value: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Both make the same check, and name the setting in a sentence without its secret."""
    monkeypatch.setenv("PIPELINE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv(variable, value)
    if "__TLS__" in variable:
        monkeypatch.setenv("PIPELINE_REDIS__URL", "rediss://127.0.0.1:1")
        monkeypatch.setenv("PIPELINE_CLICKHOUSE__DSN", "https://127.0.0.1:1")
    code, text = run(monkeypatch, capsys, command)
    assert code == 2, text
    assert said in text
    assert "Traceback" not in text
    assert "hunter2" not in text
    assert len(text.strip().splitlines()) == 1


def test_validate_warns_of_what_goes_out_unencrypted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A password that leaves this machine without TLS is warned of, one on this machine is not."""
    monkeypatch.setenv("PIPELINE_CLICKHOUSE__DSN", f"http://u:{SECRET}@ch.example:8123")
    monkeypatch.setenv("PIPELINE_REDIS__URL", f"redis://:{SECRET}@127.0.0.1:6379")
    code, text = run(monkeypatch, capsys, "validate")
    assert code == 0
    assert "clickhouse.dsn sends a password to ch.example:8123 without encryption" in text
    assert "redis.url sends" not in text
    assert SECRET not in text


def test_config_show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every effective setting with its origin, secrets masked, on a terminal and as JSON."""
    secret = tmp_path / "dsn"
    secret.write_text(f"https://writer:{SECRET}@ch:9443")
    monkeypatch.setenv("PIPELINE_CLICKHOUSE__DSN_FILE", str(secret))
    monkeypatch.setenv("PIPELINE_ALERTS__CHANNELS", f'[{{"name": "a", "kind": "slack", "url": "https://h/{SECRET}"}}]')
    for arguments in ((), ("--json",)):
        code, text = run(monkeypatch, capsys, "config", "show", *arguments)
        assert code == 0
        assert "https://writer:***@ch:9443" in text
        assert "secret file of PIPELINE_CLICKHOUSE__DSN_FILE" in text
        assert "variable PIPELINE_ALERTS__CHANNELS" in text
        assert SECRET not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing", "--json"),
        ("status", "--nothing", "--json"),
        ("query", "SELECT 1; SELECT 2", "--json"),
        ("schema", "show", "no:such:key", "--json"),
        ("--config", "/nowhere/pipeline.yaml", "validate", "--json"),
    ],
)
def test_an_error_is_an_object_for_programs(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json stdout has one object that says what is wrong, stderr the sentence, and the exit code stays 2."""
    monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
    with pytest.raises(SystemExit) as ended:
        main._run()
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert list(json.loads(told.out)) == ["error"]
    assert json.loads(told.out)["error"] in " ".join(told.err.split())
