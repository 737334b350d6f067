"""Who holds a lease: the names of processes, and whether one of this machine has died."""

from __future__ import annotations

import socket
from pathlib import Path


def is_orphan(token: str) -> bool:
    """Whether the process that holds a lease ran on this machine and is gone."""
    process, _, _ = token.rpartition("/")
    host, _, rest = process.partition("/")
    pid, _, started = rest.partition("/")
    if host != machine_name() or not pid.isdigit() or started == "-":
        return False
    return process_name(int(pid)) != process


def process_name(pid: int) -> str:
    """Machine, process number and start time: unlike the number alone never given to another process."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = "-"
    return f"{machine_name()}/{pid}/{started}"


def machine_name() -> str:
    """The host and its space of process numbers: containers on the host's network share only its name."""
    try:
        numbers = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbers = ""
    return (socket.gethostname() + numbers).replace(" ", "").replace("/", "")
