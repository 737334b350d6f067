"""What ClickHouse's answers mean to us: done, come back later, or never again.

An outage may have left the request done or not done; a refusal carries ClickHouse's error number
and says that the same again would be refused again. Success is proved, never inferred: between us and ClickHouse may
be something that answers 200 to everything.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from clickhouse_connect.driver.exceptions import DataError, NotSupportedError, ProgrammingError
from clickhouse_connect.driver.exceptions import Error as DriverError

from pipeline.base import tls
from pipeline.base.errors import EngineBusy, StoreOutage, StoreRefused
from pipeline.base.sql_text import explained
from pipeline.base.text import without_wrapping
from pipeline.embedded.engine import Role

# Worth a retry: ClickHouse's own Kafka connector retries these (unexpected end, time-outs, read-only,
# too many queries or parts, network, memory, too few replicas, unknown status, keeper) …
_RETRY_CODES = {3, 107, 159, 164, 202, 203, 209, 210, 241, 242, 252, 285, 319, 425, 999}
# … and these say that the machine or the way to it, not the rows, is at fault: a body cut short (what is
# sent is well-formed), cannot read, write or open a file, DNS, aborted, disk full, all connections failed,
# cannot start a thread, object storage.
_RETRY_CODES |= {33, 74, 75, 76, 198, 236, 243, 279, 439, 499}
_READONLY = 164
# "Too many partitions for single INSERT block" shares its number with "too many parts": the first
# would be refused for ever.
_TOO_MANY_PARTS = 252
_TOO_MANY_PARTITIONS = "Too many partitions"

# The numbers that blame the rows themselves: type mismatch, out of bound, cannot convert, incorrect data,
# too large a string, too many partitions, out of range, null into not-null, throwIf, decimal overflow,
# violated constraint.
_ROW_CODES = {53, 69, 70, 117, 131, 252, 321, 349, 395, 407, 469}

_CODE_IN_TEXT = re.compile(r"\bCode:\s*(\d+)")
_STATUS_IN_TEXT = re.compile(r"HTTP status (\d{3})")
_WRAPPED_AGAIN = re.compile(r"^(?:Code: \d+\. DB::Exception: )+")
_VERSION = re.compile(r" \(version [^()]*(?:\([^()]*\))?\)\.?")
_NAMED_AGAIN = re.compile(r"(\([A-Z][A-Z0-9_]+\))(?:\.? ?\1)+")
_MAX_SENTENCE = 600


def rows_at_fault(refusal: StoreRefused) -> bool:
    """Whether ClickHouse blames the rows of an insert, rather than the statement, the schema or our rights."""
    return refusal.code in _ROW_CODES


def proved_rows(table: str, sent_rows: int, summary: Mapping[str, Any]) -> int:
    """How many rows ClickHouse says that it wrote, at least as many as were sent; raises ``StoreOutage`` otherwise."""
    written = summary.get("written_rows")
    text = str(written)
    if not text.isascii() or not text.isdigit():
        raise StoreOutage(
            f"the answer to an insert of {sent_rows} rows into {table} does not say how many were written; "
            "does clickhouse.dsn lead to something else than ClickHouse?"
        )
    if int(text) < sent_rows:
        raise StoreOutage(f"an insert of {sent_rows} rows into {table} was answered with {text} rows written")
    return int(text)


@contextmanager
def unreadable_answers() -> Iterator[None]:
    """Whatever the driver or Arrow cannot make sense of in an answer is an outage: no ClickHouse wrote it."""
    try:
        yield
    except Exception as error:
        of_arrow = type(error).__module__.partition(".")[0] == "pyarrow"
        if not of_arrow and not isinstance(error, TypeError | ValueError | KeyError | AttributeError):
            raise
        raise StoreOutage(f"the answer is not one of ClickHouse's: {' '.join(str(error).split())[:200]}") from error


@contextmanager
def translated(role: Role) -> Iterator[None]:
    """Errors of the driver become errors of the pipeline: an outage, or a refusal with its number."""
    try:
        yield
    except DriverError as error:
        raise _classified(error, role) from error
    except OSError as error:
        raise StoreOutage(f"ClickHouse: {without_wrapping(str(error))}") from error


@contextmanager
def as_asked(output_format: str, tag: str = "") -> Iterator[None]:
    """A refusal without what is written behind a statement: the tag, and the driver's FORMAT."""
    comment = re.escape(f"/* {tag} */")
    added = re.escape(f"FORMAT {output_format}")
    try:
        yield
    except StoreRefused as error:
        text = re.sub(rf"\s*{comment}", "", str(error)) if tag else str(error)
        text = re.sub(
            rf"failed at position \d+ \(FORMAT\)(?: \(line \d+, col \d+\))?: {added}", "failed at the end", text
        )
        if f"FORMAT AS {output_format}" in text:  # it was taken for what the statement lacks
            text = f"ClickHouse, code {error.code}: the statement ends too early"
        raise StoreRefused(re.sub(rf"\s*{added}", "", text), error.code) from error


def _classified(error: DriverError, role: Role) -> StoreOutage | StoreRefused | EngineBusy:
    text = " ".join(str(error).split())
    if handshake := tls.trouble(error, "clickhouse.tls"):
        return StoreOutage(f"ClickHouse cannot be used: {handshake}")
    if error.__cause__ is not None and not error.code:
        text = f"{text}: {_first_cause(error)}"
    code = error.code or _number(_CODE_IN_TEXT, text)
    sentence = explained(_said_once(text.partition("DB::Exception: ")[2] or text)[:_MAX_SENTENCE])
    if "EmbeddedServer already initialized" in text:
        return EngineBusy(f"this process has another embedded ClickHouse open and can open only one: {sentence}")
    if "EmbeddedServer" in text:
        return EngineBusy(f"the embedded ClickHouse is held by another program: {sentence}")
    if code:
        refused_for_ever = (role == "reader" and code == _READONLY) or (
            code == _TOO_MANY_PARTS and _TOO_MANY_PARTITIONS in text
        )
        if code in _RETRY_CODES and not refused_for_ever:
            return StoreOutage(f"ClickHouse, code {code}: {sentence}", code)
        return StoreRefused(f"ClickHouse, code {code}: {sentence}", code)
    if isinstance(error, ProgrammingError | NotSupportedError | DataError):
        return StoreRefused(f"the ClickHouse driver: {sentence}")  # it never left this process
    status = _number(_STATUS_IN_TEXT, text)
    # No number of ClickHouse's: a proxy answered, or nothing did. 408 and 429 ask to come back; below 400 nothing says
    # what became of the request.
    if 400 <= status < 500 and status not in (408, 429):
        return StoreRefused(f"HTTP status {status} before ClickHouse: {sentence}")
    return StoreOutage(f"ClickHouse: {without_wrapping(sentence)}")


def _said_once(text: str) -> str:
    """ClickHouse's sentence where the engine wraps it in its own form again: once, without numbers and version."""
    bare = _WRAPPED_AGAIN.sub("", text)
    return _NAMED_AGAIN.sub(r"\1", _VERSION.sub("", bare)) if bare != text else text


def _first_cause(error: BaseException) -> str:
    """What happened on the wire: the driver and urllib3 wrap it three times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def _number(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return int(found.group(1)) if found else 0
