"""The result of a query as ClickHouse writes it: any type, any bytes, for a table or as JSON.

ClickHouse renders the values itself (JSONCompactEachRow), so numbers of 128 bits, times and nested values come as
they are; what is not UTF-8 is shown as escapes, and NaN and infinities are null, since JSON knows neither.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from dataclasses import dataclass
from typing import Any

from pipeline.base.errors import UsageError

FORMAT = "JSONCompactEachRowWithNamesAndTypes"

_NUMBER = re.compile(r"(Nullable\(|LowCardinality\()*(U?Int|Float|BFloat|Decimal)\d*")
_FORMAT = re.compile(
    r"\bFORMAT\s+(?:JSON|CSV|TSV|TabSep|Pretty|Parquet|Arrow|ORC|Avro|Vertical|Values|Native|RowBinary|XML|Markdown|Null\b"
    r"|SQLInsert|Template|CustomSep|BSON|MsgPack|Protobuf|CapnProto)\w*\s*(?:SETTINGS\b[^()]*)?$",
    re.IGNORECASE,
)
"""One of ClickHouse's formats at the end of a statement, and no column of the name ``format``."""
_QUOTED = re.compile(r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`\\]|\\.)*`|--[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True)
class QueryResult:
    """Columns and rows of a result."""

    names: list[str]
    types: list[str]
    rows: list[list[Any]]

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return is_number(self.types[column])

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: rows by the names of their columns; a name that comes again gets its number."""
        names: list[str] = []
        for name in self.names:
            count = sum(1 for one in self.names[: len(names)] if one == name)
            names.append(f"{name}_{count + 1}" if count else name)
        return {"rows": [dict(zip(names, row, strict=True)) for row in self.rows], "row_count": len(self.rows)}


def one_statement(sql: str) -> str:
    """The statement without what ends it. Raises ``UsageError`` when there are several, or none."""
    # Quoted texts and comments keep their length, so that places stay what they are.
    bare = _QUOTED.sub(lambda found: " " * len(found[0]) if found[0][0] in "-/" else "x" * len(found[0]), sql)
    statements = [piece for piece in bare.split(";") if piece.strip()]
    if len(statements) != 1:
        raise UsageError(f"a query is one statement, not {len(statements) or 'an empty text'}")
    if _FORMAT.search(statements[0]):
        raise UsageError("a query is written without FORMAT; --format JSON, or a button of the page, chooses one")
    return sql[: len(bare.rstrip("; \n\t"))]


def is_number(kind: str) -> bool:
    """Whether a type of ClickHouse's is one of numbers."""
    return _NUMBER.match(kind) is not None


def count(body: bytes) -> int:
    """How many rows stand in an answer in ``FORMAT``."""
    return max(body.count(b"\n") - 2, 0)


def parse(body: bytes, most: int | None = None) -> QueryResult:
    """Read what ClickHouse answers in ``FORMAT``, at ``most`` so many rows; without a result it answers nothing."""
    found = itertools.islice(io.BytesIO(body), None if most is None else most + 2)
    lines = [json.loads(line.decode("utf-8", "surrogateescape")) for line in found]
    if len(lines) < 2:
        return QueryResult([], [], [])
    names, types, *rows = (_readable(line) for line in lines)
    return QueryResult(names, types, rows)


def _readable(value: Any) -> Any:
    """Bytes that are not UTF-8 as escapes."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return [_readable(one) for one in value]
    if isinstance(value, dict):
        return {_readable(name): _readable(one) for name, one in value.items()}
    return value
