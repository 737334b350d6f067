"""Where ``sql/`` and ``config/`` are: beside the package in a checkout, inside it in an installed wheel."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_NAMED_QUERY = re.compile(r"^-- (?P<name>\w+)\n-- (?P<sentence>.+)\n(?P<sql>(?:(?!--).*\n)*?.*);$", re.MULTILINE)


def path(relative: str) -> Path:
    """The file or directory ``relative`` ("sql/migrations", "config/rules.yaml").

    A checkout's own files win, so that an edit counts without reinstalling.
    Raises ``FileNotFoundError`` when neither place has it.
    """
    for root in (_PACKAGE.parent, _PACKAGE / "_data"):
        candidate = root / relative
        # site-packages may hold somebody else's "sql"; only a checkout has the project file beside it.
        if candidate.exists() and (root.name == "_data" or (root / "pyproject.toml").exists()):
            return candidate
    raise FileNotFoundError(f"{relative} is neither in the checkout nor in the installed package")


@cache
def text(relative: str) -> str:
    """The contents of the text file ``relative``; read once per process."""
    return path(relative).read_text(encoding="utf-8")


@cache
def package_text(relative: str) -> str:
    """The contents of a text file that lies beside the code, in the package ``pipeline``; read once per process."""
    return (_PACKAGE / relative).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Query:
    """A named query: what it answers, in one sentence, and its text."""

    sentence: str
    sql: str


@cache
def queries(file: str = "sql/queries.sql") -> dict[str, Query]:
    """The named queries, in the order of the file: a comment with the name, one with the sentence, the query."""
    found = _NAMED_QUERY.finditer(text(file))
    return {one["name"]: Query(one["sentence"], one["sql"].strip()) for one in found}
