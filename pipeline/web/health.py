"""``/healthz``: do the loops of this process turn? ``/readyz``: can it do its work, and what is missing?

Both answer yes or no without credentials; with credentials they name what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.web.pulse import STALE_S, PipelineLook

STUCK_S = 120.0
"""A loop that did not turn for this long hangs; requests to ClickHouse and Redis give up before."""


def stuck(loops: Mapping[str, float]) -> list[str]:
    """The loops that hang, in words."""
    return [f"the loop {name!r} did not turn for {age_s:.0f} s" for name, age_s in loops.items() if age_s > STUCK_S]


def missing(look: PipelineLook, age_s: float, lease_held: bool | None) -> list[str]:
    """What keeps the service from its work, in words; empty when it is ready."""
    if age_s > STALE_S:
        return ["nothing is known yet" if not look.at_ms else f"the last status check was {age_s:.0f} s ago"]
    found = []
    if look.redis_trouble:
        found.append(_named("Redis", look.redis_trouble))
    if look.clickhouse_trouble:
        found.append(_named("ClickHouse", look.clickhouse_trouble))
    if lease_held is False and not look.redis_trouble:
        found.append("lease: no process holds the schedule")
    return found


def _named(neighbour: str, trouble: str) -> str:
    return trouble if trouble.startswith(neighbour) else f"{neighbour}: {trouble}"
