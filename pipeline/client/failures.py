"""Why a test failed, short enough to travel with it: the error's type and the first line of its message.

The line is scrubbed: paths, addresses, identifiers and numbers become placeholders, so that the same failure has the
same ``fingerprint`` in every run and on every machine, and no password, token or header that is named as one travels.
Standard library only: the pytest plugin imports this in every session that reports.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

LONGEST_TYPE = 120
LONGEST_MESSAGE = 200
_READ_CHARACTERS = 4_000
"""No more of a message is looked at: patterns over megabytes of output would take seconds."""

_ANSI = re.compile(r"(?:\x1b|\ufffd|\u241b)\[[0-9;]*[A-Za-z]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
TYPE = re.compile(
    r"(?:Uncaught |Unhandled |Caused by: )?"
    r"(?P<type>[A-Za-z_][\w$]*(?:(?:\.|::|\\)[A-Za-z_][\w$]*)*)"
    r"(?: \[\w+\])?(?P<colon> ?:(?!:)\s*|$)(?P<rest>.*)"
)
NAMES_AN_ERROR = re.compile(
    r"(?:Error|Exception|Failure|Failed|Exit|Interrupt|Warning|Timeout|TimeoutExpired|Fault|Violation|Mismatch|Cancelled)$"
)
_IN_NAME = r"[^ \\/:'\"<>|,;()]"
"""A character of a file's name, as far as a message tells where the name ends."""
_MEASURE = r"(?!(?:\d+(?:[mun]s|[dhmsxX]))+\d*(?![A-Za-z0-9]))"
"""Not before ``10m30s`` or ``800x600``: those are numbers."""
_SECRET_NAMES = r"passw(?:or)?d|pwd|passphrase|secret(?:[_-]?(?:access[_-]?)?key)?|token|(?:api|access)[_-]?key"
# In this order: what a later pattern would take apart is replaced first.
SCRUBBED = (
    (re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^ '\"<>)\]]+", re.ASCII), "<url>"),
    (re.compile(r"\bBearer (?!token\b)[^ '\",;]+", re.ASCII | re.IGNORECASE), "Bearer <secret>"),
    (
        re.compile(r"\b(Authorization['\"]? ?[:=] ?['\"]?)(?!Bearer)(?:\w+ )?[^ '\",;]+", re.ASCII | re.IGNORECASE),
        r"\1<secret>",
    ),
    (
        re.compile(
            rf"((?:{_SECRET_NAMES})['\"]? ?[:=] ?)(?:'[^']*'|\"[^\"]*\"|[^ '\",;&)\]}}]+)",
            re.ASCII | re.IGNORECASE,
        ),
        r"\1<secret>",
    ),
    (
        re.compile(
            r"\b(?:eyJ[\w-]*\.[\w.-]+|gh[pousr]_\w+|github_pat_\w+|glpat-[\w-]+|xox[a-z]-[\w-]+|AKIA[A-Z0-9]{12,}"
            r"|sk[-_][\w-]{16,})",
            re.ASCII,
        ),
        "<secret>",
    ),
    (re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.ASCII), "<email>"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b", re.ASCII), "<uuid>"),
    (re.compile(r"\b0[xX][0-9a-fA-F]+\b", re.ASCII), "<address>"),
    (
        re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9a-fA-F:]*::[0-9a-fA-F:]*\](?::\d+)?", re.ASCII),
        "<address>",
    ),
    (
        re.compile(
            r"(?<![\w:])(?=[0-9a-fA-F:]*\d)(?:[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){0,6})?::"
            r"(?:[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){0,6})?(?![\w:])"
            r"|(?<![\w:])(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}(?![\w:])",
            re.ASCII,
        ),
        "<address>",
    ),
    # Spaces belong to a name in quotes, in a directory below a drive, and in the home directory's name.
    (
        re.compile(r"(?<=['\"])(?:[A-Za-z]:|~|\.{1,2})?[\\/]{1,2}[^'\"\\/]+[\\/]{1,2}[^'\"]+(?=['\"])", re.ASCII),
        "<path>",
    ),
    (
        re.compile(
            rf"(?<![\w<])[A-Za-z]:(?:\\{{1,2}}{_IN_NAME}+(?: {_IN_NAME}+){{0,3}}(?=\\))*"
            rf"\\{{1,2}}{_IN_NAME}+\\?(?::\d+)*",
            re.ASCII,
        ),
        "<path>",
    ),
    (
        re.compile(
            rf"(?<![\w<])(?:[\\/](?:home|Users)[\\/]{_IN_NAME}+ {_IN_NAME}+|~)(?:[\\/]{_IN_NAME}+)+[\\/]?(?::\d+)*",
            re.ASCII,
        ),
        "<path>",
    ),
    (re.compile(rf"(?<![\w<])(?:[A-Za-z]:)?(?:[\\/]{_IN_NAME}+){{2,}}[\\/]?(?::\d+)*", re.ASCII), "<path>"),
    (re.compile(r"(?<![\w<])(?:\.{0,2}/)?(?:[\w@.-]+/)+[\w@-]+\.\w{1,8}(?::\d+)*\b", re.ASCII), "<path>"),
    (re.compile(r"\b(?=[0-9a-fA-F]*\d)(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{7,}\b", re.ASCII), "<hex>"),
    # Digits twice in a word, as in a ULID; after "_" or "-" letters behind digits are enough, as in user_zz91qa.
    (
        re.compile(
            rf"(?<![A-Za-z0-9]){_MEASURE}(?=[A-Za-z]*\d+[A-Za-z]+\d)[A-Za-z0-9]{{6,}}"
            rf"|(?<=[_-]){_MEASURE}(?=[A-Za-z]*\d+[A-Za-z])[A-Za-z0-9]{{6,}}",
            re.ASCII,
        ),
        "<id>",
    ),
    (re.compile(r"(?<![A-Za-z0-9_])[-+]?\d+(?:[.,:]\d+)*(?:[eE][-+]?\d+)?", re.ASCII), "<n>"),
    (re.compile(r"\d+", re.ASCII), "<n>"),
)
"""Pattern and what replaces it. Reporters of other languages use them too: only what JavaScript reads alike."""


@dataclass(frozen=True)
class Failure:
    """What travels with a failed attempt."""

    error_type: str
    message: str

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits; the same for the same type and scrubbed message."""
        return hashlib.sha256(f"{self.error_type}\n{self.message}".encode(errors="replace")).hexdigest()[:12]

    def tags(self) -> dict[str, str]:
        """The tags of a row that carries it; the type is a field of its own."""
        return {"error_message": self.message, "error_fingerprint": self.fingerprint} if self.message else {}


NO_FAILURE = Failure("", "")


def failure(text: str, error_type: str = "") -> Failure:
    """Take type and message from what a tool printed; ``error_type`` where the tool names it apart."""
    line = first_line(text)
    named = error_type.strip()
    found = TYPE.fullmatch(line)
    if found and (found["type"] == named or (not named and _is_type(found["type"], bool(found["colon"])))):
        named, line = found["type"], found["rest"]
    elif not named and line.startswith("assert "):
        named = "AssertionError"  # pytest leaves the type of a rewritten assertion away
    return Failure(clean(named)[:LONGEST_TYPE], scrubbed(line))


def typed_by(found: Failure, trace: str) -> Failure:
    """The failure with the type that begins its stack trace, where the message names none."""
    if found.error_type or not trace:
        return found
    error_type = failure(trace).error_type
    if not error_type:
        return found
    return Failure(error_type, found.message.removeprefix(error_type).lstrip(": ") or found.message)


def first_line(text: str) -> str:
    """The first line that is not blank, without colours."""
    lines = [line.strip() for line in _ANSI.sub("", text[:_READ_CHARACTERS]).splitlines()]
    # Jest heads a failure with the name of what failed.
    return next((line for line in lines if line and not line.startswith("●")), "")


def scrubbed(line: str) -> str:
    """The line without what differs from run to run, at most ``LONGEST_MESSAGE`` characters."""
    line = clean(line[: 4 * LONGEST_MESSAGE])
    for pattern, placeholder in SCRUBBED:
        line = pattern.sub(placeholder, line)
    line = " ".join(line.split())
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"


def clean(text: str) -> str:
    """The text without control characters, and with U+FFFD for halves of characters, which no UTF-8 can carry."""
    return _CONTROL.sub(" ", whole_characters(text)).strip()


def whole_characters(text: str) -> str:
    """Surrogate pairs become the character they mean, lone ones U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def bounded(text: str, longest: int = 512) -> str:
    """A name no longer than this; what is cut off leaves its digest, so that two long names stay two."""
    text = clean(text)
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text[: longest - len(digest) - 1]}…{digest}"


def _is_type(name: str, has_message: bool) -> bool:
    """A name of an error by its ending; or any qualified name with a capital, as ``requests.exceptions.Timeout:``."""
    last = re.split(r"\.|::|\\", name)[-1]
    return bool(NAMES_AN_ERROR.search(last)) or (has_message and last != name and last[:1].isupper())
