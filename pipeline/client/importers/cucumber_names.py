"""What a scenario of Cucumber is called, whichever report brings it: its feature, and its own title.

The title is that of the scenario as it was run, with the values of an outline's row in it. JUnit adds the row and
what the row made of an outline's title; Allure and JSON have the latter alone. Scenarios of one title in a feature,
as rows of an outline without values in its title, are counted in their order. Pure; the importers read the reports.
"""

from __future__ import annotations

import re
from collections import Counter

CUCUMBER = "cucumber"

_ROW = re.compile(r"(?P<outline>.*?) - #\d+\.\d+(?:: (?P<title>.*))?", re.DOTALL)


def junit_title(name: str) -> str:
    """``Adds 3`` of ``Adds <n> - #1.1: Adds 3``, ``Pays`` of ``Pays - #1.1``."""
    row = _ROW.fullmatch(name)
    return (row["title"] or row["outline"]) if row else name


class Titles:
    """The scenarios of one report."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def next(self, feature: str, title: str) -> str:
        """The title; with its number from the second scenario of this title on."""
        self._counts[feature, title] += 1
        number = self._counts[feature, title]
        return title if number == 1 else f"{title} #{number}"
