"""The platform's Redis schema as data: ``catalogue.yaml``, read, checked and asked which entry a key belongs to.

A deployment adds entries by ``collect.keys`` in the settings, in the same form. A key that two patterns fit belongs
to the one with the longer fixed text (``lock:queue:x`` is a lock queue, not a lock).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.base.errors import ConfigError
from pipeline.base.nearest import nearest
from pipeline.collect.entry_checks import mistakes, useless

Type = Literal["string", "json", "hash", "list", "set", "zset", "channel"]
Kind = Literal[
    "count", "sum", "total", "number", "size", "fields", "changed_fields", "members", "members_total", "values",
    "events", "once", "series", "flags", "oldest", "stuck", "held", "holders", "orphans", "overdue", "within",
    "suffixes", "executions", "messages",
]  # fmt: skip

REMEMBERED: frozenset[Kind] = frozenset(
    {"values", "events", "once", "series", "changed_fields", "flags", "executions", "oldest"}
)
"""Kinds that keep a state beside the buffer: what was told once, or when something was first seen."""

Origin = Literal["member", "value", "part", "constant", "field"]
"""Where the text of a dimension comes from: see ``Derived.by``."""

METRIC_FIELDS = frozenset(
    {"environment", "browser", "test_suite", "test_id", "test_name", "page", "endpoint", "node", "error_type"}
)
"""Where the dimensions of a collected metric may go, beside ``tags.…``."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Difference(_Strict):
    """One field minus another, as a metric."""

    metric_type: str
    of: str
    minus: str


class Share(_Strict):
    """One field as a percentage of another, as a metric."""

    metric_type: str
    of: str
    in_: str = Field(alias="in")


class Good(_Strict):
    """1 where a text field is one of ``words``, else 0."""

    metric_type: str
    field: str
    words: tuple[str, ...]


class Age(_Strict):
    """Seconds since the time in a field."""

    metric_type: str
    field: str


class Derived(_Strict):
    """What one kind of key becomes."""

    kind: Kind
    metric_type: str = ""
    by: dict[str, str] = Field(default_factory=dict)
    """Field of the metric (or ``tags.name``) to where its text comes from: a field of the value, "{placeholder}",
    "{member}" of a hash, "{value}" of a string, or "=constant"."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Field of the value to metric type."""
    field: str = ""
    of: str = ""
    no_members: tuple[str, ...] = ()
    """Fields of the hash that are no members of it: what the platform counts beside them."""
    less: Difference | None = None
    share: Share | None = None
    good: Good | None = None
    age: Age | None = None

    @model_validator(mode="after")
    def _known_targets(self) -> Derived:
        for target in self.by:
            if target not in METRIC_FIELDS and not target.startswith("tags."):
                raise ValueError(f"'by' names {target!r}; a metric has {', '.join(sorted(METRIC_FIELDS))}, or tags.…")
        return self

    @cached_property
    def label_origins(self) -> tuple[tuple[str, Origin, str], ...]:
        """``by`` sorted by target, each with where its text comes from and its name there (or the constant)."""
        found: list[tuple[str, Origin, str]] = []
        for target, text in sorted(self.by.items()):
            if text == "{member}":
                found.append((target, "member", ""))
            elif text == "{value}":
                found.append((target, "value", ""))
            elif text.startswith("{"):
                found.append((target, "part", text[1:-1]))
            elif text.startswith("="):
                found.append((target, "constant", text[1:]))
            else:
                found.append((target, "field", text))
        return tuple(found)

    @cached_property
    def read_fields(self) -> tuple[str, ...]:
        """The fields of the value that this reads."""
        named = [text for text in self.by.values() if not text.startswith(("{", "="))]
        named += [*self.fields, self.field]
        for part in (self.less, self.share):
            if part is not None:
                named += [part.of, part.minus if isinstance(part, Difference) else part.in_]
        named += [part.field for part in (self.good, self.age) if part is not None]
        if self.kind == "within":
            named += ["start", "end", "scheduled"]
        return tuple(dict.fromkeys(name for name in named if name))


class Entry(_Strict):
    """One key pattern or channel of the platform's schema."""

    name: str = Field(pattern=r"^\w+$")
    pattern: str = Field(min_length=1)
    database: str
    type: Type
    ttl_s: int | None = Field(None, gt=0)
    ttl_required: bool = False
    most: int | None = Field(None, gt=0)
    writer: Literal["platform", "pipeline"] = "platform"
    reader: Literal["platform", "pipeline"] = "platform"
    secret: bool = False
    metrics: tuple[Derived, ...] = ()
    example: str = ""

    @cached_property
    def kinds(self) -> frozenset[str]:
        """What kinds of metric the keys become."""
        return frozenset(derived.kind for derived in self.metrics)

    @cached_property
    def remembered(self) -> tuple[Derived, ...]:
        """What has a state: see ``REMEMBERED``."""
        return tuple(derived for derived in self.metrics if derived.kind in REMEMBERED)

    @cached_property
    def read_fields(self) -> tuple[str, ...]:
        """The fields of the value that are read."""
        return tuple(dict.fromkeys(name for derived in self.metrics for name in derived.read_fields))

    @cached_property
    def start(self) -> str:
        """The fixed text before the first placeholder."""
        return self.pattern.partition("{")[0]

    @cached_property
    def sole_placeholder(self) -> str:
        """The name of the only placeholder, where nothing follows it; else empty."""
        found = re.fullmatch(r"[^{]*\{(\w+)\}", self.pattern)
        return found[1] if found else ""

    @cached_property
    def fixed(self) -> int:
        """How much of the pattern is fixed text; the greater number decides between two that fit."""
        return len(_PLACEHOLDER.sub("", self.pattern))

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The pattern as a regular expression; the last placeholder may hold colons."""
        names = _PLACEHOLDER.findall(self.pattern)
        text = re.escape(self.pattern)
        for number, name in enumerate(names):
            part = "(.+)" if number == len(names) - 1 else "([^:]+)"
            text = text.replace(re.escape("{" + name + "}"), part.replace("(", f"(?P<{name}>", 1), 1)
        return re.compile(text, re.DOTALL)

    def metric_types(self) -> list[str]:
        """Every metric type that keys of this pattern become."""
        found = []
        for derived in self.metrics:
            parts = (derived.less, derived.share, derived.good, derived.age)
            found += [derived.metric_type, *derived.fields.values(), *(part.metric_type for part in parts if part)]
        return [one for one in dict.fromkeys(found) if one]

    @property
    def glob(self) -> str:
        """The pattern as Redis matches names of channels."""
        return _PLACEHOLDER.sub("*", self.pattern)

    @property
    def needs_ttl(self) -> bool:
        """Whether the document wants keys of this pattern to expire."""
        return self.ttl_s is not None or self.ttl_required


class Match(NamedTuple):
    """A key and the entry it belongs to; ``parts`` are the texts of the pattern's placeholders."""

    entry: Entry
    key: str
    parts: Mapping[str, str]


class Catalogue:
    """All entries, asked by key."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries: tuple[Entry, ...] = tuple(entries)
        doubled = {entry.name for entry in self.entries if sum(other.name == entry.name for other in self.entries) > 1}
        if doubled:
            raise ConfigError(f"setting 'collect.keys' repeats the name {sorted(doubled)[0]!r}; choose another")
        self._patterns: dict[tuple[str, ...], _Patterns] = {}

    def match(self, database: str, key: str) -> Match | None:
        """The entry that ``key`` belongs to; None for a key that the schema does not know."""
        matches = self.matches([database], [key.encode("utf-8", "surrogateescape")])
        return matches[0] if matches else None

    def matches(self, databases: Sequence[str], keys: Iterable[bytes]) -> list[Match]:
        """Those of ``keys`` that belong to an entry of one of ``databases``, with it; the first database wins."""
        names = tuple(databases)
        if names not in self._patterns:
            self._patterns[names] = _Patterns(self.entries, names)
        return self._patterns[names].matches(keys)

    def find(self, text: str) -> list[Entry]:
        """Entries by name, by pattern, or by a key that belongs to them."""
        named = [entry for entry in self.entries if text in (entry.name, entry.pattern)]
        return named or [entry for entry in self.entries if entry.regex.fullmatch(text)]

    def channels(self) -> list[Entry]:
        """The entries that are channels."""
        return [entry for entry in self.entries if entry.type == "channel"]


class _Patterns:
    """The entries of databases by the first part of their keys, so that a foreign key costs one look-up."""

    def __init__(self, entries: Iterable[Entry], databases: Sequence[str]) -> None:
        self._by_head: dict[bytes, list[Entry]] = {}
        self._anywhere: list[Entry] = []
        here = [entry for entry in entries if entry.database in databases and entry.type != "channel"]
        for entry in sorted(here, key=lambda one: (databases.index(one.database), -one.fixed)):
            head = entry.pattern.partition(":")[0]
            if "{" in head:
                self._anywhere.append(entry)
            else:
                self._by_head.setdefault(head.encode(), []).append(entry)

    def matches(self, keys: Iterable[bytes]) -> list[Match]:
        found = []
        by_head, anywhere = self._by_head, self._anywhere
        for raw in keys:
            entries = by_head.get(raw.partition(b":")[0], anywhere)
            if not entries:
                continue
            key = raw.decode("utf-8", "surrogateescape")
            for entry in entries if entries is anywhere else (*entries, *anywhere):
                if key.startswith(entry.start) and (match := _fit(entry, key)) is not None:
                    found.append(match)
                    break
        return found


def _fit(entry: Entry, key: str) -> Match | None:
    """``key``, which begins like ``entry``, as one of its keys. Most patterns end in their only placeholder, and need
    no regular expression."""
    if name := entry.sole_placeholder:
        rest = key[len(entry.start) :]
        return Match(entry, key, {name: rest if key.isascii() else _text(rest)}) if rest else None
    if not (found := entry.regex.fullmatch(key)):
        return None
    return Match(entry, key, {name: _text(part) for name, part in found.groupdict().items()})


def _text(part: str) -> str:
    """A part of a key's name as it may stand in a metric: U+FFFD for what is not UTF-8."""
    return part.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@cache
def shipped() -> tuple[Entry, ...]:
    """The entries of the document."""
    loaded = yaml.safe_load(Path(__file__).with_name("catalogue.yaml").read_text(encoding="utf-8"))
    return tuple(Entry.model_validate(one) for one in loaded)


def catalogue(own: Sequence[Mapping[str, Any]] = ()) -> Catalogue:
    """The document's entries and those of ``collect.keys``. Raises ``ConfigError`` naming what is wrong."""
    added: list[Entry] = []
    for number, one in enumerate(own):
        try:
            entry = Entry.model_validate(plain(one))
        except ValidationError as error:
            # A name that is written wrongly explains why another one is missing.
            first = min(
                error.errors(include_url=False, include_input=False), key=lambda one: one["type"] != "extra_forbidden"
            )
            place = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                known = [*Entry.model_fields, "field", "metric_type", "by"]
                message = f"there is no such name; {nearest(str(first['loc'][-1]), known)}"
            raise ConfigError(f"setting 'collect.keys.{number}.{place}': {message}") from None
        for mistake in (*mistakes(entry, [*shipped(), *added]), *useless(entry)):
            raise ConfigError(f"setting 'collect.keys.{number}': {mistake}")
        added.append(entry)
    return Catalogue([*shipped(), *added])


def plain(one: Mapping[str, Any]) -> dict[str, Any]:
    """A short entry of the settings (pattern, type, field, metric_type, by) in full form."""
    entry = dict(one)
    if "metrics" in entry or "metric_type" not in entry:
        return entry
    metric_type, by = entry.pop("metric_type"), entry.pop("by", None)
    field = entry.pop("field", None)
    pattern = str(entry.get("pattern", ""))
    if by is None:
        by = {
            name if name in METRIC_FIELDS else f"tags.{name}": f"{{{name}}}" for name in _PLACEHOLDER.findall(pattern)
        }
    kind = {"hash": "fields", "string": "number", "list": "size", "set": "size", "zset": "size", "json": "total"}
    derived: dict[str, Any] = {"kind": kind.get(str(entry.get("type")), "number"), "by": by}
    if derived["kind"] == "fields":
        derived["fields"] = {field: metric_type} if field else {}
    else:
        derived["metric_type"] = metric_type
        if field:
            derived["field"] = field
    entry.setdefault("name", re.sub(r"\W+", "_", _PLACEHOLDER.sub("", pattern)).strip("_") or "own")
    entry.setdefault("database", "results")
    return entry | {"metrics": [derived]}
