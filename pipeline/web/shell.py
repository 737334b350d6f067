"""The page as it arrives: the view in the address has its name, heading and lead in the HTML, and its module is named.

So the first view can be read before a script has run, and what it needs is asked for at once. There is no data in it.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from string import Template


@dataclass(frozen=True)
class _View:
    name: str
    heading: str
    lead: str


VIEWS = {
    "now": _View(
        "Now",
        "Now",
        "How the pipeline fares at this moment, with the last hour of each figure as a line. What is wrong "
        "stands first, with its fix.",
    ),
    "tests": _View(
        "Tests",
        "Tests",
        "Pass rate and duration of browser tests by suite, then the slowest, most regressed and flakiest "
        "tests; choose one to see its history.",
    ),
    "runs": _View(
        "Runs",
        "Runs",
        "The newest CI runs and what they found. Choose one to see what failed and what needed a retry, or "
        "tick two to see them side by side.",
    ),
    "vitals": _View(
        "Vitals",
        "Web Vitals",
        "How fast pages were for those who opened them: good, needs improvement or poor, by vital, page and "
        "browser, judged at the 75th percentile.",
    ),
    "alerts": _View(
        "Alerts",
        "Alerts",
        "What is firing or pending, with the evidence of each alert; when alerts began and ended; silences "
        "and maintenance windows.",
    ),
    "platform": _View(
        "Platform",
        "Platform",
        "The processes of this service, what the doctor finds, Redis itself, and what collectors read of the "
        "platform: queues, workers, locks, health, cost.",
    ),
    "letters": _View(
        "Dead letters",
        "Dead letters",
        "Items that were refused, by reason and with samples. See what a replay would do before you replay or "
        "drop them; nothing is deleted.",
    ),
    "ask": _View(
        "Ask",
        "Ask",
        "Ask ClickHouse in SQL, read-only, with its tables and columns beside you. Answers come as a table "
        "and a chart, as CSV or Parquet, or as a link to share.",
    ),
}


def documents(template: str) -> dict[str, str]:
    """The page's HTML by view."""
    return {view: _document(Template(template), view) for view in VIEWS}


def _document(template: Template, view: str) -> str:
    chosen = VIEWS[view]
    return template.substitute(
        view=view,
        name=html.escape(chosen.name),
        heading=html.escape(chosen.heading),
        lead=html.escape(chosen.lead),
        links="".join(_link(name, name == view) for name in VIEWS),
    )


def _link(view: str, is_current: bool) -> str:
    of = VIEWS[view]
    data = f'data-view="{view}" data-heading="{html.escape(of.heading)}" data-lead="{html.escape(of.lead)}"'
    return f'<a href="?view={view}" {data}{" aria-current=page" if is_current else ""}>{html.escape(of.name)}</a>'
