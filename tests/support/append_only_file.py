"""Redis's append-only file in tests: what stands in it, and what a power cut leaves of it."""

import itertools
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drain_parts import wait_until

BUFFER, ACKED = b"metrics:buffer", b"{metrics:buffer}:acked"

LOST_S = 1.0
"""With ``appendfsync everysec`` a power cut takes at most what was written so long before."""


@dataclass(frozen=True)
class Command:
    """A command with the bytes it takes; those of a transaction share its bytes, since they count together or not."""

    start: int
    end: int
    words: list[bytes]
    in_transaction: bool = False

    @property
    def kind(self) -> str:
        """``push``, ``seal``, ``ack``, or empty for what tests do not ask about."""
        kinds = {(b"LPUSH", BUFFER): "push", (b"RENAME", BUFFER): "seal", (b"LPUSH", ACKED): "ack"}
        return kinds.get(tuple(self.words[:2]), "")


class AppendOnlyFile:
    """The file of the server that works in ``directory``. It must not be rewritten while it is watched."""

    def __init__(self, directory: Path) -> None:
        # 7.0 keeps several in a directory and appends to one.
        (self.path,) = [*directory.glob("appendonly.aof"), *directory.glob("appendonlydir/*.incr.aof")]
        self._sizes: list[tuple[float, int]] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def commands(self) -> list[Command]:
        """Everything whole in the file, in order."""
        found: list[Command] = []
        queued: list[list[bytes]] | None = None
        start = 0
        for end, words in _parsed(self.path.read_bytes()):
            if words == [b"MULTI"]:
                queued = []
            elif words == [b"EXEC"]:
                found += [Command(start, end, inner, True) for inner in queued or []]
                queued = None
            elif queued is not None:
                queued.append(words)
            else:
                found.append(Command(start, end, words))
            if queued is None:
                start = end
        return found

    def __enter__(self) -> "AppendOnlyFile":
        """Note the size every few milliseconds from now on."""
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            with self._lock:
                # The time comes first: by then the file was no longer than this.
                self._sizes.append((time.monotonic(), self.path.stat().st_size))

    def cut_at_random(self, chance: random.Random, killed_at: float, known: int) -> list[Command]:
        """Leave what a power cut at ``killed_at`` might have, ``known`` bytes being on disk; what is lost."""
        with self._lock:
            old = [size for when, size in self._sizes if when >= killed_at - LOST_S]
            floor = max([known, *old[:1]])
            kept = chance.randint(floor, self.path.stat().st_size)
            seals = [command for command in self.commands() if command.kind == "seal" and command.end > floor]
            if seals and chance.random() < 0.5:
                # Of all that can be lost it matters most, and the oldest is the most likely to be relied on.
                kept = chance.randint(max(floor, seals[0].start), seals[0].end - 1)
            self._sizes.clear()
            return self.cut(kept)

    def cut(self, kept: int) -> list[Command]:
        """Leave ``kept`` bytes of it; what is lost."""
        lost = list(itertools.dropwhile(lambda command: command.end <= kept, self.commands()))
        os.truncate(self.path, kept)
        return lost

    def mend(self) -> None:
        """Remove the torn transaction at its end, if there is one, as ``redis-check-aof --fix`` does.

        Redis itself removes a torn command only; what it writes then is the rest of the transaction to the next start.
        """
        begun = None
        at = 0
        for end, words in _parsed(self.path.read_bytes()):
            if words == [b"MULTI"]:
                begun = at
            elif words == [b"EXEC"]:
                begun = None
            at = end
        if begun is not None:
            os.truncate(self.path, begun)


def wait_until_written(client: Any) -> None:
    """Redis answers before it writes while an fsync runs in the background; what a kill takes then is its own loss."""
    wait_until(lambda: not client.info("persistence")["aof_buffer_length"], "all is written to the file")


def _parsed(data: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """The whole commands, each with where it ends."""
    at = 0

    def number(mark: bytes) -> int:
        nonlocal at
        end = data.index(b"\r\n", at)
        assert data[at : at + 1] == mark
        value = int(data[at + 1 : end])
        at = end + 2
        return value

    with suppress(ValueError):  # the file ends before the next line does
        while at < len(data):
            words = []
            for _ in range(number(b"*")):
                length = number(b"$")
                words.append(data[at : at + length])
                at += length + 2
            if at > len(data):
                return
            yield at, words
