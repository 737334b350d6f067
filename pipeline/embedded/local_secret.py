"""Secrets by which a command of this machine is known to a process that serves something.

Each stands in a file that only the same user can read (for the engine, beside its lock), and is drawn anew
each time it is served. A user who can read it can read the engine's files as well.
"""

import os
import secrets
from pathlib import Path


def issue(path: Path) -> str:
    """A new secret for what is served at ``path``, written down for this machine's commands."""
    secret = secrets.token_urlsafe(32)
    file = _file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f"{file.name}.{os.getpid()}.new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        os.fchmod(descriptor, 0o600)
        opened.write(secret)
    scratch.replace(file)
    return secret


def read(path: Path) -> str:
    """The secret of the process that serves ``path``; empty if it cannot be read."""
    try:
        return _file(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _file(path: Path) -> Path:
    return path.with_name(path.name + ".secret")
