"""Vitals and ``performance_score`` (0 to 100) of Lighthouse results, versions 3 to 13.

Takes one result, a list of them (as Lighthouse CI keeps), a user flow, or PageSpeed's wrapping. The page is the path of
the final URL; Lighthouse runs in Chrome, so that is the browser unless a default says otherwise. A result that says why
it measured nothing counts as ``lighthouse_error``, and is trouble.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pipeline.client.failures import failure
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Report, ReportRefused

# Audit to metric type; what a run did not measure (INP without interactions) is simply not there. Until version 5 the
# server's time was called otherwise.
AUDITS = {
    "largest-contentful-paint": "lcp",
    "interaction-to-next-paint": "inp",
    "cumulative-layout-shift": "cls",
    "first-contentful-paint": "fcp",
    "time-to-first-byte": "ttfb",
    "server-response-time": "ttfb",
    "total-blocking-time": "tbt",
    "speed-index": "speed_index",
    "interactive": "tti",
    "first-meaningful-paint": "fmp",
}
_NO_ERROR = ("", "NO_ERROR")
_PARTS_OF_FLOWS = ("timespan", "snapshot")
"""Steps of a user flow that load no page: a timespan has vitals and no score, a snapshot has neither."""


def lighthouse(report: Node) -> Report:
    """Metrics of all results. Raises ``ReportRefused`` where there is none."""
    found = Report("lighthouse", "lighthouse")
    for result in _results(report):
        _take(result, found)
    if not found.metrics and not found.troubles:
        raise ReportRefused("this holds no Lighthouse result with an audit of the performance category")
    return found


def _results(report: Node) -> list[Node]:
    results = list(report.items()) if isinstance(report.value, list) else [report]
    steps: list[Node] = []
    for result in results:
        flow = [step.get("lhr") for step in result.get("steps").items()]
        wrapped = result.get("lighthouseResult")
        steps += flow or ([wrapped] if wrapped else [result])
    return steps


def _take(result: Node, found: Report) -> None:
    name = result.place or "the result"
    addresses = [result.get(key).text() for key in ("finalDisplayedUrl", "finalUrl", "url", "requestedUrl")]
    address = next(filter(None, addresses), "")
    error = result.get("runtimeError")
    code = error.get("code").text()
    if address.startswith(("chrome-error:", "about:")):
        code = code if code not in _NO_ERROR else "CHROME_ERROR"
        address = result.get("requestedUrl").text()
    if code not in _NO_ERROR:
        reason = error.get("message").text() or "the browser showed an error page"
        found.troubles.append(f"{name}: Lighthouse measured nothing: {code}: {failure(reason).message}")
        found.metrics.append(_metric(result, address, "lighthouse_error", 1, {"error": code}))
        return
    values = _values(result)
    mode = result.get("gatherMode").text()
    if mode in _PARTS_OF_FLOWS:
        values.pop("performance_score", None)  # here the category counts audits that passed
    if not values and mode == "snapshot":
        return
    if not values:
        found.troubles.append(f"{name}: no audit that is known; was the performance category left out?")
        found.metrics.append(_metric(result, address, "lighthouse_error", 1, {"error": "NO_AUDITS"}))
        return
    found.metrics += [_metric(result, address, kind, value, {}) for kind, value in values.items()]


def _values(result: Node) -> dict[str, float]:
    audits = result.get("audits")
    values: dict[str, float] = {}
    for audit, kind in AUDITS.items():
        value = _audit_value(audits.get(audit))
        if value is not None:
            values[kind] = value
    score = result.get("categories", "performance", "score").number()
    if score is not None:
        values["performance_score"] = score * 100
    return values


def _audit_value(audit: Node) -> float | None:
    """The number of an audit; from Lighthouse 11 on the server's response time stands only in its details."""
    for key in ("numericValue", "rawValue"):
        if audit.get(key).value not in (None, True, False):
            return audit.get(key).duration_ms()
    details = audit.get("details", "items")
    times = [item.get("responseTime") for item in details.items()] if isinstance(details.value, list) else []
    return times[0].duration_ms() if times else None


def _metric(result: Node, address: str, kind: str, value: float, tags: dict[str, str]) -> dict[str, Any]:
    try:
        url = urlsplit(address)
    except ValueError:
        result.context.warnings.add("this is not a URL; stored without a page", result.place, address)
        url = urlsplit("")
    named = {
        "origin": f"{url.scheme}://{url.hostname or ''}{_port(url)}" if url.netloc else "",
        "form_factor": result.get("configSettings", "formFactor").text()
        or result.get("configSettings", "emulatedFormFactor").text(),
        "lighthouse": result.get("lighthouseVersion").text(),
        **tags,
    }
    fetched = result.get("fetchTime").time_ms() or result.get("generatedTime").time_ms()
    return {
        "timestamp": result.context.now_ms if fetched is None else fetched,
        "metric_type": kind,
        "value": value,
        **({"page": url.path or "/"} if url.netloc else {}),
        "tags": {name: text for name, text in named.items() if text},
    }


def _port(url: Any) -> str:
    try:
        return f":{url.port}" if url.port else ""
    except ValueError:
        return ""
