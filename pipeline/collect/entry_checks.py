"""What is wrong with an entry of ``collect.keys``, in words. Pure.

Of the shipped catalogue a test holds the same. A mistake that would only collect nothing, or under another name, is
refused where the settings are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pipeline.base.config_sections import RedisDatabases
from pipeline.base.nearest import nearest

if TYPE_CHECKING:
    from pipeline.collect.catalogue import Derived, Entry

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_ANY_KEY = {"count", "once"}
_KINDS: dict[str, set[str]] = {
    "string": {*_ANY_KEY, "sum", "number", "held", "holders"},
    "json": {*_ANY_KEY, "total", "within"},
    "hash": {*_ANY_KEY, "size", "fields", "changed_fields", "members", "flags", "stuck", "executions"},
    "list": {*_ANY_KEY, "size", "values", "events", "oldest", "suffixes"},
    "set": {*_ANY_KEY, "size", "members_total", "orphans"},
    "zset": {*_ANY_KEY, "size", "series", "oldest", "overdue"},
    "channel": {"messages"},
}
_OF_FIELDS = frozenset({"fields", "changed_fields", "members"})
_NEEDS_FIELD = frozenset({"total", "stuck"})
"""The only kinds that read ``field``."""
EXECUTIONS = "duration"
"""The metric type of executions, which come from the buffer alone."""


def mistakes(entry: Entry, others: Iterable[Entry] = ()) -> Iterator[str]:
    """Each mistake of an entry; ``others`` are those whose keys it must not claim."""
    databases = list(RedisDatabases.model_fields)
    if entry.database not in databases:
        yield f"{entry.database!r} is no database; {nearest(entry.database, databases)}"
    names = _PLACEHOLDER.findall(entry.pattern)
    if re.search(r"[{}]", _PLACEHOLDER.sub("", entry.pattern)):
        yield f"the pattern {entry.pattern!r} has a brace that is part of no placeholder such as {{node}}"
    elif repeated := sorted({name for name in names if names.count(name) > 1}):
        yield f"the pattern {entry.pattern!r} has the placeholder {{{repeated[0]}}} twice"
    else:
        yield from (_overlap(entry, other) for other in others if _claims_keys_of(entry, other))
    for derived in entry.metrics:
        yield from _mistakes_of(entry, derived, names)


def _mistakes_of(entry: Entry, derived: Derived, names: list[str]) -> Iterator[str]:
    if derived.kind not in _KINDS[entry.type]:
        yield f"a {entry.type} has no {derived.kind!r}; {nearest(derived.kind, sorted(_KINDS[entry.type]))}"
    elif derived.kind in _OF_FIELDS:
        if not (derived.fields or derived.less or derived.share or derived.good or derived.age):
            yield "no field is named: say which ('field', or 'fields' in the form of the catalogue)"
    elif derived.kind != "executions" and not derived.metric_type:
        yield "it has no metric_type"
    elif derived.kind in _NEEDS_FIELD and not derived.field:
        yield f"{derived.kind!r} needs 'field'"
    if derived.field and derived.kind not in _NEEDS_FIELD:
        told = "; a string that holds an object is a json" if entry.type == "string" else ""
        yield f"{derived.kind!r} of a {entry.type} reads no 'field'{told}"
    for target, text in derived.by.items():
        inner = text[1:-1] if text.startswith("{") and text.endswith("}") else None
        is_known = inner in names or (inner == "member" and derived.kind == "members") or (
            inner == "value" and entry.type == "string"
        )  # fmt: skip
        if inner is not None and not is_known:
            told = nearest(inner, names) if names else "it has none"
            yield f"'by' takes {target} from {text}, which the pattern {entry.pattern!r} does not have; {told}"
    types = [derived.metric_type, *derived.fields.values()]
    if wrong := [one for one in types if not one.isprintable() or one != one.strip()]:
        yield f"the metric type {wrong[0]!r} is not one printable word"
    if derived.kind != "executions" and any(one.lower() == EXECUTIONS for one in types):
        yield f"the metric type {EXECUTIONS!r} is that of executions, which come from the buffer; choose another"


def useless(entry: Entry) -> Iterator[str]:
    """What makes an entry of the settings collect nothing."""
    if entry.writer == "pipeline":
        yield "what the pipeline writes is never collected; leave 'writer' out"
    elif not entry.metrics and entry.type == "channel":
        yield "a channel without metrics has no use"


def _claims_keys_of(entry: Entry, other: Entry) -> bool:
    """Whether ``other`` would have every key of ``entry``: of two patterns the longer fixed text decides."""
    if entry.database != other.database or (entry.type == "channel") != (other.type == "channel"):
        return False
    return other.fixed >= entry.fixed and other.regex.fullmatch(_PLACEHOLDER.sub("x", entry.pattern)) is not None


def _overlap(entry: Entry, other: Entry) -> str:
    return (
        f"the keys of {entry.pattern!r} belong to {other.name!r} ({other.pattern}) already; "
        "give the pattern more fixed text, or leave it out"
    )
