"""The keys of the alerts, by name."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.base.config import Settings
from pipeline.base.keys import FleetKeys

CHANNEL_MEMORY_S = 30 * 86_400
"""Notifications of a channel that no process serves any more expire after this long."""


@dataclass(frozen=True)
class AlertKeys:
    """Keys of the alerts in the database ``metrics``, in the hash slot of the fleet they belong to."""

    fleet: str

    @classmethod
    def of(cls, settings: Settings) -> AlertKeys:
        """Of the fleet that the settings name."""
        return cls(settings.fleet.name)

    @property
    def _prefix(self) -> str:
        return FleetKeys(self.fleet).alerts

    @property
    def state(self) -> str:
        """Hash: ``version``, and ``rule:<name>`` with the last tick and the alerts of each rule."""
        return f"{self._prefix}:state"

    def held(self, nonce: str) -> str:
        """List: the alerts of one rule in pieces, where they are too many for the field in ``state``."""
        return f"{self._prefix}:held:{nonce}"

    @property
    def commits(self) -> str:
        """List: commits whose notices have not all been handed out to the outboxes, oldest first."""
        return f"{self._prefix}:commits"

    def notices(self, commit: str) -> str:
        """List: the notices of one commit that are not in the outboxes yet; id, row, entry and note of each."""
        return f"{self._prefix}:notices:{commit}"

    @property
    def scratch(self) -> str:
        """Never exists; deleting it first lets a script run when memory is full."""
        return f"{self._prefix}:scratch"

    @property
    def table_outbox(self) -> str:
        """List: rows on their way to the ``alerts`` table, oldest first."""
        return f"{self._prefix}:outbox:table"

    @property
    def redis_outbox(self) -> str:
        """List: entries on their way to ``alerts:performance`` and ``alerts:critical``, oldest first."""
        return f"{self._prefix}:outbox:redis"

    @property
    def silences(self) -> str:
        """Hash: silence id to the silence."""
        return f"{self._prefix}:silences"

    def pending(self, channel: str) -> str:
        """Hash: transition id to what the channel has not been told yet."""
        return f"{self._prefix}:channel:{channel}:pending"

    def told(self, channel: str) -> str:
        """Hash: group to what the channel was told of it and when."""
        return f"{self._prefix}:channel:{channel}:told"

    def in_flight(self, channel: str) -> str:
        """Hash: group to the notification that is being sent, unchanged until it has arrived."""
        return f"{self._prefix}:channel:{channel}:in-flight"
