"""Many metrics at once: checked and encoded in the caller's thread by loops that do not run in Python. Pure.

``pipeline bench client`` measures it beside single pushes. A batch that holds anything else (a time as
text, a field that is not known, a number or a text of another type) is for ``push``, which knows what to do with each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from pipeline.client.metric_item import EXACT_INTEGER


class Plain(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A metric whose fields are what ``push`` sends on as they are; the order is that of ``Known``."""

    metric_type: Annotated[str, msgspec.Meta(min_length=1)]
    value: int | float
    timestamp: int | float | None = None
    test_id: str | None = None
    test_name: str | None = None
    test_suite: str | None = None
    environment: str | None = None
    browser: str | None = None
    page: str | None = None
    endpoint: str | None = None
    node: str | None = None
    status: str | None = None
    run_id: str | None = None
    job: str | None = None
    commit: str | None = None
    branch: str | None = None
    error_type: str | None = None
    attempt: int | None = None
    tags: dict[str, str | int | float | bool] | None = None


_PLAIN = list[Plain]
_ENCODER = msgspec.json.Encoder()


def encoded_plain(
    metrics: Sequence[Mapping[str, Any]], head: bytes, now_ms: int, *, tags_are_merged: bool
) -> list[bytes] | None:
    """One item for each metric, as ``push`` makes it; None unless all of them are plain.

    ``head`` opens each in place of ``{``. ``tags_are_merged``: the client has tags of its own, so that a metric's need
    more than to be encoded.
    """
    try:
        plain = msgspec.convert(metrics, _PLAIN)
        total = math.fsum([one.value for one in plain])
    except (msgspec.ValidationError, OverflowError, ValueError):
        return None
    if not plain or not math.isfinite(total) or not _are_exact(plain):
        return None
    for one in plain:
        if one.timestamp is None:
            one.timestamp = now_ms
        elif not math.isfinite(one.timestamp):
            return None
        if one.tags is not None and (tags_are_merged or not one.tags):
            return None
    try:
        # JSON has no raw newline, so that one stands between two items and nowhere else.
        lines = _ENCODER.encode_lines(plain)
    except UnicodeEncodeError:
        return None
    if head == b"{":
        return lines[:-1].split(b"\n")
    return [head + line for line in lines[1:-1].split(b"\n{")]


def _are_exact(plain: Sequence[Plain]) -> bool:
    values = [one.value for one in plain]
    return min(values) > -EXACT_INTEGER and max(values) < EXACT_INTEGER
