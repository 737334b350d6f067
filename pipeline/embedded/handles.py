"""Handles on the engine inside this process, for requests over HTTP.

A handle answers one question at a time: asked a second one while it works it would answer
nothing at all, without an error. So each request takes a handle for itself and gives it back.
Settings live on a handle; handles are kept by the settings they carry.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.sql_text import explained, identifier, literal
from pipeline.embedded import engine_config

QuerySettings = tuple[tuple[str, str], ...]

_MAX_IDLE = 16
_CODE = re.compile(r"Code: (\d+)")
_REPEATED = re.compile(r"\A(Code: \d+\. DB::Exception: )\1+")
_UNKNOWN_FORMAT = 73
_TOO_MANY_SIMULTANEOUS_QUERIES = 202
# Formats that write a result and need nothing but the result, in lower case. Not here: Template and Protobuf, which
# read files, AvroConfluent, which asks a service, and those with which the binding answers with Python objects.
_TEXT_FORMATS = """
    TabSeparated TabSeparatedRaw TabSeparatedWithNames TabSeparatedWithNamesAndTypes TabSeparatedRawWithNames
    TabSeparatedRawWithNamesAndTypes TSV TSVRaw TSVWithNames TSVWithNamesAndTypes TSVRawWithNames
    TSVRawWithNamesAndTypes Raw RawWithNames RawWithNamesAndTypes CSV CSVWithNames CSVWithNamesAndTypes
    JSON JSONAsString JSONStrings JSONColumns JSONColumnsWithMetadata JSONCompact JSONCompactStrings JSONCompactColumns
    JSONEachRow PrettyJSONEachRow JSONEachRowWithProgress JSONStringsEachRow JSONStringsEachRowWithProgress
    JSONCompactEachRow JSONCompactEachRowWithNames JSONCompactEachRowWithNamesAndTypes JSONCompactEachRowWithProgress
    JSONCompactStringsEachRow JSONCompactStringsEachRowWithNames JSONCompactStringsEachRowWithNamesAndTypes
    JSONCompactStringsEachRowWithProgress JSONObjectEachRow JSONL JSONLines NDJSON PrettyNDJSON PrettyJSONLines
    LineAsString Markdown MD Null One Pretty PrettyCompact PrettyCompactMonoBlock PrettyCompactNoEscapes
    PrettyCompactNoEscapesMonoBlock PrettyMonoBlock PrettyNoEscapes PrettyNoEscapesMonoBlock PrettySpace
    PrettySpaceMonoBlock PrettySpaceNoEscapes PrettySpaceNoEscapesMonoBlock Prometheus SQLInsert TSKV Values Vertical
    XML ODBCDriver2
"""
_BINARY_FORMATS = """
    Arrow ArrowStream Avro BSONEachRow MsgPack Native Npy ORC Parquet RawBLOB RowBinary RowBinaryWithNames
    RowBinaryWithNamesAndTypes RowBinaryWithDefaults
"""
OUTPUT_FORMATS = frozenset((_TEXT_FORMATS + _BINARY_FORMATS).lower().split())


class EngineError(Exception):
    """ClickHouse refused or failed; ``code`` is its error number, the text its own words."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Answer:
    """The whole result of one statement, and what it cost."""

    body: bytes
    read_rows: int
    read_bytes: int
    written_rows: int
    written_bytes: int
    elapsed_s: float
    result_rows: int = 0


class Handle:
    """One connection to the engine.

    With ``home``, the name of a database, it is one for analysts: it has the engine's role ``analyst``, which reads
    that database, and it works in it. Raises ``EngineRights`` when the engine does not hold that role back.
    """

    def __init__(self, path: Path, query_settings: QuerySettings, home: str = "") -> None:
        self.query_settings = query_settings
        self.home = home
        self.database = ""
        self.is_spoilt = False
        import chdb  # an extra: a service on a ClickHouse server does without

        self._connection = chdb.connect(engine_config.connection_string(path))
        try:
            engine_config.take_role(
                lambda sql: self.run(sql.encode()), lambda sql: self.run(sql.encode()).body.decode(), home
            )
            if home:
                self.use(home)
            for name, value in query_settings:
                self.run(f"SET {identifier(name)} = {literal(value)}".encode())
        except BaseException:
            self.close()
            raise

    def run(
        self, statement: bytes, format_name: str = "TabSeparated", parameters: Mapping[str, str] | None = None
    ) -> Answer:
        """Run one statement to its end. Raises ``EngineError``; nothing of a failed result is kept."""
        if format_name.lower() not in OUTPUT_FORMATS:
            raise EngineError(
                f"Code: 73. DB::Exception: Unknown format {format_name[:80]!a}. (UNKNOWN_FORMAT)", _UNKNOWN_FORMAT
            )
        try:
            # The engine takes bytes as they are: an insert's data need not be text.
            result = self._connection.query(statement, format_name, params=dict(parameters or {}))
        except RuntimeError as error:
            # chdb's own error is one; which class of that name it is depends on how chdb was installed.
            text = explained(_REPEATED.sub(r"\1", str(error)))
            code = _CODE.search(text)
            self._drop_rest()
            raise EngineError(text, int(code[1]) if code else 0) from None
        return Answer(
            result.bytes() or b"",
            result.storage_rows_read(),
            result.storage_bytes_read(),
            result.rows_written(),
            result.bytes_written(),
            result.elapsed(),
            result_rows=result.rows_read(),  # what chdb calls so are the rows of the result
        )

    def _drop_rest(self) -> None:
        """After an error in the middle of a result, the rest of that result comes in front of the next answer."""
        for _ in range(3):
            if self._connection.query("SELECT 1", "TabSeparated").bytes() == b"1\n":
                return
        self.is_spoilt = True

    def use(self, database: str) -> None:
        """Unqualified table names mean this database from now on."""
        self.run(f"USE {identifier(database)}".encode())
        self.database = database

    def close(self) -> None:
        """Give the connection back to the engine."""
        self._connection.close()


class AnalystHandles:
    """At most ``limit`` handles work at once; a few idle ones wait for the next request.

    With ``home``, a database, they are handles for analysts (see ``Handle``).
    """

    def __init__(self, path: Path, limit: int, home: str = "") -> None:
        self._path = path
        self._home = home
        self._free = threading.BoundedSemaphore(limit)
        self._lock = threading.Lock()
        self._idle: list[Handle] = []
        self._closed = False

    @contextmanager
    def take(self, query_settings: QuerySettings, patience_s: float) -> Iterator[Handle]:
        """A handle with exactly these settings, for one request. Raises ``EngineError`` when all stay busy."""
        if not self._free.acquire(timeout=patience_s):
            raise EngineError(
                "Code: 202. DB::Exception: Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES)",
                _TOO_MANY_SIMULTANEOUS_QUERIES,
            )
        try:
            handle = self._find(query_settings) or Handle(self._path, query_settings, self._home)
            try:
                yield handle
            finally:
                self._put_back(handle)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close the idle handles; those at work are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for handle in idle:
            handle.close()

    def _find(self, query_settings: QuerySettings) -> Handle | None:
        with self._lock:
            for handle in reversed(self._idle):
                if handle.query_settings == query_settings:
                    self._idle.remove(handle)
                    return handle
        return None

    def _put_back(self, handle: Handle) -> None:
        with self._lock:
            keep = not (self._closed or handle.is_spoilt)
            if keep:
                self._idle.append(handle)
            surplus = self._idle.pop(0) if len(self._idle) > _MAX_IDLE else None
        for unwanted in (surplus, None if keep else handle):
            if unwanted:
                unwanted.close()


def as_query_settings(values: Mapping[str, Any]) -> QuerySettings:
    """Settings in the order in which they are to be SET."""
    return tuple((name, str(value)) for name, value in values.items())
