"""Who is meant: ``severity=critical``, ``test_suite=~auth.*``, ``browser!=edge``, ``page!~/admin.*``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_MATCHER = re.compile(r'\s*([A-Za-z_]\w*)\s*(=~|!~|!=|=)\s*"?(.*?)"?\s*', re.DOTALL)


@dataclass(frozen=True)
class Matcher:
    """One condition on a label; an absent label is the empty string. Expressions match the whole value."""

    name: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Matcher:
        """Read ``label=value``, ``!=``, ``=~`` or ``!~``. Raises ``ValueError``."""
        found = _MATCHER.fullmatch(text)
        if not found:
            raise ValueError(f"{text!r} is no matcher; write severity=critical, browser!=edge or test_suite=~auth.*")
        matcher = cls(found[1], found[2], found[3])
        if matcher.operator in ("=~", "!~"):
            try:
                re.compile(matcher.value)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"{text!r}: {error}") from None
        return matcher

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy it."""
        given = labels.get(self.name, "")
        if self.operator in ("=", "!="):
            return (given == self.value) == (self.operator == "=")
        return (re.fullmatch(self.value, given) is not None) == (self.operator == "=~")

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.value}"


def all_match(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether every condition holds."""
    return all(matcher.matches(labels) for matcher in matchers)
