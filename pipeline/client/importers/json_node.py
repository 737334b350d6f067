"""A value inside a JSON report that knows its place, so that every warning can name it.

Lenient: a member of another kind than expected is warned of and taken as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipeline.client.failures import Failure, failure, typed_by, whole_characters
from pipeline.client.importers.numbers import LONGEST_S
from pipeline.client.importers.report import Context, ReportRefused, Warnings
from pipeline.client.importers.times import when
from pipeline.status_words import SYNONYMS, status_word


class Node:
    """One value and its place, as ``suites[0].specs[2].title``."""

    def __init__(self, value: Any, context: Context, place: str = "") -> None:
        self.value = value
        self.context = context
        self.place = place

    def get(self, *keys: str) -> Node:
        """The member, or the member of a member; a missing one holds None."""
        node = self
        for key in keys:
            inner = node.value.get(key) if isinstance(node.value, dict) else None
            node = Node(inner, self.context, f"{node.place}.{key}" if node.place else key)
        return node

    def __bool__(self) -> bool:
        return bool(self.value)

    def items(self) -> Iterator[Node]:
        """The elements that are objects; others are warned of."""
        if self.value is None:
            return
        if not isinstance(self.value, list):
            self._odd("a list")
            return
        for index, item in enumerate(self.value):
            node = Node(item, self.context, f"{self.place}[{index}]")
            if isinstance(item, dict):
                yield node
            else:
                node._odd("an object")

    def texts(self) -> list[str]:
        """A list of texts, or one text."""
        if isinstance(self.value, list):
            return [whole_characters(item) for item in self.value if isinstance(item, str)]
        return [text] if (text := self.text()) else []

    def text(self) -> str:
        """The text, a number as text; empty for what is absent."""
        if self.value is None:
            return ""
        if isinstance(self.value, str):
            return whole_characters(self.value)
        if isinstance(self.value, int | float):
            return str(self.value)
        self._odd("a text")
        return ""

    def number(self) -> float | None:
        """A finite number; None for anything else."""
        if self.value is None:
            return None
        is_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        # Compared, not converted: an integer may have more digits than any float. No NaN passes.
        if is_number and abs(self.value) <= 1e308:
            return float(self.value)
        self._odd("a finite number")
        return None

    def count(self) -> int:
        """A number of things, 0 where there is none."""
        return max(0, int(self.number() or 0))

    def duration_ms(self, factor: float = 1.0) -> float | None:
        """Milliseconds, ``factor`` of them to a unit. Below 0 is 0, beyond ten years None; both are warned of."""
        number = self.number()
        if number is not None and number < 0:
            self.context.warnings.add("a negative duration is taken as 0", self.place, number)
            number = 0.0
        if number is not None and number * factor > LONGEST_S * 1000:
            self.context.warnings.add("longer than ten years; stored without a duration", self.place, number)
            number = None
        return None if number is None else number * factor

    def time_ms(self) -> int | None:
        """Epoch milliseconds of a time, a text or a number."""
        return when(self.text(), self.place, self.context) if self.value not in (None, "", 0) else None

    def status(self) -> str:
        """What the word means (``status_words``); one that is not known is warned of and stays what it is."""
        status = status_word(self.text())
        if status not in SYNONYMS:
            self.context.warnings.add("this status is not known; counted in the total only", self.place, self.value)
        return status

    def failure(self, error_type: str = "") -> Failure:
        """What failed, from a text, or from an object with a message."""
        if isinstance(self.value, dict):
            named = error_type or self.get("name").text()
            told = failure(self.get("message").text() or self.get("value").text(), named)
            return typed_by(told, self.get("stack").text() or self.get("trace").text() or self.get("estack").text())
        return failure(self.text(), error_type)

    def _odd(self, expected: str) -> None:
        try:
            shown = json.dumps(self.value)
        except ValueError:
            shown = type(self.value).__name__
        self.context.warnings.add(f"this is not {expected} and is left out", self.place, shown)


def lines_of(content: bytes, context: Context) -> Iterator[Node]:
    """The objects of a file that has one in each line; other lines are warned of."""
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            context.warnings.add("this line is not JSON and is left out", f"line {number}")
            continue
        if isinstance(value, dict):
            yield Node(value, context, f"line {number}")


def parsed(content: bytes, warnings: Warnings) -> Any:
    """The JSON value of a file. Raises ``ReportRefused`` with line and column."""
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise ReportRefused(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except UnicodeDecodeError as error:
        warnings.add(f"bytes that are not {error.encoding} are replaced", f"byte {error.start}")
        return parsed(content.decode(error.encoding, "replace").encode(), warnings)
    except RecursionError:
        raise ReportRefused("nested too deeply for a report") from None
    except ValueError as error:  # a number of more than 4,300 digits
        raise ReportRefused(str(error)) from None
