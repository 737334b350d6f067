"""Reports of other tools, turned into metrics: NDJSON, JUnit XML, Playwright's JSON, Lighthouse's JSON.

Pure: a stream in, metrics out, as ``MetricsClient.push_many`` takes them. A report is read to its end before its
first metric appears, so a broken file yields nothing rather than a part; ``UsageError`` names the place.
NDJSON is the exception: it streams, and every line is passed on to the byte, valid or not, so that what is
wrong with it is found in the dead letters with a reason like everything else.

An execution is one ``duration`` metric in milliseconds, whichever report it comes from: retries of a test are
part of its duration, and counted in its tags.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import IO, Any
from urllib.parse import urlsplit
from xml.parsers import expat

from pipeline.base.errors import UsageError

Metric = dict[str, Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

MAX_LINE_BYTES = 16 * 2**20
"""A longer line is no NDJSON; Redis and the drainer refuse far smaller items."""


def read(
    format: str, stream: IO[bytes], *, now_ms: int, defaults: Mapping[str, str] | None = None
) -> Iterator[bytes | Metric]:
    """Read ``stream`` as ``format`` (one of ``FORMATS``): metrics as mappings, or items to pass on as they are.

    ``now_ms``: the time of what carries none. ``defaults``: fields for metrics that lack them (environment,
    browser, test_suite, …); not for NDJSON, whose lines stay as they are.
    Raises ``UsageError`` with name and place of what is wrong; except for NDJSON before the first metric.
    """
    name = str(getattr(stream, "name", "input"))
    if format == "ndjson":
        if defaults:
            raise UsageError(f"ndjson is passed on to the byte, so {', '.join(sorted(defaults))} cannot be added to it")
        return _lines(name, stream)
    if format not in _REPORTS:
        raise UsageError(f"unknown format {format!r}: must be one of {', '.join(FORMATS)}")
    try:
        metrics = _REPORTS[format](stream.read(), now_ms)
    except _Broken as error:
        raise UsageError(f"{name}: {error}") from None
    except RecursionError:
        raise UsageError(f"{name}: nested too deeply for a report") from None
    return ({**(defaults or {}), **{k: v for k, v in metric.items() if v != ""}} for metric in metrics)


class _Broken(Exception):
    """What is wrong with a report, and where."""


def _lines(name: str, stream: IO[bytes]) -> Iterator[bytes]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise UsageError(f"{name}: line {number} is longer than {MAX_LINE_BYTES} bytes; is this NDJSON?")
        item = line.removesuffix(b"\n").removesuffix(b"\r")
        if item.strip():
            yield item


# JUnit XML


def junit(content: bytes, now_ms: int) -> list[Metric]:
    """Executions of a JUnit report: pytest, Playwright, Surefire, jest-junit and others write it.

    ``time`` is seconds; without one the duration is 0. A suite's ``timestamp`` without a zone is taken as UTC.
    <failure> and <error> are failed, <skipped> is skipped. Properties become tags, of a suite for its tests,
    ``browser`` and ``environment`` among them become those fields. DTDs are refused: entities are how an
    XML file of a kilobyte becomes gigabytes.
    """
    report = _JUnitReport(now_ms)
    report.parse(content)
    return report.metrics


class _JUnitReport:
    """Follows the elements of a report; ``metrics`` grows with each <testcase> that ends."""

    def __init__(self, now_ms: int) -> None:
        self.metrics: list[Metric] = []
        self._now_ms = now_ms
        self._parser = expat.ParserCreate()
        self._parser.StartDoctypeDeclHandler = self._refuse_dtd
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._depth = 0
        # One entry per open <testsuite>, innermost last: its name, start, and properties with its parents'.
        self._suites: list[tuple[str, int, dict[str, str]]] = [("", now_ms, {})]
        self._test: Metric | None = None

    def parse(self, content: bytes) -> None:
        try:
            self._parser.Parse(content, True)
        except expat.ExpatError as error:
            raise _Broken(f"line {error.lineno}, column {error.offset}: {expat.ErrorString(error.code)}") from None
        except LookupError as error:
            raise self._broken(str(error)) from None

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1 and element not in ("testsuites", "testsuite"):
            raise self._broken(f"<{element}> is not the root of a JUnit report")
        if element == "testsuite":
            self._start_suite(attributes)
        elif element == "testcase":
            self._start_test(attributes)
        elif element == "property":
            self._take_property(attributes.get("name", ""), attributes.get("value", ""))
        elif self._test is not None:
            self._take_outcome(element)

    def _end(self, element: str) -> None:
        self._depth -= 1
        if element == "testsuite":
            self._suites.pop()
        elif element == "testcase" and self._test is not None:
            tags = {**self._suites[-1][2], **self._test["tags"]}
            for field in ("browser", "environment"):
                self._test[field] = tags.pop(field, "")
            self.metrics.append({**self._test, "tags": tags})
            self._test = None

    def _start_suite(self, attributes: dict[str, str]) -> None:
        name, start_ms, properties = self._suites[-1]
        if attributes.get("timestamp"):
            start_ms = self._milliseconds(attributes["timestamp"])
        self._suites.append((attributes.get("name") or name, start_ms, dict(properties)))

    def _start_test(self, attributes: dict[str, str]) -> None:
        suite, start_ms, _ = self._suites[-1]
        name, classname = attributes.get("name", ""), attributes.get("classname", "")
        if attributes.get("timestamp"):
            start_ms = self._milliseconds(attributes["timestamp"])
        self._test = {
            "timestamp": start_ms,
            "metric_type": "duration",
            "value": self._seconds(attributes.get("time") or "0") * 1000,
            "test_id": f"{classname}::{name}" if classname else name,
            "test_name": name,
            "test_suite": suite,
            # googletest marks what it did not run by an attribute.
            "status": "skipped" if attributes.get("status") in ("notrun", "disabled") else "passed",
            "tags": {},
        }

    def _take_property(self, name: str, value: str) -> None:
        tags = self._suites[-1][2] if self._test is None else self._test["tags"]
        if name:
            tags[name] = value

    def _take_outcome(self, element: str) -> None:
        assert self._test is not None
        if element in ("failure", "error"):
            self._test["status"] = "failed"
        elif element == "skipped" and self._test["status"] != "failed":
            self._test["status"] = "skipped"
        elif element in ("flakyFailure", "flakyError", "rerunFailure", "rerunError"):
            # Surefire's, and Playwright's, account of attempts that were repeated.
            tags = self._test["tags"]
            tags["retries"] = str(int(tags.get("retries", "0")) + 1)
            if element.startswith("flaky"):
                tags["flaky"] = "true"

    def _seconds(self, text: str) -> float:
        try:
            seconds = float(text.replace(",", ""))  # Surefire groups thousands: "1,234.5"
        except ValueError:
            seconds = math.nan
        if not math.isfinite(seconds):
            raise self._broken(f"time={text!r} is no number of seconds")
        return seconds

    def _milliseconds(self, text: str) -> int:
        try:
            return _milliseconds(text)
        except ValueError:
            raise self._broken(f"timestamp={text!r} is not ISO-8601") from None

    def _refuse_dtd(self, *_: object) -> None:
        raise self._broken("a DTD is refused, a report needs none")

    def _broken(self, what: str) -> _Broken:
        return _Broken(f"line {self._parser.CurrentLineNumber}: {what}")


# JSON reports


class _Node:
    """A value inside a JSON report that knows its place, so that an error can name it."""

    def __init__(self, value: Any, place: str = "") -> None:
        self.value = value
        self._place = place

    def get(self, key: str) -> _Node:
        """The member; a missing one holds None."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return _Node(self.value.get(key), f"{self._place}.{key}" if self._place else key)

    def items(self) -> list[_Node]:
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return [_Node(item, f"{self._place}[{index}]") for index, item in enumerate(self.value)]

    def text(self) -> str:
        if self.value is None:
            return ""
        if not isinstance(self.value, str):
            raise self.wrong("a text")
        # JSON can escape half a surrogate pair, which no UTF-8 can carry.
        return self.value.encode(errors="replace").decode()

    def number(self) -> float:
        is_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        # 1e308: an integer may have more digits than any float.
        if not is_number or not abs(self.value) <= 1e308:
            raise self.wrong("a finite number")
        return float(self.value)

    def milliseconds(self) -> int:
        try:
            return _milliseconds(self.text())
        except ValueError:
            raise self.wrong("an ISO-8601 time") from None

    def wrong(self, expected: str) -> _Broken:
        shown = json.dumps(self.value)
        return _Broken(f"{self._place or 'the report'} must be {expected}, not {shown[:60]}")


def playwright(content: bytes, now_ms: int) -> list[Metric]:
    """Executions of Playwright's JSON reporter: one per test and project, as in its own JUnit report.

    The file is the suite, the project the browser. The duration is the sum over all attempts; a flaky test has
    passed, with tags ``flaky`` and ``retries``. The time is the end of the last attempt.
    """
    report = _Node(_json(content))
    if report.get("suites").value is None:
        raise _Broken("this is not a report of Playwright's JSON reporter: it has no 'suites'")
    return [
        metric
        for suite in report.get("suites").items()
        for metric in _playwright_suite(suite, suite.get("file").text() or suite.get("title").text(), (), now_ms)
    ]


def _playwright_suite(suite: _Node, file: str, titles: tuple[str, ...], now_ms: int) -> Iterator[Metric]:
    for spec in suite.get("specs").items():
        name = " › ".join([*titles, spec.get("title").text()])
        for test in spec.get("tests").items():
            yield _playwright_test(test, file, name, now_ms)
    for inner in suite.get("suites").items():
        yield from _playwright_suite(inner, file, (*titles, inner.get("title").text()), now_ms)


_PLAYWRIGHT_STATUS = {"expected": "passed", "flaky": "passed", "unexpected": "failed", "skipped": "skipped"}


def _playwright_test(test: _Node, file: str, name: str, now_ms: int) -> Metric:
    attempts = test.get("results").items()
    outcome = test.get("status").text()
    if outcome not in _PLAYWRIGHT_STATUS:
        raise test.get("status").wrong(f"one of {', '.join(_PLAYWRIGHT_STATUS)}")
    tags = {}
    if len(attempts) > 1:
        tags["retries"] = str(len(attempts) - 1)
    if outcome == "flaky":
        tags["flaky"] = "true"
    ended_ms = now_ms
    if attempts and attempts[-1].get("startTime").value is not None:
        ended_ms = attempts[-1].get("startTime").milliseconds() + int(attempts[-1].get("duration").number())
    return {
        "timestamp": ended_ms,
        "metric_type": "duration",
        "value": sum(attempt.get("duration").number() for attempt in attempts),
        "test_id": f"{file}::{name}",
        "test_name": name,
        "test_suite": file,
        "browser": test.get("projectName").text(),
        "status": _PLAYWRIGHT_STATUS[outcome],
        "tags": tags,
    }


# Audit to metric type; what a run did not measure (INP without interactions) is simply not there.
_LIGHTHOUSE_AUDITS = {
    "largest-contentful-paint": "lcp",
    "interaction-to-next-paint": "inp",
    "cumulative-layout-shift": "cls",
    "first-contentful-paint": "fcp",
    "server-response-time": "ttfb",
    "total-blocking-time": "tbt",
    "speed-index": "speed_index",
}


def lighthouse(content: bytes, now_ms: int) -> list[Metric]:
    """Vitals and ``performance_score`` (0 to 100) of Lighthouse results.

    Takes one result, a list of them (as Lighthouse CI keeps), a user flow, or PageSpeed's wrapping. The page is the
    path of the final URL; Lighthouse runs in Chrome, so that is the browser unless a default says otherwise.
    """
    report = _Node(_json(content))
    results = report.items() if isinstance(report.value, list) else [report]
    metrics: list[Metric] = []
    for result in results:
        steps = [step.get("lhr") for step in result.get("steps").items()]
        if result.get("lighthouseResult").value is not None:
            steps = [result.get("lighthouseResult")]
        for step in steps or [result]:
            metrics.extend(_lighthouse_result(step, now_ms))
    return metrics


def _lighthouse_result(result: _Node, now_ms: int) -> list[Metric]:
    audits = result.get("audits")
    if audits.value is None:
        raise audits.wrong("the audits of a Lighthouse result")
    values = {kind: _audit_value(audits.get(audit)) for audit, kind in _LIGHTHOUSE_AUDITS.items()}
    score = _path(result, "categories", "performance", "score")
    if score is not None and score.value is not None:
        values["performance_score"] = score.number() * 100
    addresses = [result.get(key) for key in ("finalDisplayedUrl", "finalUrl", "requestedUrl")]
    address = next((address for address in addresses if address.text()), addresses[0])
    try:
        url = urlsplit(address.text())
    except ValueError:
        raise address.wrong("a URL") from None
    tags = {
        "origin": f"{url.scheme}://{url.netloc}" if url.netloc else "",
        "form_factor": _text_at(result, "configSettings", "formFactor"),
        "lighthouse": result.get("lighthouseVersion").text(),
    }
    fetched = result.get("fetchTime")
    shared = {
        "timestamp": now_ms if fetched.value is None else fetched.milliseconds(),
        "page": (url.path or "/") if url.netloc else "",
        "tags": {name: text for name, text in tags.items() if text},
    }
    return [{"metric_type": kind, "value": value, **shared} for kind, value in values.items() if value is not None]


def _audit_value(audit: _Node) -> float | None:
    """The number of an audit; from Lighthouse 11 on the server's response time stands only in its details."""
    if audit.value is None:
        return None
    if audit.get("numericValue").value is not None:
        return audit.get("numericValue").number()
    details = audit.get("details")
    items = details.get("items").items() if isinstance(details.value, dict) else []
    times = [item.get("responseTime") for item in items if isinstance(item.value, dict)]
    return times[0].number() if times and times[0].value is not None else None


def _path(node: _Node, *keys: str) -> _Node | None:
    for key in keys:
        if node.value is None:
            return None
        node = node.get(key)
    return node


def _text_at(node: _Node, *keys: str) -> str:
    found = _path(node, *keys)
    return found.text() if found is not None else ""


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise _Broken(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise _Broken(f"byte {error.start}: not {error.encoding}") from None
    except ValueError as error:  # a number of more than 4,300 digits
        raise _Broken(str(error)) from None


def _milliseconds(text: str) -> int:
    """Epoch milliseconds of an ISO-8601 time, UTC when it names no zone. Raises ``ValueError``."""
    moment = datetime.fromisoformat(text.strip())
    # Not by timestamp(): its float lands below the millisecond it means.
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)


_REPORTS: dict[str, Callable[[bytes, int], list[Metric]]] = {
    "junit": junit,
    "playwright": playwright,
    "lighthouse": lighthouse,
}

FORMATS = ("ndjson", *_REPORTS)
"""What ``read`` understands."""
