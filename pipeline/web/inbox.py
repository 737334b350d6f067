"""Items that come over HTTP, on their way into the buffer: judged by the drainer's own rules, pushed once.

"Accepted" is said only when Redis has them. When Redis does not answer, whether it took them is unknown, and
the answer says so; a sender with an ``Idempotency-Key`` may send the same again and it counts once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.buffer.buffer import Buffer
from pipeline.metric import Limits, Metric, decode

MARKER_TTL_S = 86_400
"""An Idempotency-Key is remembered for a day."""

MAX_ITEMS = 10_000
"""In one request; the script that pushes them holds Redis up for some milliseconds."""

SHOWN_REFUSALS = 100
_RAW_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


class InboxRefused(Exception):
    """The request as a whole is not taken: ``status`` and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class JudgedItems:
    """The items of one request: those that are metrics, and why the others are none."""

    accepted: list[bytes]
    refused: list[dict[str, Any]]


def split(body: bytes) -> list[bytes]:
    """The items of a body: one object, an array of them, or one a line. Raises ``InboxRefused``."""
    text = body.strip()
    if text.startswith(b"["):
        try:
            items = [bytes(raw) for raw in _RAW_ITEMS.decode(text)]
        except (msgspec.DecodeError, RecursionError):
            raise InboxRefused(400, "The body begins like a JSON array and is none.") from None
    elif _is_one_value(text):
        items = [text]
    else:
        items = [line.strip() for line in text.split(b"\n") if line.strip()]
    if not items:
        raise InboxRefused(400, "The body holds no item: send one JSON object, an array of them, or one a line.")
    if len(items) > MAX_ITEMS:
        raise InboxRefused(413, f"More than {MAX_ITEMS:,} items; send them in several requests.")
    return items


def judge(items: Sequence[bytes], now_ms: int, limits: Limits) -> JudgedItems:
    """What the drainer would make of each item."""
    accepted, refused = [], []
    for index, item in enumerate(items):
        found = decode(item, now_ms, limits)
        if isinstance(found, Metric):
            accepted.append(item)
        else:
            refused.append({"index": index, "reason": found.reason, "detail": found.detail})
    return JudgedItems(accepted, refused)


class Inbox:
    """Pushes to the buffers."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers

    def push(self, judged: JudgedItems, key: str = "") -> dict[str, Any]:
        """Push what was accepted; the answer. Raises ``Outage`` when Redis does not have it, or did not say so.

        With a ``key`` of the sender's the same items count once, and other items are refused.
        """
        answer = {
            "accepted": len(judged.accepted),
            "refused": judged.refused[:SHOWN_REFUSALS],
            "refused_count": len(judged.refused),
        }
        if not judged.accepted:
            return answer
        buffer = self._buffer(key)
        digest = hashlib.sha256(b"\n".join(judged.accepted)).hexdigest()
        marker = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32] if key else ""
        state, first_answer = buffer.push_once(judged.accepted, marker, digest, json.dumps(answer), MARKER_TTL_S)
        if state == "other":
            raise InboxRefused(422, "This Idempotency-Key came with other items before.")
        return {**json.loads(first_answer), "repeated": True} if state == "repeated" else answer

    def _buffer(self, key: str) -> Buffer:
        """The same one for the same key, else one after the other."""
        number = (
            int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") if key else time.monotonic_ns() // 1000
        )
        return self._buffers[number % len(self._buffers)]


def _is_one_value(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
