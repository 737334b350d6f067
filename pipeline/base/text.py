"""Text on its way to people: control characters are escaped, passwords and tokens are hidden.

``printable`` makes text from producers harmless for a terminal, a header or a link: only characters
that Unicode calls printable pass, every other one is written as its escape.

``masked`` hides what a URL may keep secret. It is an allow-list: of a URL only scheme, host and port
are shown, and only where they can be told apart from a password without doubt; otherwise the scheme
alone. Passwords that were given to ``remember_secret`` are hidden in every text, in any place.
"""

from __future__ import annotations

import re
import threading
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
"""Stands for what was hidden."""

_NOTHING = "…"
"""Stands for a URL of which nothing certain can be said."""

_SHORTEST_SECRET = 6
"""Shorter passwords are parts of ordinary words; they are hidden only where they stand in a URL."""

# Schemes whose host is no secret. Notification services put tokens there: slack://token/token.
_OPEN_SCHEMES = frozenset({"redis", "rediss", "http", "https", "smtp", "smtps"})
_NAMING_SCHEMES = frozenset({"redis", "rediss", "http", "https"})
_PATH_SCHEMES = frozenset({"unix", "chdb", "file"})

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30})://")
_BARE_PASSWORD = re.compile(r"(?<!\S)[^\s:@/]*:[^\s@]{4,}@(\S*)")
_TOKEN = re.compile(r"\S*")
_BLANK = re.compile(r"\s")
_UP_TO_LAST_AT = re.compile(r"[^\n]*@\S*")
_CLOSING = "'\"`,;:.!?)]}>"
_ADDRESS = re.compile(
    r"(?:(?P<user>[^@/?#\s]*)@)?"
    r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?P<port>:\d{1,5})?"
    r"(?P<path>/[^?#@\s]*)?(?P<query>\?[^#@\s]*)?"
)
_THIS_MACHINE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")
_FILE = re.compile(r"(?P<path>/[A-Za-z0-9._/+-]*)(?P<query>\?[^#@\s]*)?")

_secrets: set[str] = set()
_secrets_lock = threading.Lock()


def printable(text: str | bytes, *, keep_lines: bool = False) -> str:
    r"""``text`` with every character that is not printable written as an escape such as ``\x1b``.

    Escaped are control characters (C0, C1, DEL), bidirectional overrides, zero-width characters, line
    and paragraph separators, lone surrogates, and bytes that are not UTF-8. ``keep_lines`` lets newlines pass.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    if keep_lines:
        return "\n".join(printable(line) for line in text.split("\n"))
    return "".join(one if one.isprintable() else _escape(one) for one in text)


_WRAPPED = re.compile(r"\('[^']*', \w+\((?:-?\d+, )?[\"']([^'\"]*)[\"']\)\)|\(-?\d+, '([^']*)'\)")
_NUMBERED = re.compile(r"\[Errno -?\d+\] |(?<=\bError )-?\d+ (?=connecting to )")


def without_wrapping(text: str) -> str:
    """A library's error without what Python wraps it in: ``('Connection aborted.', Error(104, 'reset'))`` is reset."""
    text = _WRAPPED.sub(lambda found: found[1] or found[2] or "", text)
    return _NUMBERED.sub("", text).replace(" : ", ": ")


def masked(text: str) -> str:
    """``text`` with everything hidden that a URL in it, or a remembered secret, must not give away.

    A URL ends at the next blank, or later if an @ behind the blank may still belong to it. Idempotent.
    """
    for secret in _remembered():
        text = text.replace(secret, HIDDEN)
    starts = _starts(text)
    ends = [start.start() for start in starts] + [len(text)]
    pieces = [_without_bare_password(text[: ends[0]])]
    for start, end in zip(starts, ends[1:], strict=True):
        pieces.append(f"{start[1]}://{_masked_rest(start[1].lower(), text[start.end() : end])}")
    return "".join(pieces)


def masked_url(url: str) -> str:
    """One whole URL, which may hold blanks and anything else, with all that may be secret hidden."""
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return url if _THIS_MACHINE.fullmatch(url) else HIDDEN
    return f"{scheme}://{_harmless(scheme.lower(), rest)}"


def remember_secret(secret: str) -> None:
    """From now on ``masked`` hides this text wherever it stands, also in its percent-encoded forms."""
    forms = {secret, unquote(secret), quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
    with _secrets_lock:
        _secrets.update(form for form in forms if len(form) >= _SHORTEST_SECRET)


def _remembered() -> list[str]:
    """The longest first: one may be part of another."""
    if not _secrets:
        return []
    with _secrets_lock:
        return sorted(_secrets, key=len, reverse=True)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _starts(text: str) -> list[re.Match[str]]:
    """Where URLs start; a second one before the next blank is a part of the first."""
    starts: list[re.Match[str]] = []
    for found in _SCHEME.finditer(text):
        if not starts or _BLANK.search(text, starts[-1].end(), found.start()):
            starts.append(found)
    return starts


def _masked_rest(scheme: str, text: str) -> str:
    """What follows ``scheme://`` up to the next URL: the rest of this one, and the words behind it."""
    token = _TOKEN.match(text)
    if token is not None and "@" not in token[0]:
        token = _UP_TO_LAST_AT.match(text) or token
    rest = token[0] if token else ""
    bare = rest.rstrip(_CLOSING)
    shown = _harmless(scheme, bare)
    # What closes a sentence or a quotation stays only where the URL's own end is certain.
    closing = rest[len(bare) :] if shown == bare or not shown.endswith(_NOTHING) else ""
    return f"{shown}{closing}{_without_bare_password(text[len(rest) :])}"


def _without_bare_password(text: str) -> str:
    return _BARE_PASSWORD.sub(lambda found: f"{HIDDEN}@{_harmless('redis', found[1])}", text) if "@" in text else text


def _shown_user(scheme: str, login: str | None) -> str:
    """Names of users are shown where they are names: services elsewhere take tokens in their place."""
    if login is None:
        return ""
    user, colon, password = login.partition(":")
    is_name = colon and password and scheme in _NAMING_SCHEMES and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}|", user)
    return f"{user}:{HIDDEN}@" if is_name else f"{HIDDEN}@"


def _harmless(scheme: str, rest: str) -> str:
    """What may be shown of a URL behind ``://``; a single … where nothing is certain."""
    if scheme in _PATH_SCHEMES:
        file = _FILE.fullmatch(rest)
        return file["path"] + ("?…" if file["query"] else "") if file else _NOTHING
    address = _ADDRESS.fullmatch(rest)
    if scheme not in _OPEN_SCHEMES or address is None:
        return _NOTHING
    user = _shown_user(scheme, address["user"])
    path = address["path"] or ""
    if path != "/" and not (scheme.startswith("redis") and re.fullmatch(r"/\d{0,5}", path)):
        path = "/…" if path else ""
    return f"{user}{address['host']}{address['port'] or ''}{path}{'?…' if address['query'] else ''}"
