"""Dead letters: items that are not metrics, kept with the reason, the payload and their identity.

They are written by the drainer like any row: exactly once, verified by reading back when in doubt.
Replaying sends the payload to the buffer again; the old row stays and is marked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import pyarrow as pa

from pipeline.ingest.buffer import Chunk
from pipeline.ingest.metric import Refusal

DEAD_LETTERS = "dead_letters"

MAX_PAYLOAD_BYTES = 1_048_576
"""A larger payload is cut; ``payload_bytes`` tells its whole size."""


@dataclass(frozen=True)
class DeadLetter:
    """One refused item on its way to the table."""

    position: int
    refusal: Refusal
    payload: bytes


def as_table(letters: list[DeadLetter], chunk: Chunk, buffer_key: str) -> pa.Table:
    """The letters as rows of ``dead_letters``; ``refused_at`` is the sealing time, so that a retry writes the same."""
    count = len(letters)
    moment = pa.timestamp("ms", tz="UTC")
    return pa.table(
        {
            "refused_at": pa.array([chunk.sealed_at_ms] * count, pa.int64()).cast(moment),
            "reason": pa.array([letter.refusal.reason for letter in letters], pa.string()).dictionary_encode(),
            "detail": pa.array([letter.refusal.detail for letter in letters], pa.string()),
            "payload": pa.array([letter.payload[:MAX_PAYLOAD_BYTES] for letter in letters], pa.binary()),
            "payload_bytes": pa.array([len(letter.payload) for letter in letters], pa.uint32()),
            "buffer": pa.array([buffer_key] * count, pa.string()).dictionary_encode(),
            "segment": pa.array([chunk.segment] * count, pa.string()).dictionary_encode(),
            "position": pa.array([letter.position for letter in letters], pa.uint32()),
            "ingested_at": pa.array([time.time_ns() // 1_000_000] * count, pa.int64()).cast(moment),
        }
    )
