"""NDJSON: a metric a line, passed on to the byte, valid or not.

It streams, and what is wrong with a line is found in the dead letters with a reason like everything else; ``push``
says so beforehand. Only line ends, blank lines and a byte order mark go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from pipeline.client.importers.report import ReportRefused

MAX_LINE_BYTES = 16 * 2**20
"""A longer line is no NDJSON; Redis and the drainer refuse far smaller items."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Line number and item of each line that is not blank. Raises ``ReportRefused`` for an endless one."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise ReportRefused(f"line {number} is longer than {MAX_LINE_BYTES} bytes; is this NDJSON?")
        item = line.removesuffix(b"\n").removesuffix(b"\r")
        if number == 1:
            item = item.removeprefix(_BYTE_ORDER_MARK)
        if item.strip():
            yield number, item
