"""The table of formats: how each is recognised from its content, and who reads it.

A report is read to its end before its first metric appears, so a broken file yields nothing rather than a part. NDJSON
is the exception: it streams (``ndjson``).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from pipeline.client.importers import allure as allure_format
from pipeline.client.importers import other_formats
from pipeline.client.importers.counted_failures import add_counted_failures
from pipeline.client.importers.ctrf import ctrf
from pipeline.client.importers.cucumber import cucumber, cucumber_messages, is_behave, is_messages
from pipeline.client.importers.jest_json import jest
from pipeline.client.importers.json_node import Node, parsed
from pipeline.client.importers.junit import ROOTS as JUNIT_ROOTS
from pipeline.client.importers.junit import junit
from pipeline.client.importers.lighthouse import lighthouse
from pipeline.client.importers.mocha_json import cypress, mocha, mochawesome
from pipeline.client.importers.nunit_xunit import NUNIT_ROOTS, XUNIT_ROOTS, nunit, xunit
from pipeline.client.importers.playwright import playwright
from pipeline.client.importers.playwright_blob import blob
from pipeline.client.importers.pytest_json import pytest_json
from pipeline.client.importers.report import Context, Report, ReportBroken, ReportRefused
from pipeline.client.importers.trx import ROOTS as TRX_ROOTS
from pipeline.client.importers.trx import trx
from pipeline.client.importers.xml_events import encoding_of

NDJSON = "ndjson"
_HEAD_BYTES = 1 << 16
_ZIP = b"PK\x03\x04"
_GZIP = b"\x1f\x8b"
_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*[<{\[]|PK\x03\x04|\x1f\x8b")
_BEGINS_LATER = re.compile(rb"^(?:<\?xml|<testsuites?[\s>]|<TestRun[\s>]|\{|\[\s*\{)", re.MULTILINE)
_REPORT_MEMBERS = re.compile(
    rb'"(?:testResults|assertionResults|numTotalTests|specs|retryReasons|lighthouseVersion|exitcode|collectors)"'
    rb'|"results"\s*:\s*\{\s*"tool"|"stats"\s*:\s*\{\s*"suites"'
)
"""What a report of JSON that was cut off shows in its beginning, and other files do not."""
_ROOT_ELEMENT = re.compile(r"<(?:[\w.-]+:)?([A-Za-z_][\w.-]*)[\s/>]")
_NOT_ROOT = re.compile(r"<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\])?[^>]*>", re.DOTALL)


@dataclass(frozen=True)
class XmlFormat:
    """XML, known by its root element."""

    name: str
    roots: frozenset[str]
    read: Callable[[IO[bytes], Context], Report]


@dataclass(frozen=True)
class JsonFormat:
    """JSON, known by its members."""

    name: str
    recognises: Callable[[Any], bool]
    read: Callable[[Node], Report]


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(name in value for name in names)


def _is_ctrf(value: Any) -> bool:
    return _has("results")(value) and _has("tests")(value["results"])


def _is_playwright(value: Any) -> bool:
    if not _has("suites")(value) or not isinstance(value["suites"], list):
        return False
    return any(name in value for name in ("config", "stats", "errors")) or any(map(_has("specs"), value["suites"]))


def _is_cypress(value: Any) -> bool:
    """SARIF, the format of code scanners, has ``runs`` too. A run that could not begin has a message alone."""
    if _has("status", "failures", "message")(value):
        return bool(value["status"] == "failed")
    if not _has("runs")(value) or not isinstance(value["runs"], list):
        return False
    return "totalTests" in value or any(map(_has("tests"), value["runs"]))


def _is_mochawesome(value: Any) -> bool:
    return _has("stats")(value) and ("results" in value or isinstance(value.get("suites"), dict))


def _is_lighthouse(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_lighthouse(one) for one in value)
    if _has("steps")(value) and isinstance(value["steps"], list):
        return any(_has("lhr")(step) for step in value["steps"])
    return any(_has(name)(value) for name in ("audits", "lighthouseResult", "lighthouseVersion", "runtimeError"))


def _is_allure(value: Any) -> bool:
    return _has("uuid", "status")(value) or _has("historyId", "status")(value)


def _is_cucumber(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(_has("elements")(one) and ("uri" in one or is_behave(one)) for one in value)


def _one_allure(report: Node) -> Report:
    return allure_format.allure([report])


XML_FORMATS = (
    XmlFormat("junit", JUNIT_ROOTS, junit),
    XmlFormat("trx", TRX_ROOTS, trx),
    XmlFormat("nunit", NUNIT_ROOTS, nunit),
    XmlFormat("xunit", XUNIT_ROOTS, xunit),
)
# The first that recognises a report reads it.
JSON_FORMATS = (
    JsonFormat("ctrf", _is_ctrf, ctrf),
    JsonFormat("lighthouse", _is_lighthouse, lighthouse),
    JsonFormat("cucumber", _is_cucumber, cucumber),
    JsonFormat("playwright", _is_playwright, playwright),
    JsonFormat("jest", _has("testResults"), jest),
    JsonFormat("cypress", _is_cypress, cypress),
    JsonFormat("mochawesome", _is_mochawesome, mochawesome),
    JsonFormat("mocha", _has("stats", "tests", "passes"), mocha),
    JsonFormat("pytest-json", lambda v: _has("tests", "summary")(v) or _has("exitcode", "collectors")(v), pytest_json),
    JsonFormat("allure", _is_allure, _one_allure),
)
BLOB = "playwright-blob"
MESSAGES = "cucumber-messages"

FORMATS = (NDJSON, *(one.name for one in XML_FORMATS), *(one.name for one in JSON_FORMATS), BLOB, MESSAGES)
"""What ``--format`` may say."""


def read(stream: IO[bytes], context: Context, format: str = "") -> Report:
    """Read a report of ``format``, or of the one its content shows. Raises ``ReportRefused``; not for NDJSON."""
    report = _read(stream, context, format)
    if not (report.executions or report.metrics or report.troubles):
        context.warnings.add("this report holds no test")
    return report


def _read(stream: IO[bytes], context: Context, format: str) -> Report:
    head, stream = _without_noise(*peeked(stream), context)
    xml = next((one for one in XML_FORMATS if one.name == format), None)
    if xml is None and not format:
        xml = _recognised_xml(head)
    if head.startswith(_GZIP):
        raise ReportBroken("this is gzip; unpack it: gunzip -c FILE | pipeline push -")
    if xml is not None:
        return _read_xml(xml, stream, context)
    if format == BLOB or (not format and (head.startswith(_ZIP) or b'"onBlobReportMetadata"' in head[:400])):
        return blob(stream.read(), context)
    if format == MESSAGES or (not format and is_messages(head)):
        return cucumber_messages(stream.read(), context)
    if not format and (named := other_formats.named_by_beginning(head)):
        raise ReportRefused(f"this is {named}")
    content = stream.read()
    if not content.strip():
        raise ReportRefused("the file is empty")
    try:
        report = Node(parsed(content, context.warnings), context)
    except ReportRefused as refused:
        raise (ReportBroken if _REPORT_MEMBERS.search(head) else ReportRefused)(str(refused)) from None
    known = next((one for one in JSON_FORMATS if format in ("", one.name) and one.recognises(report.value)), None)
    if known is None:
        raise ReportRefused(f"this is not a report of the format {format}" if format else _unknown(report.value))
    found = known.read(report)
    add_counted_failures(report, found)
    return found


def _read_xml(xml: XmlFormat, stream: IO[bytes], context: Context) -> Report:
    try:
        return xml.read(stream, context)
    except ReportRefused as refused:
        raise ReportBroken(str(refused)) from None


def _without_noise(head: bytes, stream: IO[bytes], context: Context) -> tuple[bytes, IO[bytes]]:
    """From the first line on that begins a report: a report on stdout comes after what other tools print there."""
    if not head.strip() or _BEGINS.match(head) or not head[:200].isascii() or b"\0" in head[:200]:
        return head, stream
    begin = _BEGINS_LATER.search(head)
    if begin is None:
        return head, stream
    context.warnings.add("what stands before the report is left out", "line 1", head[:40].decode("ascii", "replace"))
    stream.read(begin.start())
    return head[begin.start() :], stream


def is_ndjson(head: bytes) -> bool:
    """Whether the first line by itself is a metric, or at least meant to be one."""
    line = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0]
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "metric_type" in value


def peeked(stream: IO[bytes]) -> tuple[bytes, IO[bytes]]:
    """The first bytes, at least a line of them, and the stream as if nothing had been read."""
    reader = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(_Raw(stream))
    head = b""
    while b"\n" not in head.lstrip() and len(head) < _HEAD_BYTES and (chunk := reader.read1(_HEAD_BYTES)):
        head += chunk
    return head, io.BufferedReader(_Raw(reader, head))


class _Raw(io.RawIOBase):
    """A stream with some bytes put back before it."""

    def __init__(self, stream: Any, head: bytes = b"") -> None:
        self._stream = stream
        self._head = head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._head[: len(buffer)]
        self._head = self._head[len(chunk) :]
        if not chunk:
            chunk = getattr(self._stream, "read1", self._stream.read)(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _recognised_xml(head: bytes) -> XmlFormat | None:
    """The format of a file that begins like XML. Raises ``ReportRefused`` for other XML."""
    prefix, encoding = encoding_of(head)
    try:
        text = head[len(prefix) :].decode(encoding, "replace").lstrip()
    except LookupError:
        return XML_FORMATS[0]  # its reader says so
    if not text.startswith("<"):
        return None
    root = _ROOT_ELEMENT.search(_NOT_ROOT.sub("", text))
    name = root[1] if root else ""
    for one in XML_FORMATS:
        if name in one.roots:
            return one
    if not name:
        return XML_FORMATS[0]  # whatever is wrong with it, its reader says
    if name in other_formats.ROOTS:
        raise ReportRefused(f"<{name}>: this is {other_formats.ROOTS[name]}")
    roots = ", ".join(f"<{root}>" for one in XML_FORMATS for root in sorted(one.roots))
    raise ReportRefused(f"<{name}> is not the root of a report that is known ({roots})")


def _unknown(value: Any) -> str:
    if isinstance(value, list) and value and all(_has("jsonPath")(one) for one in value):
        return "this is Lighthouse CI's manifest; push the reports that it names"
    if named := other_formats.named_by_members(value):
        return f"this is {named}"
    shown = ", ".join(map(str, list(value)[:6])) if isinstance(value, dict) else type(value).__name__
    return f"not a report that is known (it holds {shown}); known are {', '.join(FORMATS)}"
