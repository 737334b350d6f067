"""Processes of this machine, told apart: a number is given again, a number with its start time is not."""

from __future__ import annotations

from pathlib import Path

_ENDED = frozenset("ZX")


def started(pid: int) -> str:
    """When a process began, in the kernel's ticks; "" when it has ended, also as a zombie."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in _ENDED else rest[18]
    except (OSError, ValueError, IndexError):
        return ""
