"""What the page shows first: the newest look, its last hour, and what is wrong with the fix for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.collect.told import quiet
from pipeline.web.parts import Parts
from pipeline.web.pulse import PipelineLook, Pulse

_KEYS = (
    *("sealed", "stored", "dead_lettered", "waiting", "in_flight", "spilled", "dropped", "lost", "set_aside"),
    *("unaccounted", "oldest_s", "newest_row_age_s", "rows", "firing", "dead_letters_open", "redis_memory_bytes"),
    *("redis_memory_pct", "redis_health", "dirty_minutes", "ledger_pending", "services", "trouble"),
    *("oldest_waiting_s", "retention_h", "kept_h", "high_water", "set_aside_names"),
)
_MOST_POINTS = 240


def now(parts: Parts, pulse: Pulse) -> dict[str, Any]:
    """The newest look, as the live view shows it."""
    look = pulse.newest
    return {
        "at_ms": look.at_ms,
        "age_s": round(pulse.age_s(), 1) if look.at_ms else None,
        **{key: look.status.get(key) for key in _KEYS},
        "collect": _heard(look.status.get("collect")),
        "stored_per_s": look.stored_per_s,
        "alerts": look.alerts,
        "dead_letters": look.dead_letters,
        "findings": pulse.findings,
        "jobs": parts.jobs(),
        "loops": parts.loops(),
        "job_lag_s": job_lag_s(parts),
        "fills": look.status.get("fills", {}),
    }


def _heard(states: dict[str, dict[str, Any]] | None) -> dict[str, dict[str, Any]] | None:
    """The collectors that found something; None where no process has collected."""
    silent = set(quiet(states or {}))
    return {name: one for name, one in states.items() if name not in silent} if states else None


def history(looks: Iterable[PipelineLook]) -> dict[str, list[Any]]:
    """The last hour as columns, thinned out to what a small chart shows."""
    found = list(looks)
    step = max(1, len(found) // _MOST_POINTS)
    kept = found[::step]
    return {
        "at": [look.at_ms / 1000 for look in kept],
        "stored_per_s": [look.stored_per_s for look in kept],
        "freshness_s": [look.status.get("newest_row_age_s") for look in kept],
        "waiting": [look.status.get("waiting") for look in kept],
        "dead_lettered": [look.status.get("dead_lettered") for look in kept],
        "unaccounted": [look.status.get("unaccounted") for look in kept],
        "firing": [look.alerts.get("firing", 0) for look in kept],
        "job_lag_s": [look.job_lag_s for look in kept],
        "redis_memory_bytes": [look.status.get("redis_memory_bytes") for look in kept],
    }


def job_lag_s(parts: Parts) -> float:
    """How long after its time the latest job is."""
    lags: list[float] = [state["began_s_ago"] - state["interval_s"] for state in parts.jobs().values()]
    return round(max([0.0, *lags]), 1)
