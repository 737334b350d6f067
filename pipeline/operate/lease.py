"""The scheduler's lease: which process of the fleet runs the jobs.

It only avoids duplicate work; correctness comes from versioned writes. A lease ends ``LEASE_S`` after its
holder died, by Redis's clock. One that claims to hold longer (Redis's clock ran ahead when it was taken) is
taken over, so that no clock can stop the schedule.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from pipeline.base import lua
from pipeline.base.errors import Outage
from pipeline.base.redis_link import outages
from pipeline.base.typed_keys import typed

LEASE_S = 15
"""Another process takes the schedule over this long after its holder died."""


@dataclass
class Lease:
    """One process's claim on the key ``key``."""

    client: Any
    key: str
    seconds: float = LEASE_S
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def hold(self) -> bool:
        """Whether this process holds the lease; takes it when it is free, and renews it. Raises ``RedisOutage``."""
        with typed(self.client, {self.key: "string"}):
            return bool(
                self.client.eval(lua.load("operate", "hold_lease"), 1, self.key, self.token, int(self.seconds * 1000))
            )

    def is_held(self) -> bool:
        """Whether any process holds it. Raises ``RedisOutage``."""
        with outages():
            return bool(self.client.exists(self.key))

    def give_back(self) -> None:
        """Let another process have it at once. When Redis is away the lease runs out by itself."""
        try:
            with typed(self.client, {self.key: "string"}):
                self.client.eval(lua.load("operate", "give_back_lease"), 1, self.key, self.token)
        except Outage:
            return
