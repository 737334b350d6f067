"""Reports of real tools with one detail replaced by something that does not belong there."""

import copy
import io
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import effort

from pipeline.client.importers import formats
from pipeline.client.importers.report import Context, ReportRefused
from pipeline.metric import Limits, Metric, decode

REPORTS = sorted((Path(__file__).parent / "reports").glob("*.json"))
ODD: list[Any] = [
    None, True, -1, 10**400, -(10**400), 1e308, float("nan"), float("inf"), "", "x" * 3000, "\ud800", "\x00\x1b[31m",
    "1,234.5", "9" * 400, "2026-13-45T99:99:99Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", 2**63,
    [], {}, [[]], [None], [{}], [1, "a"], {"a": 1},
]  # fmt: skip
NOW_MS = time.time_ns() // 1_000_000


def places(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a report; of a list the first three."""
    yield place
    names: Any = node if isinstance(node, dict) else range(min(len(node), 3)) if isinstance(node, list) else ()
    for name in names:
        yield from places(node[name], (*place, name))


def with_detail(report: Any, place: tuple[Any, ...], odd: Any) -> Any:
    if not place:
        return odd
    report = copy.deepcopy(report)
    holder = report
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = odd
    return report


@pytest.mark.parametrize("file", REPORTS, ids=lambda file: file.name)
def test_an_odd_detail_anywhere_is_read_or_refused_with_a_sentence(file: Path) -> None:
    """Each place takes one odd value after the other, or some of them; what is read consists of metrics."""
    report = json.loads(file.read_bytes())
    chosen = random.Random(file.name)
    for place in places(report):
        for odd in chosen.sample(ODD, effort(1, 3, len(ODD))):
            content = json.dumps(with_detail(report, place, odd)).encode()
            try:
                rows = formats.read(io.BytesIO(content), Context(now_ms=NOW_MS)).rows(NOW_MS)
            except ReportRefused:
                continue
            for row in rows:
                found = decode(json.dumps(row).encode(), NOW_MS, Limits(retention_ms=10**15))  # kept for years
                assert isinstance(found, Metric), (place, odd, found)


@pytest.mark.parametrize("start", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "-62135596800000", "1e3"])
def test_a_start_at_which_nothing_can_have_run_costs_itself(start: str) -> None:
    """The time of import stands for it; .NET writes the year 1 for what was never set."""
    told = Context(now_ms=NOW_MS)
    report = f'<testsuite name="s" timestamp="{start}"><testcase classname="a" name="b" time="1"/></testsuite>'
    (row,) = formats.read(io.BytesIO(report.encode()), told).rows(NOW_MS)
    assert isinstance(decode(json.dumps(row).encode(), NOW_MS, Limits()), Metric)


@pytest.mark.parametrize("time", ["9" * 400 + ":00:00", "9" * 5000 + ".01:00:00", "9" * 400, "1e999", "99999999999"])
def test_a_time_longer_than_ten_years_is_no_duration(time: str) -> None:
    """The execution counts without one, and the starts of the next ones stay where they are."""
    told = Context(now_ms=NOW_MS)
    cases = f'<testcase classname="a" name="b" time="{time}"/><testcase classname="a" name="c" time="1"/>'
    odd, next_one = formats.read(io.BytesIO(f'<testsuite name="s">{cases}</testsuite>'.encode()), told).rows(NOW_MS)
    assert odd["tags"]["duration"] == "unknown" and next_one["value"] == 1000
    assert told.warnings.lines()


@pytest.mark.parametrize("file", ["ctrf-jest-0.0.11.json", "playwright-1.65.json", "mocha-12.0.json"])
def test_a_duration_of_more_digits_than_a_number_has_costs_itself(file: str) -> None:
    """It is left out, and the rest of the report is read."""
    content = (REPORTS[0].parent / file).read_text()
    name = '"duration": ' if '"duration": ' in content else '"duration":'
    begin = content.index(name) + len(name)
    end = begin + len(content[begin:]) - len(content[begin:].lstrip("0123456789.e+-"))
    assert end > begin
    odd = content[:begin] + "9" * 400 + content[end:]
    usual = formats.read(io.BytesIO(content.encode()), Context(now_ms=NOW_MS)).rows(NOW_MS)
    assert len(formats.read(io.BytesIO(odd.encode()), Context(now_ms=NOW_MS)).rows(NOW_MS)) == len(usual)
