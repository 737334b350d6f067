"""What a check of the doctor says, and two checks that both servers have in common: clock and version."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["ok", "warn", "bad"]

MAX_CLOCK_DIFFERENCE_S = 2.0


@dataclass(frozen=True)
class Finding:
    """One check: how it came out, the detail, and the fix."""

    check: str
    severity: Severity
    detail: str
    fix: str = ""


def clock_finding(check: str, there_s: float, before_s: float) -> Finding:
    """The other's clock against the middle of the time it took to ask."""
    difference_s = there_s - (before_s + time.time()) / 2
    shown = f"{abs(difference_s):.2f} s {'ahead of' if difference_s > 0 else 'behind'} this machine's"
    if abs(difference_s) > MAX_CLOCK_DIFFERENCE_S:
        return Finding(check, "warn", shown, "run NTP on both: what is too old or too new is judged by these clocks")
    return Finding(check, "ok", shown)


def version_of(text: Any) -> tuple[int, ...]:
    """Major and minor, whatever a vendor appends."""
    return tuple(int(part) for part in re.findall(r"\d+", str(text))[:2])
