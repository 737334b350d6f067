"""Maintenance windows of the platform: ``maintenance:{environment}`` in the database of environments.

While one lasts, alerts about that environment are judged, stored and published as always, and told to no
channel; what still fires afterwards is told then. A window is read from the platform's own key, which may
hold anything: what cannot be read mutes nothing and is said once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from pipeline.base import keys, log
from pipeline.base.clock import iso
from pipeline.base.errors import RedisDenied
from pipeline.base.redis_link import outages
from pipeline.base.text import printable
from pipeline.metric import parse_window_ms

_log = log.get(__name__)

PREFIX = keys.maintenance("")
_SCAN_COUNT = 500
_SCAN_S = 2.0
_LONGEST_VALUE = 10_000


@dataclass(frozen=True)
class MaintenanceWindow:
    """That an environment is under maintenance from ``starts_ms`` until ``ends_ms``."""

    environment: str
    starts_ms: int
    ends_ms: int
    reason: str = ""

    def covers(self, labels: Mapping[str, str], now_ms: int) -> bool:
        """Whether an alert with these labels is about the environment, and the window lasts."""
        return labels.get("environment") == self.environment and self.starts_ms <= now_ms < self.ends_ms

    def shown(self) -> dict[str, Any]:
        """For people and ``--json``."""
        return {
            "environment": self.environment,
            "starts_at": iso(self.starts_ms),
            "ends_at": iso(self.ends_ms),
            "reason": self.reason,
        }


def parse(environment: str, text: bytes) -> MaintenanceWindow | None:
    """The window in the value of a key; None when it is not scheduled. Raises ``ValueError``."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  what stands in Redis is data, not an argument
    if not found.get("scheduled", True):
        return None
    starts_ms, ends_ms = _time_ms(found.get("start"), "start"), _time_ms(found.get("end"), "end")
    return MaintenanceWindow(environment, starts_ms, ends_ms, printable(str(found.get("reason", "")))[:200])


class MaintenanceWindows:
    """The windows of all environments, each read by its own key and remembered for ``_KEPT_MS``.

    Never by a scan while alerts are told: the database may hold millions of other keys.
    """

    _KEPT_MS = 15_000
    _MOST_KEPT = 1000

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._kept: dict[str, tuple[int, MaintenanceWindow | None]] = {}
        self._said: set[str] = set()

    def covers(self, labels: Mapping[str, str], now_ms: int) -> bool:
        """Whether an alert with these labels is about an environment under maintenance. Raises ``RedisOutage``."""
        environment = labels.get("environment")
        window = self.of(environment, now_ms) if environment else None
        return window is not None and window.covers(labels, now_ms)

    def of(self, environment: str, now_ms: int) -> MaintenanceWindow | None:
        """The window of one environment. Raises ``RedisOutage``."""
        read_ms, window = self._kept.get(environment, (None, None))
        if read_ms is None or not 0 <= now_ms - read_ms < self._KEPT_MS:
            if len(self._kept) >= self._MOST_KEPT:
                self._kept.clear()
            window = self._read(environment)
            self._kept[environment] = now_ms, window
        return window

    def listed(self, now_ms: int) -> list[MaintenanceWindow]:
        """Windows that last now or are to come, soonest end first, as far as a scan finds them in ``_SCAN_S``."""
        ends_s = time.monotonic() + _SCAN_S
        found = []
        with outages():
            for key in self._client.scan_iter(match=f"{PREFIX}*", count=_SCAN_COUNT):
                window = self._read(key.decode(errors="replace").removeprefix(PREFIX))
                if window is not None and window.ends_ms > now_ms:
                    found.append(window)
                if time.monotonic() > ends_s:
                    break
        return sorted(found, key=lambda window: window.ends_ms)

    def _read(self, environment: str) -> MaintenanceWindow | None:
        key = PREFIX + environment
        try:
            with outages():
                if self._client.strlen(key) > _LONGEST_VALUE:
                    raise ValueError(f"longer than {_LONGEST_VALUE} bytes")
                text = cast("bytes | None", self._client.get(key))
            return None if text is None else parse(environment, text)
        except (ValueError, RecursionError, redis.ResponseError, RedisDenied) as error:
            if environment not in self._said and len(self._said) < self._MOST_KEPT:
                self._said.add(environment)
                _log.warning("maintenance window cannot be read", key=repr(key), error=str(error))
            return None


def _time_ms(raw: Any, name: str) -> int:
    is_text = isinstance(raw, str | int | float) and not isinstance(raw, bool)
    at_ms = parse_window_ms(str(raw)) if is_text else None
    if at_ms is None:
        raise ValueError(f"{name} is not a time")
    return at_ms
