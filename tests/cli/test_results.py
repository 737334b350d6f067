"""Results of queries: any type and any bytes, on a terminal and as JSON."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.base.config import Settings
from pipeline.base.errors import UsageError
from pipeline.cli import console, group
from pipeline.store import results
from pipeline.store.client import Store


@pytest.mark.parametrize(
    ("sql", "statement"),
    [
        ("SELECT 1", "SELECT 1"),
        ("SELECT 1 ;\n", "SELECT 1"),
        ("SELECT ';', \"a;b\", `c;d` -- e;f\n", "SELECT ';', \"a;b\", `c;d`"),
        ("SELECT 'it''s;' /* ; */", "SELECT 'it''s;'"),
        (r"SELECT '\';'", r"SELECT '\';'"),
        ("SELECT format FROM reports ORDER BY format DESC", "SELECT format FROM reports ORDER BY format DESC"),
        ("SELECT 'FORMAT JSON'", "SELECT 'FORMAT JSON'"),
    ],
)
def test_one_statement(sql: str, statement: str) -> None:
    """A semicolon in a text, a name or a comment ends no statement; what ends it is taken off."""
    assert results.one_statement(sql).strip() == statement.strip()


@pytest.mark.parametrize("format", ["JSON", "json;", "CSVWithNames", "Null", "Parquet SETTINGS max_threads = 1"])
def test_a_format_at_the_end_is_told_where_it_goes(format: str) -> None:
    """The command writes one itself; ``--format`` names another."""
    with pytest.raises(UsageError, match="--format"):
        results.one_statement(f"SELECT 1 FORMAT {format}")


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "SELECT 1;;SELECT 2", "", " ; ", "-- nothing"])
def test_several_statements_are_refused(sql: str) -> None:
    """Two statements, or none, are a sentence instead of half an answer."""
    with pytest.raises(UsageError, match="one statement"):
        results.one_statement(sql)


@pytest.fixture
def ask(make_settings: Callable[..., Settings]) -> Callable[[str], results.QueryResult]:
    """The result of a query on a real engine."""

    def run(sql: str) -> results.QueryResult:
        with Store.open(make_settings()) as store:
            store.command(f"CREATE DATABASE IF NOT EXISTS {store.database}")
            return results.parse(store.raw(sql, {}, results.FORMAT))

    return run


def test_every_value_is_shown(ask: Callable[[str], results.QueryResult], capsys: pytest.CaptureFixture[str]) -> None:
    """128-bit numbers, NaN, times, NULL, nested values, bytes that are not UTF-8 and markup all come out."""
    result = ask(
        "SELECT toInt128('170141183460469231731687303715884105727') AS big, nan AS no, toDateTime(0) AS at,"
        " NULL AS none, map('a', 1) AS of, [1, 2] AS list, unhex('ff1b5b314d0a') AS raw, '[/x]' AS `[red]`, true AS yes"
    )
    console.print_result(result)
    table = capsys.readouterr().out
    for shown in ("170,141,183,460,469,231,731,687,303,715,884,105,727", "1970-01-01 00:00:00", "NULL", "a=1", "1, 2"):
        assert shown in table
    assert r"\xff\x1b[1M\n" in table
    assert "[/x]" in table
    assert "[red]" in table
    assert "\x1b" not in table
    group.print_json(result.as_dict())
    (row,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["rows"]
    assert row["big"] == 2**127 - 1
    assert row["no"] is None
    assert row["raw"] == "\\xff\x1b[1M\n"


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """What --json prints is JSON for every reader: no NaN, no half of a character, no bytes."""
    value: dict[str, Any] = {
        "nan": float("nan"),
        "inf": [float("-inf")],
        "half": "\ud83d",
        "raw": b"\xff",
        "at": {1: None},
    }
    group.print_json(value)
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"nan": None, "inf": [None], "half": r"\ud83d", "raw": r"\xff", "at": {"1": None}}


def test_tables_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of Python's own notation stands in a table, no text is markup, and no control character gets through."""
    console.print_facts({"labels": {"test_suite": "kill"}, "none": None, "ok": True, "text": "[bold]x[/]\x1b[2J\u202e"})
    shown = capsys.readouterr().out
    assert "test_suite=kill" in shown
    assert "None" not in shown
    assert "yes" in shown
    assert r"[bold]x[/]\x1b[2J\u202e" in shown
    console.print_rows([{"a\x1b": "\x9b"}], "nothing")
    assert not {"\x1b", "\x9b"} & set(capsys.readouterr().out)
