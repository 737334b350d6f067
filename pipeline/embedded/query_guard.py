"""What somebody who only asks questions may say to the embedded engine.

``readonly=1`` on a handle is not enough here. The engine inside a process behaves like
clickhouse-local, which lets a read-only handle write files (``INTO OUTFILE``), read any file
(``file('/etc/passwd')``), fetch addresses (``DESCRIBE url(…)``), look at this process's variables
(``DESCRIBE Python(…)``), end other people's queries (``KILL``) and stop merges (``SYSTEM``); each
was tried. So a statement is first put into the engine's own canonical form, which knows no
comments, no second statement and one way to quote; what passes the check below is that very
text, and that text is what runs.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.base.config import WebSettings
from pipeline.embedded.handles import EngineError, Handle, Settings, literal

# Everything else that readonly=1 refuses answers READONLY too.
READONLY = 164

_OPENINGS = frozenset({"SELECT", "WITH", "(", "SHOW", "DESCRIBE", "EXISTS", "EXPLAIN", "USE"})
_WITH_RESULT = (_OPENINGS - {"USE"}) | {"CHECK", "KILL", "OPTIMIZE"}
# file() reads files, hasColumnInTable() knows whether they exist, eval() runs text, Python() reads variables of
# this process, ai…() call services; none of them asks readonly, or not before it has looked.
_FUNCTIONS = re.compile(r"(?:file|hasColumnInTable|eval|(?i:python)|ai[A-Z]\w*)\Z")
_TOKEN = re.compile(
    r"""'(?:[^'\\]|\\.|'')*'          # text
      | `(?P<quoted>(?:[^`\\]|\\.)*)`  # a name that needs quotes
      | (?P<word>\w+)
      | \S""",
    re.VERBOSE | re.DOTALL,
)
_FORMAT = re.compile(r"\bFORMAT (\w+)\s*\Z")


def refusal(canonical: str) -> str | None:
    """Why this statement (as ``formatQuery`` writes it) may not run for a stranger; None if it may."""
    names = [found["quoted"] or found["word"] or found[0][:1] for found in _TOKEN.finditer(canonical)]
    words = [found["word"] or found[0][:1] for found in _TOKEN.finditer(canonical)]
    if not words or words[0] not in _OPENINGS:
        return "only questions are answered here"
    pairs = set(itertools.pairwise(words))
    if ("INTO", "OUTFILE") in pairs:
        return "INTO OUTFILE is not allowed"
    if ("PARALLEL", "WITH") in pairs:
        return "one statement at a time"
    if any(word == "SETTINGS" and equals == "=" for word, equals in zip(words, words[2:], strict=False)):
        return "settings are fixed here"
    if words[:3] == ["EXPLAIN", "TABLE", "OVERRIDE"]:
        return "EXPLAIN TABLE OVERRIDE is not allowed"
    if words[:2] == ["DESCRIBE", "TABLE"] and words[2:3] != ["("] and "(" in words:
        return "DESCRIBE of a table function is not allowed"
    if ("default", ".") in set(itertools.pairwise(names)):
        return "the database default shows the files of the machine as tables"
    for before, name, after in zip(["", *words], names, [*words[1:], ""], strict=False):
        if _FUNCTIONS.match(name) and (after == "(" or before == "APPLY"):
            return f"the function {name} is not allowed"
    return None


def format_named_in(canonical: str) -> str | None:
    """The output format a statement names for itself."""
    found = _FORMAT.search(canonical)
    return found[1] if found else None


def returns_rows(canonical: str) -> bool:
    """Whether the statement has a result, be it empty."""
    first = _TOKEN.search(canonical)
    return first is not None and first[0] in _WITH_RESULT


@dataclass(frozen=True)
class Checked:
    """A statement that may run: ``text`` is what runs, and nothing else; ``settings`` are those it names itself."""

    text: bytes
    format: str | None
    returns_rows: bool
    settings: Settings


def checked(handle: Handle, statement: bytes, parameters: Mapping[str, str], limits: WebSettings) -> Checked:
    """The statement as it may run on ``handle``. Raises ``EngineError`` with ClickHouse's code if it may not."""
    text = literal(statement.decode(errors="surrogateescape")).encode(errors="surrogateescape")
    canonical = handle.run(b"SELECT formatQuery(" + text + b")", "TabSeparatedRaw").body.removesuffix(b"\n")
    plain = canonical.decode(errors="surrogateescape")
    if why := refusal(plain):
        raise EngineError(
            f"Code: {READONLY}. DB::Exception: Cannot execute query in readonly mode: {why}. (READONLY)", READONLY
        )
    return Checked(canonical, format_named_in(plain), returns_rows(plain), ())


def allowed_setting(name: str, value: str, limits: WebSettings) -> str:
    """The value of a setting that a client asks for, if it may have it; ``EngineError`` with ClickHouse's code if not.

    115 (UNKNOWN_SETTING): the setting does not exist here. 452 (SETTING_CONSTRAINT_VIOLATION): beyond a limit.
    """
    raise EngineError(f"Code: 115. DB::Exception: Unknown setting '{name}'. (UNKNOWN_SETTING)", 115)
