"""How the states of rules are written down: JSON, in pieces where a rule has many alerts.

Pure. ``encode`` and ``decode`` are each other's inverse; what ``decode`` cannot read it refuses with
``ValueError``, whatever stands there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pipeline.alerts.judge.evaluation import Alerts
from pipeline.alerts.judge.state import Alert, State


@dataclass
class RuleState:
    """How far a rule was judged and its alerts at that tick.

    For a rule that re-evaluates late data, ``base_tick_ms`` and ``base_alerts`` are the same for the
    tick from which it is judged again.
    """

    tick_ms: int | None = None
    by: tuple[str, ...] = ()
    alerts: Alerts = field(default_factory=dict)
    base_tick_ms: int | None = None
    base_alerts: Alerts = field(default_factory=dict)
    rule: Mapping[str, Any] = field(default_factory=dict)
    """What is needed to resolve its alerts when the rule itself is gone: severity, type, threshold …"""
    held_in: str = field(default="", compare=False)
    """The nonce of the list that holds its alerts; empty when they stand in the field itself."""

    @property
    def size(self) -> int:
        """How many alerts have to be written."""
        return len(self.alerts) + len(self.base_alerts)


class _Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """An alert as it is written; NaN becomes null. What was added later may be absent."""

    labels: tuple[str, ...]
    state: State
    active_at_ms: int
    fired_at_ms: int | None = None
    resolved_at_ms: int | None = None
    keep_firing_since_ms: int | None = None
    value: float | None = None
    last_seen_ms: int | None = None


class _Head(msgspec.Struct):
    """The field of a rule in the hash ``state``."""

    tick_ms: int | None
    by: tuple[str, ...]
    rule: dict[str, Any]
    alerts: list[_Row] = []
    base_tick_ms: int | None = None
    base_alerts: list[_Row] = []
    held_in: str = ""
    pieces: int = 0
    base_pieces: int = 0


def encode(state: RuleState, held_in: str, piece: int) -> tuple[bytes, list[bytes]]:
    """The field of a rule, and the pieces of the list ``held_in`` (none when it is empty)."""
    head = _Head(state.tick_ms, state.by, dict(state.rule), base_tick_ms=state.base_tick_ms)
    alerts, base = _rows(state.alerts), _rows(state.base_alerts)
    if not held_in:
        head.alerts, head.base_alerts = alerts, base
        return msgspec.json.encode(head), []
    pieces, base_pieces = _pieces(alerts, piece), _pieces(base, piece)
    head.held_in, head.pieces, head.base_pieces = held_in, len(pieces), len(base_pieces)
    return msgspec.json.encode(head), [*pieces, *base_pieces]


def held_in(text: bytes) -> tuple[str, int]:
    """The list that holds the alerts of a rule, and its length; empty and 0 where the field holds them itself.

    Raises ``ValueError`` for a field that cannot be read.
    """
    head = msgspec.json.decode(text, type=_Head)
    return head.held_in, head.pieces + head.base_pieces


def decode(text: bytes, pieces: Sequence[bytes] = ()) -> RuleState:
    """The state of a rule from its field and the pieces of its list. Raises ``ValueError``."""
    head = msgspec.json.decode(text, type=_Head)
    if len(pieces) != head.pieces + head.base_pieces:
        raise ValueError(f"{head.pieces + head.base_pieces} pieces expected, {len(pieces)} found")
    alerts, base = head.alerts, head.base_alerts
    if head.held_in:
        alerts = _joined(pieces[: head.pieces])
        base = _joined(pieces[head.pieces :])
    return RuleState(
        head.tick_ms,
        head.by,
        _alerts(alerts, len(head.by)),
        head.base_tick_ms,
        _alerts(base, len(head.by)),
        head.rule,
        head.held_in,
    )


def _rows(alerts: Alerts) -> list[_Row]:
    return [
        _Row(
            labels,
            alert.state,
            alert.active_at_ms,
            alert.fired_at_ms,
            alert.resolved_at_ms,
            alert.keep_firing_since_ms,
            alert.value,
            alert.last_seen_ms,
        )
        for labels, alert in alerts.items()
    ]


def _pieces(rows: Sequence[_Row], size: int) -> list[bytes]:
    return [msgspec.json.encode(rows[first : first + size]) for first in range(0, len(rows), size)]


def _joined(pieces: Sequence[bytes]) -> list[_Row]:
    return [row for piece in pieces for row in msgspec.json.decode(piece, type=list[_Row])]


def _alerts(rows: Sequence[_Row], labels: int) -> Alerts:
    if any(len(row.labels) != labels for row in rows):
        raise ValueError(f"an alert has not {labels} labels as its rule has")
    return {
        row.labels: Alert(
            row.state,
            row.active_at_ms,
            row.fired_at_ms,
            row.resolved_at_ms,
            row.keep_firing_since_ms,
            row.value,
            row.last_seen_ms,
        )
        for row in rows
    }
