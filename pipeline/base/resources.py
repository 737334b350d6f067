"""Where ``sql/`` and ``config/`` are: beside the package in a checkout, inside it in an installed wheel."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_NAMED_QUERY = re.compile(
    r"^-- (?P<name>\w+)\n-- (?P<sentence>.+)\n(?:-- defaults: (?P<defaults>.+)\n)?(?P<sql>(?:(?!--).*\n)*?.*);$",
    re.MULTILINE,
)
_PARAMETER = re.compile(r"\{(?P<name>\w+):(?P<type>[^{}]+)\}")


def path(relative: str) -> Path:
    """The file or directory ``relative`` ("sql/migrations", "config/rules.yaml").

    A checkout's own files win, so that an edit counts without reinstalling.
    Raises ``FileNotFoundError`` when neither place has it.
    """
    for root in (_PACKAGE.parent, _PACKAGE / "_data"):
        candidate = root / relative
        # site-packages may hold another package's "sql"; only a checkout has the project file beside it.
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
class Parameter:
    """A value that a query asks for; without a default it has to be given."""

    name: str
    type: str
    default: str | None

    @property
    def is_time(self) -> bool:
        """Whether it is a point in time."""
        return self.type.startswith("DateTime")


@dataclass(frozen=True)
class Query:
    """A named query: what it answers, in one sentence, its text, and the defaults of its parameters."""

    sentence: str
    sql: str
    defaults: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> list[Parameter]:
        """What fills ``{name:Type}`` in it: those with a default in the order of their defaults, the others before."""
        types = {found["name"]: found["type"] for found in _PARAMETER.finditer(self.sql)}
        names = [*(name for name in types if name not in self.defaults), *self.defaults]
        return [Parameter(name, types[name], self.defaults.get(name)) for name in names]

    def as_dict(self, name: str) -> dict[str, object]:
        """For JSON, under its name."""
        return {
            "name": name,
            "sentence": self.sentence,
            "parameters": [vars(one) for one in self.parameters],
            "sql": self.sql,
        }

    def values(self, given: Mapping[str, str], now_ms: int) -> dict[str, str]:
        """What fills its parameters: what is given, else the default; times as epoch seconds. Raises ``UsageError``.

        What is missing in a query without a name is for ClickHouse to say: braces may stand in a text of it.
        """
        from pipeline.base.errors import UsageError

        wanted = {parameter.name: parameter for parameter in self.parameters}
        if unknown := sorted(given.keys() - wanted.keys()):
            takes = f"it takes {', '.join(wanted)}" if wanted else "it takes none"
            raise UsageError(f"the query has no parameter {unknown[0]!r}; {takes}")
        values = {**self.defaults, **given}
        if self.sentence and (missing := [name for name in wanted if name not in values]):
            raise UsageError(f"the query needs the parameter {missing[0]!r} ({wanted[missing[0]].type})")
        for name, text in values.items():
            if wanted[name].is_time and not text:
                raise UsageError(f"the parameter {name!r} is a time: ISO-8601, or a span back from now such as 6h")
        return {name: _epoch_s(text, now_ms) if wanted[name].is_time else text for name, text in values.items()}


def _epoch_s(text: str, now_ms: int) -> str:
    from pipeline.base import clock
    from pipeline.base.errors import UsageError

    try:
        moment_ms = clock.moment_ms(text, now_ms)
        return f"{moment_ms / 1000:.3f}" if "." in text else str(moment_ms // 1000)
    except ValueError as wrong:
        raise UsageError(str(wrong)) from None


@cache
def queries(file: str = "sql/queries.sql") -> dict[str, Query]:
    """The named queries, in the order of the file: comments with name, sentence and defaults, then the query."""
    return {
        one["name"]: Query(
            one["sentence"],
            one["sql"].strip(),
            dict(pair.split("=", 1) for pair in (one["defaults"] or "").split()),
        )
        for one in _NAMED_QUERY.finditer(text(file))
    }
