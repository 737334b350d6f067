"""What the collector wrote down beside the buffer, for ``pipeline status``, the page and ``/metrics``.

Gaps are counted by the script that pushes them (``push_collected.lua``), so they are as exact as the events. Figures of
the Redis server that need two looks (rates, hits) are those of the collector; the rest is asked for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.alerts.judge.facts import Facts
from pipeline.base.keys import BufferKeys
from pipeline.base.typed_keys import typed
from pipeline.collect.catalogue import Catalogue, Entry
from pipeline.collect.redis_health import HealthLook, facts

STATUS = "status"
"""Field of the collected hash: how each entry fares."""
SERVER = "server"
"""Field of the collected hash: the newest figures of the Redis server."""
CHANNELS = "channels"
"""What the gaps of all channels are counted under: they share one subscription."""
FRESH_S = 300
"""Older figures of the collector are not shown: it is not running."""

_DATABASE_FACTS = {"redis_db_keys": "keys", "redis_db_expires": "expires", "redis_db_avg_ttl_s": "avg_ttl_s"}
_PREFIX = "redis_"


def gap_name(entry: Entry) -> str:
    """Under what name the gaps of an entry are counted."""
    return CHANNELS if entry.type == "channel" else entry.name


def read_states(client: Any, keys: BufferKeys, catalogue: Catalogue) -> dict[str, dict[str, Any]]:
    """How each catalogue entry fares, and its gaps. Raises ``RedisOutage``."""
    entries = {entry.name: entry for entry in catalogue.entries}
    with typed(client, {keys.collected: "hash"}):
        states = _object(client.hget(keys.collected, STATUS))
    found = {name: one for name, one in states.items() if isinstance(one, dict) and name in entries}
    names = sorted({gap_name(entries[name]) for name in found if _can_gap(entries[name])})
    if not names:
        return found
    with typed(client, {keys.collected: "hash"}):
        told = client.hmget(keys.collected, [f"{what}:{name}" for name in names for what in ("gaps", "gap_ms")])
    gaps = {name: (_whole(told[2 * at]), _whole(told[2 * at + 1])) for at, name in enumerate(names)}
    for name, one in found.items():
        count, last_ms = gaps.get(gap_name(entries[name]), (0, 0)) if _can_gap(entries[name]) else (0, 0)
        one |= {"gaps": count, "last_gap_ms": last_ms}
    return found


def read_health(
    client: Any, keys: BufferKeys, info: Mapping[str, Any], databases: Mapping[str, int], now_ms: int
) -> dict[str, Any]:
    """How the server and each of the platform's databases are. Raises ``RedisOutage``."""
    with typed(client, {keys.collected: "hash"}):
        told = _object(client.hget(keys.collected, SERVER))
    known: dict[str, Any] = {}
    if abs(now_ms - _whole(told.get("at_ms"))) <= FRESH_S * 1000 and isinstance(told.get("facts"), dict):
        known = told["facts"]
    asked = facts(HealthLook(time.monotonic(), info)) if info else {}
    asked.pop("redis_slow_query_avg_ms", None)  # INFO does not say it
    return health(known | asked, databases)


def health(known: Mapping[str, Any], databases: Mapping[str, int]) -> dict[str, Any]:
    """The document's health list: ``figures`` of the server, and what Redis says of each database."""
    by_number: dict[int, dict[str, Any]] = {}
    for name, number in databases.items():
        by_number.setdefault(number, {"database": number, "names": []})["names"].append(name)
    figures: dict[str, float] = {}
    for name, told in known.items():
        if name in _DATABASE_FACTS:
            for labels, value in told:
                if (one := by_number.get(_whole(labels.get("database")))) is not None:
                    one[_DATABASE_FACTS[name]] = round(value, 1)
        elif isinstance(told, int | float):
            figures[name.removeprefix(_PREFIX)] = round(float(told), 3)
        elif told:  # a replica each: the slowest counts
            figures[name.removeprefix(_PREFIX)] = round(max(float(value) for _, value in told), 3)
    empty = {"keys": 0, "expires": 0, "avg_ttl_s": 0} if known else {}
    return {
        "figures": dict(sorted(figures.items())),
        "databases": [empty | one for _, one in sorted(by_number.items())],
    }


def server_text(found: Facts, now_ms: int) -> str:
    """The figures of the server as they are written down."""
    return json.dumps({"at_ms": now_ms, "facts": found})


def quiet(states: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """Entries whose last look found nothing and had no trouble."""
    return [
        name for name, one in states.items() if not any(one.get(what) for what in ("keys", "items", "trouble", "gaps"))
    ]


def _can_gap(entry: Entry) -> bool:
    return entry.type == "channel" or bool(entry.kinds & {"values", "events"})


def _object(text: bytes | None) -> dict[str, Any]:
    try:
        loaded = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _whole(text: Any) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        return 0
