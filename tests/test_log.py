"""Logs: one line a fact, on stderr, the same for ourselves and for the libraries, without passwords."""

import io
import json
import logging
import warnings
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from pipeline.base import log
from pipeline.base.config import LogSettings


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What was written to stderr since the last look."""
    return lambda: capsys.readouterr().err


Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(written: Callable[[], str]) -> Lines:
    """The lines written since the last look, read as JSON."""
    return lambda: [json.loads(line) for line in written().splitlines()]


def test_a_line_is_its_facts(lines: Lines) -> None:
    """A line is one JSON object: a UTC time, level, logger, constant event, and each fact as a field of its own."""
    log.configure(LogSettings(format="json"))
    log.get("pipeline.drainer").info("chunk acknowledged", segment="s", rows=50_000, name="n", process="p")
    (line,) = lines()
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() is not None
    assert line == {
        "level": "info",
        "logger": "pipeline.drainer",
        "event": "chunk acknowledged",
        "segment": "s",
        "rows": 50_000,
        "name": "n",
        "process": "p",
    }


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_level_is_the_lowest_written(level: Any, expected: list[str], lines: Lines) -> None:
    """Nothing below ``log.level`` is written."""
    log.configure(LogSettings(format="json", level=level))
    logger = log.get("pipeline.x")
    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)("said")
    assert [line["level"] for line in lines()] == expected


def test_libraries_go_the_same_way(lines: Lines) -> None:
    """apscheduler, redis and Python's warnings come as the same lines, from warning up."""
    log.configure(LogSettings(format="json"))
    logging.getLogger("apscheduler.executors").info("Running job %s", "rollup")
    logging.getLogger("apscheduler.executors").warning("job %s missed", "rollup")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", stacklevel=1)
    missed, careful = lines()
    assert (missed["logger"], missed["level"], missed["event"]) == (
        "apscheduler.executors",
        "warning",
        "job rollup missed",
    )
    assert careful["logger"] == "py.warnings"


@pytest.mark.parametrize("format", ["json", "pretty"])
def test_no_password_is_written(format: Any, written: Callable[[], str]) -> None:
    """A password inside a URL stays out, wherever the URL is: a fact, inside a fact, the text of an exception."""
    log.configure(LogSettings(format=format))
    logger = log.get("pipeline.x")
    try:
        raise OSError("http://writer:geheim@host:8123 does not answer")
    except OSError:
        logger.exception("away", url="redis://:geheim@host:6379/3", both=["a", "https://u:geheim@h"], mail="a:b@c")
    text = written()
    assert "geheim" not in text
    for shown in ("redis://:***@host:6379/3", "http://writer:***@host:8123", "https://u:***@h", "a:b@c", "OSError"):
        assert shown in text


def test_a_line_is_one_line(written: Callable[[], str]) -> None:
    """What a producer sent cannot begin a line of its own, in either form."""
    for format in ("json", "pretty"):
        log.configure(LogSettings(format=format))
        log.get("pipeline.x").warning("refused", item='{"a":\n"b"}\r\n\x1b[31m')
    assert len(written().splitlines()) == 2


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_pretty_on_a_terminal_json_elsewhere(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` writes JSON into a file or pipe and colours on a terminal."""
    log.configure(LogSettings())
    log.get("pipeline.x").info("said", rows=1)
    assert [line["rows"] for line in lines()] == [1]
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    log.configure(LogSettings())
    log.get("pipeline.x").info("said", rows=1)
    assert "\x1b[" in terminal.getvalue()
    assert "said" in terminal.getvalue()


def test_configured_twice_writes_once(lines: Lines) -> None:
    """Configuring again replaces; no line comes twice."""
    log.configure(LogSettings(format="json"))
    log.configure(LogSettings(format="json"))
    log.get("pipeline.x").info("said")
    assert len(lines()) == 1


def test_writes_to_the_stderr_of_the_moment(written: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A live display that takes over stderr later gets the lines written from then on."""
    log.configure(LogSettings(format="json"))
    display = io.StringIO()
    monkeypatch.setattr("sys.stderr", display)
    log.get("pipeline.x").info("said")
    assert (written(), json.loads(display.getvalue())["event"]) == ("", "said")


def test_silent_in_other_peoples_programs(written: Callable[[], str]) -> None:
    """Without configuration, as in a test suite that only pushes, nothing below a warning is written."""
    log.get("pipeline.client.producer").info("connected")
    assert written() == ""


@pytest.mark.parametrize("format", ["json", "pretty"])
def test_no_control_character_is_written(format: Any, written: Callable[[], str]) -> None:
    """What producers put into a text moves no cursor and begins no line of its own."""
    log.configure(LogSettings(format=format))
    log.get("pipeline.x").warning("refused", item="a\x1b[2Jb\nfaked line\u202e", inside={"k\x07": ["\x9b"]})
    text = written().replace("\x1b[", "", 100) if format == "pretty" else written()
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    assert "b\nfaked" not in text


def test_json_lines_stay_json(written: Callable[[], str]) -> None:
    """Whatever is hidden in it, a line of log is one JSON object."""
    log.configure(LogSettings(format="json"))
    log.get("pipeline.x").warning("away", url="redis://:a/b@h:6379", body='{"url":"redis://:a/b@h","x":1}')
    line = json.loads(written())
    assert line["url"] == "redis://…"
    assert "a/b" not in line["body"]
