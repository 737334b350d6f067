"""Notifications for people: a title, a line for each alert, and text without markup that the receiver would act on.

Names of tests, suites and pages come from producers. Nothing in them may end a header, move a cursor,
mention all members of a chat room or dress up as a link.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.base.text import printable

Body = Mapping[str, Any]

SHOWN_AT_ONCE = 20
"""Alerts written out in one message for people; the rest is counted."""
MOST_MESSAGES = 5
"""Messages about one group at a time; a storm is told to people by its number, not alert by alert."""

LONGEST_TITLE = 200
LONGEST_LINE = 1_000
"""Characters; servers refuse a longer subject or message, and would refuse it for ever."""

_MENTION = re.compile(r"@(?=\w)")
_SPACE = "\u200b"  # has no width, and is not part of any markup


def title(body: Body) -> str:
    """One line: how many, of what."""
    group = ", ".join(f"part {value}" if name == "#" else str(value) for name, value in body["group"].items() if value)
    counts = [f"{body[state]} {state}" for state in ("firing", "resolved") if body[state]]
    end = f": {', '.join(counts)}"
    return shortened(printable(f"[{body['state'].upper()}] {group or 'alerts'}"), LONGEST_TITLE - len(end)) + end


def lines(body: Body) -> list[str]:
    """One line for each alert; links where there are any."""
    shown = [
        f"{shortened(printable(alert['message']), LONGEST_LINE)} {link(alert)}".rstrip()
        for alert in body["alerts"][:SHOWN_AT_ONCE]
    ]
    return shown + rest(body)


def link(alert: Body) -> str:
    """The address of the page about the alert; empty where there is none, or only one that is too long to follow."""
    found = printable(str(alert.get("link") or ""))
    return found if len(found) <= LONGEST_LINE else ""


def shortened(text: str, longest: int) -> str:
    """Text of at most ``longest`` characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def for_header(text: str) -> str:
    """Text that a mail's header shows as it is: ``=?…?=`` would be decoded, line ends and further headers in it too."""
    return text.replace("=?", f"={_SPACE}?")


def rest(body: Body) -> list[str]:
    """What is not written out, as a sentence; empty when everything is."""
    more = []
    if len(body["alerts"]) > SHOWN_AT_ONCE:
        more.append(f"… and {len(body['alerts']) - SHOWN_AT_ONCE} more")
    if part_of(body) == MOST_MESSAGES:
        more.append("Further alerts of this group are not sent here; `pipeline alerts ls` lists them.")
    return more


def part_of(body: Body) -> int:
    """Which part of a large group the notification is about; 1 for a group of one part."""
    return int(body["group"].get("#", 1))


def without_mentions(text: str) -> str:
    """Text in which ``@everyone`` mentions no member."""
    return _MENTION.sub("@" + _SPACE, text)


def for_slack(text: str) -> str:
    """Text that Slack, and Mattermost with its Markdown, show as it is: no mention, no link, no image."""
    escaped = shortened(printable(text), LONGEST_LINE).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return without_mentions(escaped).replace("](", f"]{_SPACE}(")
