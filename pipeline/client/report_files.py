"""Which files ``push`` means, and what is in them: files in, batches of items out.

Each batch carries a digest, so that pushing a file again adds only what is missing. A report's digests come from its
bytes and from what was said on the command line, not from its rows: a row without a time of its own would differ each
time. The rows of a batch are counted by their place in the report, refused ones included, so that a batch stays the
same whatever the clock says. An NDJSON digest is that of everything up to its end, so that a file that grew adds
its new lines.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import msgspec

from pipeline.base.errors import UsageError
from pipeline.client.importers import formats
from pipeline.client.importers.allure import allure
from pipeline.client.importers.json_node import Node, parsed
from pipeline.client.importers.ndjson import lines
from pipeline.client.importers.report import Context, Report, ReportRefused, Warnings
from pipeline.client.run_context import RunContext
from pipeline.metric import Limits, Metric, Refusal, decode
from pipeline.status_words import FAILED, FLAKY, INTERRUPTED, PASSED, RETRIED, SKIPPED, status_word

BATCH_ROWS = 500
"""Rows that move in one script: fewer than the client's, since items of reports are larger."""
BATCH_BYTES = 1 << 20
_SUFFIXES = frozenset({".xml", ".json", ".trx", ".ndjson", ".jsonl", ".zip"})
_ALLURE = "-result.json"
_ALLURE_PARTS = (_ALLURE, "-container.json", "-globals.json")
_ALLURE_ATTACHMENT = "-attachment"
_MOST_SHOWN = 3

_encode = msgspec.json.Encoder(enc_hook=str).encode


@dataclass(frozen=True)
class Input:
    """One thing to read: a file, stdin, or the files of one Allure report."""

    name: str
    paths: tuple[Path, ...]
    is_named: bool = True
    """False for a file found in a directory, which need not be a report."""


@dataclass(frozen=True)
class ReportBatch:
    """Items that move together."""

    digest: str
    items: tuple[bytes, ...]
    prefixes: tuple[str, ...] = ()
    """NDJSON: the digest after each item, so that what a shorter file had moved is found."""


@dataclass(frozen=True)
class Asked:
    """What the command line says of all inputs."""

    now_ms: int
    limits: Limits
    run: RunContext
    is_job_given: bool = False
    """The job was named by a person, so it needs no nonce."""
    format: str = ""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """Fields for metrics that lack them."""
    context: Context = field(default_factory=lambda: Context(0))
    link: str = ""
    nonce: str = ""
    """Set: nothing counts as pushed before."""


@dataclass
class Tally:
    """What one input came to, or all of them."""

    metrics: int = 0
    executions: int = 0
    passed: int = 0
    failed: int = 0
    flaky: int = 0
    skipped: int = 0
    interrupted: int = 0
    retried: int = 0
    refused: int = 0
    pushed: int = 0
    already_pushed: int = 0

    def count(self, metric: Metric) -> None:
        """Add one metric that will be stored."""
        self.metrics += 1
        if metric.metric_type.lower() != "duration":
            return
        status = status_word(metric.status)
        if status == RETRIED:
            self.retried += 1
            return
        self.executions += 1
        for name in (PASSED, FAILED, FLAKY, SKIPPED, INTERRUPTED):
            if status == name:
                setattr(self, name, getattr(self, name) + 1)

    def add(self, other: Tally) -> None:
        """Add the figures of another one."""
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class ReadReport:
    """One input while it is read: ``batches`` fill ``tally`` and ``warnings`` as they go."""

    input: Input
    format: str = ""
    producer: str = ""
    tally: Tally = field(default_factory=Tally)
    warnings: Warnings = field(default_factory=Warnings)
    troubles: list[str] = field(default_factory=list)
    """What makes the exit code 1."""


def inputs_of(arguments: Sequence[str]) -> list[Input]:
    """What the arguments name: files, directories (with all reports in them), patterns, ``-`` for stdin.

    Raises ``UsageError`` for one that names nothing.
    """
    found: list[Input] = []
    for argument in arguments or ("-",):
        path = Path(argument)
        if argument == "-":
            found.append(Input("standard input", ()))
        elif path.is_dir():
            inside = _in_directory(path)
            if not inside:
                raise UsageError(f"{argument} holds no file that could be a report ({', '.join(sorted(_SUFFIXES))})")
            found += inside
        elif path.exists():
            found.append(Input(argument, (path,)))
        else:
            matches = sorted(glob.glob(argument, recursive=True)) if glob.has_magic(argument) else []  # noqa: PTH207
            if not matches:
                raise UsageError(f"{argument}: there is no such file")
            files = [Path(match) for match in matches if Path(match).is_file()]
            found += _grouped(files, is_named=True)
    return found


def read(given: Input, asked: Asked, result: ReadReport) -> Iterator[ReportBatch]:
    """The batches of one input. Raises ``ReportRefused``, but for NDJSON before the first one."""
    if len(given.paths) > 1:
        yield from _of_allure(given, asked, result)
        return
    opened = given.paths[0].open("rb") if given.paths else contextlib.nullcontext(sys.stdin.buffer)
    with opened as file:
        head, stream = formats.peeked(file)
        if asked.format == formats.NDJSON or (not asked.format and formats.is_ndjson(head)):
            yield from _of_lines(stream, asked, result)
            return
        hashed = _Hashed(stream)
        context = replace(asked.context, now_ms=asked.now_ms, warnings=result.warnings)
        report = formats.read(io.BufferedReader(hashed), context, asked.format)
        yield from _of_report(report, hashed.digest(), asked, result)


# Reports


def _of_report(report: Report, content: str, asked: Asked, result: ReadReport) -> Iterator[ReportBatch]:
    result.format, result.producer = report.format, report.producer
    result.troubles += report.troubles
    leg = [asked.run.leg] if asked.run.leg and not asked.is_job_given else []
    identity = _digest(content, *_said(asked), *leg, asked.nonce)
    run = asked.run if asked.run.run_id and asked.is_job_given else asked.run.with_nonce(_digest(content, *leg)[:8])
    shared, tags = {**asked.defaults, **run.fields()}, {**run.tags(), **({"link": asked.link} if asked.link else {})}
    rows = report.rows(asked.now_ms)
    for number, first in enumerate(range(0, len(rows), BATCH_ROWS)):
        items = []
        for row in rows[first : first + BATCH_ROWS]:
            item = _encode({**shared, **row, "tags": {**tags, **row["tags"]}})
            if _is_accepted(item, _name_of(row), asked, result):
                items.append(item)
        yield ReportBatch(_digest(identity, str(number)), tuple(items))


def _name_of(row: Mapping[str, Any]) -> str:
    return str(row.get("test_id") or row.get("page") or row["metric_type"])


def _said(asked: Asked) -> list[str]:
    """What makes the same bytes another report: a run that the surroundings know, and fields that were asked for."""
    run = asked.run
    known = [run.run_id, run.job] if run.run_id else ["", ""]
    return [*known, *(f"{name}={value}" for name, value in sorted(asked.defaults.items()))]


def _of_allure(given: Input, asked: Asked, result: ReadReport) -> Iterator[ReportBatch]:
    content = hashlib.sha256()
    context = replace(asked.context, now_ms=asked.now_ms, warnings=result.warnings)
    nodes = []
    for path in given.paths:
        read = path.read_bytes()
        content.update(hashlib.sha256(read).digest())
        try:
            value = parsed(read, result.warnings)
        except ReportRefused as error:
            result.troubles.append(f"{path.name}: {error}")
            continue
        nodes.append(Node(value, context, path.name))
    yield from _of_report(allure(nodes), content.hexdigest(), asked, result)


# NDJSON


def _of_lines(stream: IO[bytes], asked: Asked, result: ReadReport) -> Iterator[ReportBatch]:
    result.format = formats.NDJSON
    if asked.defaults:
        names = ", ".join(sorted(asked.defaults))
        raise ReportRefused(f"NDJSON is passed on to the byte, so {names} cannot be added to it")
    content = hashlib.sha256(_digest("ndjson", asked.nonce).encode())
    items: list[bytes] = []
    prefixes: list[str] = []
    size = 0
    for number, item in lines(stream):
        content.update(item + b"\n")
        items.append(item)
        prefixes.append(content.hexdigest())
        size += len(item)
        _is_accepted(item, f"line {number}", asked, result)
        if len(items) == BATCH_ROWS or size >= BATCH_BYTES:
            yield ReportBatch(prefixes[-1], tuple(items), tuple(prefixes))
            items, prefixes, size = [], [], 0
    if items:
        yield ReportBatch(prefixes[-1], tuple(items), tuple(prefixes))


def _is_accepted(item: bytes, place: str, asked: Asked, result: ReadReport) -> bool:
    """Whether the drainer will store this item, by its own rules; if not, the reason is told."""
    found = decode(item, asked.now_ms, asked.limits)
    if isinstance(found, Refusal):
        result.tally.refused += 1
        if result.tally.refused <= _MOST_SHOWN:
            becomes = "it becomes a dead letter" if result.format == formats.NDJSON else "it is not pushed"
            result.troubles.append(f"{place}: {found.reason}: {found.detail}; {becomes}")
        elif result.tally.refused == _MOST_SHOWN + 1:
            result.troubles.append("more are refused, for these reasons or others")
        return False
    result.tally.count(found)
    return True


# Files


def _in_directory(directory: Path) -> list[Input]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.suffix.lower() in _SUFFIXES)
    return _grouped(files, is_named=False)


def _grouped(files: Sequence[Path], *, is_named: bool) -> list[Input]:
    """Each file by itself, but the results of one Allure directory together."""
    results: dict[Path, list[Path]] = {}
    found: list[Input] = []
    directories = {path.parent for path in files if path.name.endswith(_ALLURE)}
    for path in files:
        if path.parent in directories and path.name.endswith(_ALLURE_PARTS):
            results.setdefault(path.parent, []).append(path)
    for path in files:
        if path.parent in results and (path.name.endswith(_ALLURE_PARTS) or _ALLURE_ATTACHMENT in path.name):
            continue
        found.append(Input(str(path), (path,), is_named))
    found += [Input(f"{parent} (Allure)", tuple(paths), True) for parent, paths in results.items()]
    return found


class _Hashed(io.RawIOBase):
    """A stream that knows the digest of what was read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._content = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._stream.read(len(buffer))
        self._content.update(chunk)
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def digest(self) -> str:
        return self._content.hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
