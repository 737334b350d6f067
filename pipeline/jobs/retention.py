"""How long raw rows are kept: what the platform wrote into its Redis, or else the setting.

``retention:performance_metrics`` belongs to the platform, so it may hold anything. What is not a number of
hours between one and ``MAX_HOURS`` is said and passed over.
"""

from __future__ import annotations

import redis

from pipeline.base import keys, log
from pipeline.base.config import LONGEST_KEPT_DAYS
from pipeline.base.errors import PipelineError, RedisOutage
from pipeline.base.redis_link import RedisLink, outages

_log = log.get(__name__)

MAX_HOURS = LONGEST_KEPT_DAYS * 24
"""As ``retention.raw_hours``."""
LONGEST_TEXT = 100
"""Bytes of ``ttl_hours``. A longer text is not a number of hours; it is not read, since it may be very large."""
_FIX = f"set ttl_hours to a number from 1 to {MAX_HOURS}"


def retention_hours(link: RedisLink, default_hours: int) -> int:
    """Hours that raw rows are kept; what cannot be meant is logged. Raises ``RedisOutage``."""
    hours, wrong = asked_hours(link)
    if wrong:
        _log.warning("retention ignored", **wrong)
    return default_hours if hours is None else hours


def asked_hours(link: RedisLink) -> tuple[int | None, dict[str, str]]:
    """The hours that the platform asks for, if it does, and what is wrong with them. Raises ``RedisOutage``."""
    key = keys.RETENTION_PERFORMANCE_METRICS
    try:
        with outages():
            client = link.database("environment")
            if (length := int(client.hstrlen(key, "ttl_hours"))) > LONGEST_TEXT:
                return None, {"key": key, "ttl_hours": f"{length} bytes", "fix": _FIX}
            said = client.hget(key, "ttl_hours")
    except RedisOutage:
        raise
    except (PipelineError, redis.ResponseError) as error:
        return None, {"key": key, "reason": str(error), "fix": f"make {key} a hash with the field ttl_hours"}
    if said is None or (hours := read_hours(said)) is not None:
        return (None if said is None else hours), {}
    text = said.decode(errors="backslashreplace") if isinstance(said, bytes) else str(said)
    return None, {"key": key, "ttl_hours": text, "fix": _FIX}


def read_hours(text: bytes | str) -> int | None:
    """Whole hours; None for what is none, not finite, less than one or more than ``MAX_HOURS``."""
    try:
        hours = float(text)
    except ValueError:
        return None
    return int(hours) if 1 <= hours <= MAX_HOURS else None
