"""Who holds a lease: the names of processes, and whether one of this machine has died."""

from __future__ import annotations

import socket
from pathlib import Path

from pipeline.base.processes import started


def is_orphan(token: str) -> bool:
    """Whether the process that holds a lease ran on this machine and is gone."""
    process, _, _ = token.rpartition("/")
    host, _, rest = process.partition("/")
    pid, _, began = rest.partition("/")
    if host != machine_name() or not pid.isdigit() or began == "-":
        return False
    return process_name(int(pid)) != process


def process_name(pid: int) -> str:
    """Machine, process number and start time: unlike the number alone never given to another process."""
    return f"{machine_name()}/{pid}/{started(pid) or '-'}"


def machine_name() -> str:
    """The host and its space of process numbers: containers on the host's network share only its name."""
    try:
        numbers = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbers = ""
    return (socket.gethostname() + numbers).replace(" ", "").replace("/", "")
