"""What can be done from the page: silences, and dead letters sent again or dropped, with a look ahead first."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pipeline.alerts import commands as alerts
from pipeline.deliver import dead_letters
from pipeline.metric import Limits, Metric, decode
from pipeline.store.client import Store
from pipeline.web.figures import BadRequest
from pipeline.web.parts import Parts

MAX_LETTERS = 10_000
SHOWN_LETTERS = 100
MAX_SILENCE_S = 30 * 86_400


def silences(parts: Parts) -> list[dict[str, Any]]:
    """Those that have not ended."""
    return [one.shown() for one in alerts.list_silences(parts.settings, parts.link)]


def maintenance(parts: Parts) -> list[dict[str, Any]]:
    """Maintenance windows of the platform that last now or are to come."""
    return [one.shown() for one in alerts.list_maintenance(parts.link)]


def silence(parts: Parts, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Hold alerts back for a while. Raises ``BadRequest`` or ``UsageError``."""
    matchers, seconds = asked.get("matchers"), asked.get("duration_s")
    if not isinstance(matchers, list) or not all(isinstance(one, str) for one in matchers) or not matchers:
        raise BadRequest("'matchers' is a list such as [\"severity=warning\"]")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MAX_SILENCE_S:
        raise BadRequest(f"'duration_s' is a number up to {MAX_SILENCE_S}")
    comment = str(asked.get("comment", ""))[:500]
    made = alerts.silence(
        parts.settings, parts.link, matchers, int(seconds * 1000), comment=comment, created_by="the page"
    )
    return made.shown()


def end_silence(parts: Parts, name: str) -> bool:
    """End one now."""
    return alerts.end_silence(parts.settings, parts.link, name)


def letters(parts: Parts, store: Store, reason: str) -> list[dict[str, Any]]:
    """The newest open dead letters, each with what would become of it now."""
    found = dead_letters.letters(store, parts.buffers, reason=reason, most=SHOWN_LETTERS)
    limits = parts.limits()
    return [{**one.as_dict(), "would_be": _would_be(one, limits)} for one in found]


def act_on_letters(parts: Parts, store: Store, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Replay or drop the open dead letters of a reason, or some by name; ``preview`` only says what would happen."""
    action, names, reason = asked.get("action"), asked.get("names", []), str(asked.get("reason", ""))
    if action not in ("replay", "drop"):
        raise BadRequest("'action' is replay or drop")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not (names or reason):
        raise BadRequest("'names' lists dead letters, or 'reason' chooses them")
    if names:
        chosen = [dead_letters.letter(store, parts.buffers, name) for name in names[:MAX_LETTERS]]
    else:
        chosen = dead_letters.letters(store, parts.buffers, reason=reason, most=MAX_LETTERS)
    chosen = [one for one in chosen if not one.mark]
    limits = parts.limits()
    would_pass = sum(_would_be(one, limits) == "accepted" for one in chosen)
    told = {"action": action, "chosen": len(chosen), "would_be_accepted": would_pass}
    told["would_be_refused"] = len(chosen) - would_pass
    if asked.get("preview"):
        return told
    act = dead_letters.replay if action == "replay" else dead_letters.drop
    return {**told, "done": act(store, parts.buffers, chosen, time.time_ns() // 1_000_000)}


def _would_be(letter: dead_letters.Letter, limits: Limits) -> str:
    """What the drainer would make of it now."""
    if len(letter.payload) < letter.payload_bytes:
        return "kept: the payload was cut on arrival"
    found = decode(letter.payload, time.time_ns() // 1_000_000, limits)
    return "accepted" if isinstance(found, Metric) else f"refused again: {found.reason}"
