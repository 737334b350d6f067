"""Who is meant: ``severity=critical``, ``test_suite=~auth.*``, ``browser!=edge``, ``page!~/admin.*``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

_MATCHER = re.compile(r'\s*([A-Za-z_]\w*)\s*(=~|!~|!=|=)\s*"?(.*?)"?\s*', re.DOTALL)


_LONGEST = 1_000


@dataclass(frozen=True)
class Matcher:
    """One condition on a label; an absent label is the empty string. Expressions match the whole value."""

    name: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Matcher:
        """Read ``label=value``, ``!=``, ``=~`` or ``!~``. Raises ``ValueError``."""
        if len(text) > _LONGEST:
            raise ValueError(f"a matcher has at most {_LONGEST} characters, not {len(text):,}")
        found = _MATCHER.fullmatch(text)
        if not found:
            raise ValueError(f"{text!r} is no matcher; write severity=critical, browser!=edge or test_suite=~auth.*")
        matcher = cls(found[1], found[2], found[3])
        if matcher.operator in ("=~", "!~"):
            try:
                _found(matcher.value, "")
            except ValueError as error:
                raise ValueError(f"{text!r}: {error}") from None
        return matcher

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy it."""
        given = labels.get(self.name, "")
        if self.operator in ("=", "!="):
            return (given == self.value) == (self.operator == "=")
        return _fits(self.value, given) == (self.operator == "=~")

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.value}"


@lru_cache(maxsize=65_536)
def _fits(expression: str, value: str) -> bool:
    """Whether the expression matches the whole value."""
    # Bytes that are no text match as the sign that stands for them.
    return _found(rf"\A(?:{expression})\z", value.encode("utf-8", "replace").decode())


def _found(expression: str, value: str) -> bool:
    """By RE2, as ClickHouse does: the time grows with the length of the value, and no expression makes it explode.

    Every user who may silence can write expressions. Raises ``ValueError`` for one that cannot be used.
    """
    import pyarrow as pa  # late: most commands match nothing
    import pyarrow.compute as pc

    try:
        return bool(pc.match_substring_regex(pa.scalar(value), pattern=expression).as_py())
    except pa.ArrowException as error:
        why = str(error).removeprefix("Invalid regular expression: ")
        raise ValueError(f"{why} (expressions are RE2's: no look-around, no back references)") from None


def all_match(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether every condition holds."""
    return all(matcher.matches(labels) for matcher in matchers)
