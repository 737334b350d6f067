"""Reports of the web-vitals library as metrics: what ``onLCP``, ``onINP``, ``onCLS``, ``onFCP``, ``onTTFB`` give.

They come from browsers anywhere, so nothing of a report is taken that is not listed here, and every text is
short. Repeated reports of one page view carry the same ``id``, which goes along as a tag: the vitals count
them once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

VITALS = frozenset({"LCP", "INP", "CLS", "FCP", "TTFB", "FID"})
MAX_REPORTS = 100
MAX_BODY_BYTES = 64 << 10
_MAX_VALUE = 1e7
_MAX_TEXT = 200

# Field of ``attribution`` to the tag it becomes.
ATTRIBUTION = {
    "target": "target",
    "element": "target",
    "interactionTarget": "target",
    "largestShiftTarget": "target",
    "eventTarget": "target",
    "interactionType": "interaction_type",
    "eventType": "interaction_type",
    "loadState": "load_state",
    "timeToFirstByte": "time_to_first_byte",
    "resourceLoadDelay": "resource_load_delay",
    "resourceLoadDuration": "resource_load_duration",
    "elementRenderDelay": "element_render_delay",
    "inputDelay": "input_delay",
    "processingDuration": "processing_duration",
    "presentationDelay": "presentation_delay",
    "firstByteToFCP": "first_byte_to_fcp",
    "waitingDuration": "waiting_duration",
    "cacheDuration": "cache_duration",
    "dnsDuration": "dns_duration",
    "connectionDuration": "connection_duration",
    "requestDuration": "request_duration",
}

_ID = re.compile(r"[\w.:-]{1,80}", re.ASCII)
_WORD = re.compile(r"[a-z-]{1,40}")
_BROWSERS = (
    ("edge", re.compile(r"\bEdgA?/|\bEdgiOS/")),
    ("opera", re.compile(r"\bOPR/|\bOPiOS/")),
    ("samsung", re.compile(r"\bSamsungBrowser/")),
    ("firefox", re.compile(r"\bFirefox/|\bFxiOS/")),
    ("chrome", re.compile(r"\b(?:Headless)?Chrome/|\bCriOS/|\bChromium/")),
    ("safari", re.compile(r"\bSafari/")),
)


class NotAReport(Exception):
    """Why this is no report of a vital."""


def reports(body: bytes) -> list[Any]:
    """The reports of a body, one or several. Raises ``NotAReport``."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise NotAReport("the body is not JSON") from None
    found = found if isinstance(found, list) else [found]
    if not found or len(found) > MAX_REPORTS:
        raise NotAReport(f"a body holds 1 to {MAX_REPORTS} reports")
    return found


def as_metric(report: Any, user_agent: str, now_ms: int) -> dict[str, Any]:
    """One report as an item of the buffer. Raises ``NotAReport``."""
    if not isinstance(report, Mapping):
        raise NotAReport("a report is an object")
    name, value = report.get("name"), report.get("value")
    if not isinstance(name, str) or name.upper() not in VITALS:
        raise NotAReport(f"'name' is one of {', '.join(sorted(VITALS))}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_VALUE:
        raise NotAReport(f"'value' is a number from 0 to {_MAX_VALUE:.0f}")
    page_view = report.get("id")
    if not isinstance(page_view, str) or not _ID.fullmatch(page_view):
        raise NotAReport("'id' is what the library gives: 1 to 80 letters, digits and -._:")
    metric = {
        "timestamp": now_ms,
        "metric_type": name.lower(),
        "value": value,
        "browser": browser_of(user_agent),
        "page": page_of(report.get("page", "")),
        "environment": _text(report.get("environment", "")),
        "tags": {"id": page_view, "source": "beacon", **_tags(report)},
    }
    return {field: content for field, content in metric.items() if content != ""}


def page_of(address: Any) -> str:
    """The path of a page; query and fragment are cut off, since they may hold personal data."""
    if not isinstance(address, str):
        return ""
    try:
        path = urlsplit(address[:2000]).path
    except ValueError:
        return ""
    return _text(path)


def browser_of(user_agent: str) -> str:
    """The family of a browser."""
    return next((name for name, pattern in _BROWSERS if pattern.search(user_agent[:1000])), "other")


def _tags(report: Mapping[str, Any]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for field, own in (("rating", "rating"), ("navigationType", "navigation_type")):
        text = report.get(field)
        if isinstance(text, str) and _WORD.fullmatch(text):
            tags[own] = text
    attribution = report.get("attribution")
    for field, content in attribution.items() if isinstance(attribution, Mapping) else ():
        tag = ATTRIBUTION.get(field)
        if tag is None or tag in tags:
            continue
        if isinstance(content, str) and content:
            tags[tag] = _text(content)
        elif isinstance(content, int | float) and not isinstance(content, bool) and abs(content) <= _MAX_VALUE:
            tags[tag] = f"{content:.1f}"
    return tags


def _text(content: Any) -> str:
    """A short text without control characters."""
    if not isinstance(content, str):
        return ""
    return "".join(letter for letter in content[:_MAX_TEXT] if letter.isprintable())


def allowed_origin(origin: str, allowed: Sequence[str]) -> bool:
    """Whether the setting lists this origin, or all of them."""
    return "*" in allowed or origin.lower().rstrip("/") in allowed
