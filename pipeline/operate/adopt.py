"""The first start under a fleet's name copies what an older version kept beside the first buffer of the list.

Scheduler, heartbeats, checkpoints and the state of the alerts belong to the fleet. Beside the first buffer they were
forgotten when ``buffer.key`` was reordered. They are copied in one step and once; the old keys stay as they are.
"""

from __future__ import annotations

from typing import Any

from pipeline.base import log, lua
from pipeline.base.keys import FleetKeys, hash_tag
from pipeline.base.redis_link import outages

_log = log.get(__name__)


def adopt(client: Any, fleet: FleetKeys, first_buffer: str) -> int:
    """Copy the keys beside ``first_buffer`` to those of the fleet; how many were copied. Raises ``RedisOutage``."""
    before = hash_tag(first_buffer)
    with outages():
        if client.exists(fleet.adopted):
            return 0
        old = [f"{before}:{name}" for name in ("scheduler", "services", "checkpoints")]
        old += [name.decode() for name in client.scan_iter(match=_literally(f"{before}:alerts:") + "*", count=1000)]
        here = [name for name in old if client.exists(name)]
        if not here:
            # Nothing to copy: on a cluster these keys would lie in different slots.
            client.set(fleet.adopted, first_buffer, nx=True)
            return 0
        after = hash_tag(fleet.name)
        pairs = [name for key in here for name in (key, after + key.removeprefix(before)) if before != after]
        copied = int(client.eval(lua.load("operate", "adopt"), 1 + len(pairs), fleet.adopted, *pairs, first_buffer))
    if copied:
        _log.info("fleet keys of an older version copied", fleet=fleet.name, buffer=first_buffer, keys=copied)
    return copied


def _literally(text: str) -> str:
    """``text`` as a pattern that matches nothing else."""
    return "".join("\\" + one if one in "*?[]\\^" else one for one in text)
