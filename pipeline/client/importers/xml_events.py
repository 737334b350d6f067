"""XML as a stream of events, safe and in little memory, whatever the encoding.

DTDs are refused: entities are how a file of a kilobyte becomes gigabytes, and how it reads other files. Depth is
bounded. Bytes are decoded here, in any encoding that Python knows, since expat knows few. What no XML may carry
(control characters, also as references, and bytes that are not of the encoding) becomes U+FFFD.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import IO
from xml.parsers import expat

from pipeline.client.importers.report import Context, ReportRefused

MAX_DEPTH = 200
_CHUNK_BYTES = 1 << 18
_ELEMENT = re.compile(rb"<[A-Za-z_?!]")

_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>\s*")
_PREFIXES = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
_REFERENCE = re.compile(r"&#(?:x([0-9a-fA-F]{1,8})|(\d{1,8}));")
_LONGEST_REFERENCE = 14

Start = Callable[[str, dict[str, str], str], None]
"""Takes an element's name without its namespace, its attributes and its place."""


def parse(
    stream: IO[bytes], context: Context, *, start: Start, end: Callable[[str], None], text: Callable[[str], None]
) -> None:
    """Call ``start``, ``end`` and ``text`` for each element and its text. Raises ``ReportRefused`` with the line."""
    _Events(context, start, end, text).read(stream)


class _Events:
    def __init__(self, context: Context, start: Start, end: Callable[[str], None], text: Callable[[str], None]) -> None:
        self._context = context
        self._on_start, self._on_end = start, end
        self._depth = 0
        self._has_ended = False
        self._fed, self._fed_before = b"", 0
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse_dtd
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = text

    def read(self, stream: IO[bytes]) -> None:
        try:
            self._feed(stream)
            self._parser.Parse(b"", True)
        except expat.ExpatError as error:
            if self._has_ended:
                if self._holds_another(stream):
                    place = f"line {error.lineno}"
                    raise ReportRefused(
                        f"{place}: another report begins behind the first; push each by itself"
                    ) from None
                self._context.warnings.add("what stands behind the report is left out", f"line {error.lineno}")
                return
            reason = expat.ErrorString(error.code)
            raise ReportRefused(f"line {error.lineno}, column {error.offset}: {reason}") from None

    def _holds_another(self, stream: IO[bytes]) -> bool:
        """Whether another document stands behind the first: it may hold what failed."""
        behind = self._fed[max(0, self._parser.ErrorByteIndex - self._fed_before) :]
        while behind and not _ELEMENT.search(behind):
            behind = behind[-1:] + stream.read(_CHUNK_BYTES) if len(behind) > 1 else stream.read(_CHUNK_BYTES)
        return bool(behind)

    def _feed(self, stream: IO[bytes]) -> None:
        head = stream.read(_CHUNK_BYTES)
        prefix, encoding = encoding_of(head)
        try:
            decoder = codecs.getincrementaldecoder(encoding)("replace")
        except LookupError:
            raise ReportRefused(f"line 1: unknown encoding {encoding!r}") from None
        held = decoder.decode(head[len(prefix) :])
        declaration = _DECLARATION.match(held)
        if declaration:
            # It names an encoding that is no longer theirs. Its lines stay, so that places are those of the file.
            held = "\n" * declaration[0].count("\n") + held[declaration.end() :]
        while chunk := stream.read(_CHUNK_BYTES):
            cut = held.rfind("&", len(held) - _LONGEST_REFERENCE)
            ready, held = (held[:cut], held[cut:]) if cut >= 0 else (held, "")
            self._parse(ready)
            held += decoder.decode(chunk)
        self._parse(held + decoder.decode(b"", True))

    def _parse(self, text: str) -> None:
        if _ILLEGAL.search(text):
            self._context.warnings.add("characters that no XML may carry are replaced", self._place())
            text = _ILLEGAL.sub("\ufffd", text)
        if "&#" in text:
            text = _REFERENCE.sub(self._legal, text)
        self._fed_before += len(self._fed)
        self._fed = text.encode("utf-8")
        self._parser.Parse(self._fed, False)

    def _legal(self, reference: re.Match[str]) -> str:
        point = int(reference[1], 16) if reference[1] else int(reference[2])
        if not 0 < point <= 0x10FFFF:
            return "\ufffd"
        return "\ufffd" if _ILLEGAL.match(chr(point)) else reference[0]

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ReportRefused(f"{self._place()}: nested deeper than {MAX_DEPTH} elements")
        self._on_start(name.rpartition(":")[2], attributes, self._place())

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._has_ended = self._depth == 0
        self._on_end(name.rpartition(":")[2])

    def _refuse_dtd(self, *_: object) -> None:
        raise ReportRefused(f"{self._place()}: a DTD is refused, a report needs none")

    def _place(self) -> str:
        return f"line {self._parser.CurrentLineNumber}"


def encoding_of(head: bytes) -> tuple[bytes, str]:
    """The byte order mark, and the encoding: by that mark, else as declared, else UTF-8."""
    for prefix, encoding in _PREFIXES:
        if head.startswith(prefix):
            return (prefix if b"<" not in prefix else b""), encoding
    declared = _DECLARED.match(head[:400])
    name = declared[1].decode() if declared else "utf-8"
    return b"", "utf-8" if name.lower().startswith(("utf-16", "utf-32")) else name
