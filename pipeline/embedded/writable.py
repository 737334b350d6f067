"""What a server for development and tests does besides answering: it takes inserts, DDL and settings."""

import re
import tempfile
from collections.abc import Mapping

from pipeline.base.sql_text import literal
from pipeline.embedded.handles import Answer, Handle

_INSERT = re.compile(rb"\A(?:\s|--[^\n]*\n|/\*.*?\*/)*INSERT\b", re.IGNORECASE | re.DOTALL)
# A statement piece by piece as far as its data: quoted things and parentheses are one piece each.
_PIECE = re.compile(
    rb"""'(?:[^'\\]|\\.)*' | `(?:[^`\\]|\\.)*` | "(?:[^"\\]|\\.)*" | \([^()]*\)
       | (?P<source>\b(?:SELECT|WITH|VALUES)\b)
       | (?P<settings>\bSETTINGS\b)
       | \bFORMAT\s+(?P<format>\w+)[ \t\r]*\n?
       | \w+ | .""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_NO_RESULT = re.compile(rb"(?!SELECT|WITH|\(|SHOW|DESCRIBE|EXISTS|EXPLAIN|CHECK|KILL|OPTIMIZE)")
_FORMAT_AT_END = re.compile(rb"\bFORMAT (\w+)\s*\Z")
_SET = re.compile(rb"(?:\A|;)\s*SET\b", re.IGNORECASE)


def is_insert(statement: bytes | bytearray) -> bool:
    """Whether data may follow."""
    return _INSERT.match(statement) is not None


def changes_settings(statement: bytes | bytearray) -> bool:
    """Whether a handle is another one afterwards."""
    return _SET.search(statement) is not None


def insert(handle: Handle, statement: bytes | bytearray, values: Mapping[str, str]) -> Answer:
    """The engine reads data behind a statement only as far as it looks like text; a file it reads to its end."""
    settings_at = None
    for piece in _PIECE.finditer(statement):
        if piece["source"] or (piece["format"] or b"").lower() == b"values":
            return handle.run(bytes(statement), parameters=values)
        if piece["settings"]:
            settings_at = piece.start()
        if piece["format"]:
            break
    else:
        return handle.run(bytes(statement), parameters=values)
    into_ends = piece.start() if settings_at is None else settings_at
    with tempfile.NamedTemporaryFile(prefix="pipeline-insert-") as file:
        file.write(memoryview(statement)[piece.end() :])
        file.flush()
        infile = b" FROM INFILE " + literal(file.name).encode() + b" "
        into, clause = bytes(statement[:into_ends]), bytes(statement[into_ends : piece.start()])
        return handle.run(into + infile + clause + b" FORMAT " + piece["format"], parameters=values)


def run(handle: Handle, statement: bytes, default_format: str, values: Mapping[str, str]) -> tuple[Answer, str | None]:
    """Whatever it is; the answer, and the format it is in (None where there is no result)."""
    text = literal(statement.decode(errors="surrogateescape")).encode(errors="surrogateescape")
    canonical = handle.run(b"SELECT formatQuery(" + text + b")", "TabSeparatedRaw").body.removesuffix(b"\n")
    answer = handle.run(statement, default_format, values)
    if _NO_RESULT.match(canonical):
        return answer, None
    named = _FORMAT_AT_END.search(canonical)
    return answer, named[1].decode() if named else default_format
