"""What an analyst may ask the embedded engine.

``readonly`` on a handle is not enough here, and neither are the engine's access rights. The engine
inside a process behaves like clickhouse-local, which lets a read-only handle write files (``INTO
OUTFILE``), read any file (``file('/etc/passwd')``), fetch addresses (``DESCRIBE url(…)``), look at
this process's variables (``Python(…)``), end queries (``KILL``) and change roles; each was tried. So
there are two checks. The engine's role ``analyst`` holds back tables (see ``engine_config``); this
module lets through only statements that consist of listed parts (see ``statement_tree``).

The engine's own parser takes the statement as a text and gives its tree, executing nothing. The
judged tree is written as text again, that text is parsed and judged once more, and it is what runs:
no comment, no second statement and no part that the tree leaves out can pass.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.base.config import WebSettings
from pipeline.base.sql_text import literal
from pipeline.embedded import system_columns
from pipeline.embedded.column_meant import with_columns_meant
from pipeline.embedded.handles import OUTPUT_FORMATS, Answer, EngineError, QuerySettings
from pipeline.embedded.statement_lists import allowed_functions
from pipeline.embedded.statement_settings import allowed_setting
from pipeline.embedded.statement_tree import (
    ACCESS_DENIED,
    READONLY,
    Node,
    Place,
    judge,
    plain_database,
    plain_table,
    refusal,
    refuse,
    shown,
)

__all__ = ["READONLY", "Checked", "allowed_setting", "as_asked", "checked"]

_BAD_ARGUMENTS = 36
_TOO_DEEP = 306
_UNKNOWN_IDENTIFIER = 47
# The engine repeats the whole statement, with the guard's part around what a person wrote.
_OURS = r"(?:SELECT formatQuery|WITH formatQueryFromJSON|SELECT parseQueryToJSON)"
_OURS_IN_ERROR = re.compile(rf"(?:: |\. )?In scope {_OURS}\(.*(?=\. \([A-Z_]+\)\s*\Z)", re.DOTALL)

_NAME = r"(?:\w+|`[^`\\]+`)"
# What the parser gives no tree for, in the one form that formatQuery writes.
_LOOKING = re.compile(
    rf"(?P<verb>DESCRIBE TABLE|EXISTS (?:TABLE|VIEW)|SHOW CREATE (?:TABLE|VIEW)) "
    rf"(?:(?P<database>{_NAME})\.)?(?P<table>{_NAME})(?:\s+FORMAT (?P<format>\w+))?"
)
_LOOKING_AT_DATABASE = re.compile(
    rf"(?:EXISTS|SHOW CREATE) DATABASE (?P<database>{_NAME})(?:\s+FORMAT (?P<format>\w+))?"
)
_DESCRIBE_QUERY = re.compile(r"DESCRIBE TABLE\s+(?P<query>\(.*)", re.DOTALL)


class GuardHandle(Protocol):
    """A handle on the engine with the role ``analyst``."""

    home: str
    """The database that analysts read."""
    database: str
    """The one that a name without a database means now."""

    def run(
        self, statement: bytes, format_name: str = "TabSeparated", parameters: Mapping[str, str] | None = None
    ) -> Answer:
        """Run one statement to its end. Raises ``EngineError``."""


@dataclass(frozen=True)
class Checked:
    """A statement that may run: ``text`` is what runs, and nothing else; ``query_settings`` are those it names."""

    text: bytes
    format: str | None
    returns_rows: bool
    query_settings: QuerySettings


def checked(handle: GuardHandle, statement: bytes, parameters: Mapping[str, str], limits: WebSettings) -> Checked:
    """The statement as it may run on ``handle``, with these parameters. Raises ``EngineError`` if it may not.

    The error carries ClickHouse's code: 62 where the statement is none, 164 where it does more than ask, 497 where
    it reaches for what analysts may not have, 115 and 452 for settings, 73 for formats.
    """
    for name in parameters:
        if not re.fullmatch(r"\w{1,100}", name):
            refuse(ACCESS_DENIED, f"a parameter's name is a word, which {shown(name)} is not")
    place = Place(handle.home, handle.database, _unlisted_functions(handle), limits)
    try:
        tree = _tree(handle, statement)
    except EngineError as error:
        if error.code != _BAD_ARGUMENTS:  # the parser gives no tree for every kind of statement
            raise
        return _looking(handle, statement, place)
    judged = judge(tree, place)
    text, again = _written(handle, with_columns_meant(judged.tree))
    judge(again, place)
    return Checked(text, judged.format, judged.returns_rows, judged.query_settings)


def as_asked(handle: GuardHandle, error: EngineError) -> EngineError:
    """An error of a checked statement in the words of the one that was asked; a closed column is called closed."""
    text = str(error)
    tables = sorted(system_columns.tables_in(text))
    if not tables:
        return error
    columns = {table: _columns(handle, table) for table in tables if error.code == _UNKNOWN_IDENTIFIER}
    if closed := system_columns.closed_column(text, columns):
        return refusal(ACCESS_DENIED, f"the column {shown(closed)} is not one that analysts may read")
    return EngineError(system_columns.as_asked(text), error.code)


def _columns(handle: GuardHandle, table: str) -> Sequence[str]:
    """All of its columns; DESCRIBE of it takes a right that analysts do not have."""
    return handle.run(f"SELECT * FROM system.{table} LIMIT 0".encode(), "TSVWithNames").body.decode().split()


def _looking(handle: GuardHandle, statement: bytes, place: Place) -> Checked:
    """DESCRIBE, EXISTS and SHOW CREATE of one plain name, and DESCRIBE of a query."""
    text = _ask(handle, b"SELECT formatQuery(" + _quoted(statement) + b")")
    plain = text.decode(errors="surrogateescape")
    if found := _LOOKING.fullmatch(plain):
        plain_table(_unquoted(found["database"] or ""), _unquoted(found["table"]), place)
        _plain_format(found["format"])
        return Checked(text, found["format"], True, ())
    if found := _LOOKING_AT_DATABASE.fullmatch(plain):
        plain_database(_unquoted(found["database"]), place)
        _plain_format(found["format"])
        return Checked(text, found["format"], True, ())
    if found := _DESCRIBE_QUERY.fullmatch(plain):
        inner = judge(_tree(handle, found["query"].encode(errors="surrogateescape")), place)
        bare = {name: value for name, value in inner.tree.items() if name not in ("format_ast", "settings_ast")}
        query, again = _written(handle, with_columns_meant(bare))
        judge(again, place)
        return Checked(b"DESCRIBE TABLE (" + query + b")", inner.format, True, inner.query_settings)
    return refuse(
        READONLY, "only questions are answered here, and DESCRIBE, EXISTS and SHOW CREATE take one plain name"
    )


def _unquoted(name: str) -> str:
    return name.strip("`")


def _plain_format(name: str | None) -> None:
    if name is not None and name.lower() not in OUTPUT_FORMATS:
        raise EngineError(f"Code: 73. DB::Exception: Unknown format {shown(name)}. (UNKNOWN_FORMAT)", 73)


def _tree(handle: GuardHandle, statement: bytes) -> Node:
    """What the engine's parser makes of a statement."""
    return _loaded(_ask(handle, b"SELECT parseQueryToJSON(" + _quoted(statement) + b")"))


def _written(handle: GuardHandle, tree: Node) -> tuple[bytes, Node]:
    """A tree as text, and what the parser makes of that text."""
    # Bytes that are not UTF-8 stay what they are; as an escape the engine's reader of JSON refuses them.
    text = _quoted(json.dumps(tree, ensure_ascii=False).encode(errors="surrogateescape"))
    answer = _ask(handle, b"WITH formatQueryFromJSON(" + text + b") AS text SELECT parseQueryToJSON(text), text")
    again, _, written = answer.partition(b"\t")  # JSON holds no raw tab
    return written, _loaded(again)


def _loaded(text: bytes) -> Node:
    try:
        tree = json.loads(text.decode(errors="surrogateescape"))
    except RecursionError:
        raise EngineError(
            "Code: 306. DB::Exception: The statement is nested too deeply. (TOO_DEEP_RECURSION)", _TOO_DEEP
        ) from None
    if not isinstance(tree, dict):
        refuse(READONLY, "only questions are answered here")
    return tree


def _quoted(text: bytes) -> bytes:
    return literal(text.decode(errors="surrogateescape")).encode(errors="surrogateescape")


def _ask(handle: GuardHandle, sql: bytes) -> bytes:
    """One of the engine's functions over statements; its errors without our words around what a person wrote."""
    try:
        return handle.run(sql, "TabSeparatedRaw").body.removesuffix(b"\n")
    except EngineError as error:
        raise EngineError(_OURS_IN_ERROR.sub("", str(error)), error.code) from None


_unlisted: frozenset[str] | None = None


def _unlisted_functions(handle: GuardHandle) -> frozenset[str]:
    """The functions that the engine of this process knows and analysts may not call, in lower case."""
    global _unlisted
    if _unlisted is None:
        names = handle.run(b"SELECT lower(name) FROM system.functions WHERE origin != 'SQLUserDefined'").body
        _unlisted = frozenset(names.decode().split()) - allowed_functions()
    return _unlisted
