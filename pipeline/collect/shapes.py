"""Keys that no pattern knows, grouped by what their names have in common. Pure.

Identifiers, numbers, addresses and tokens become ``*`` at once. A part of a name that varies from key to key, such as a
user's name, becomes ``*`` when the groups are folded. A million different names take the memory of ``MOST_SHAPES``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

MOST_SHAPES = 4_000
"""Shapes held before they are folded; then at most a quarter of them is left."""
MANY_KEYS = 10
"""So many keys make a part of a name a word of its own, and no variable."""
LONGEST = 100
"""Characters of a name that tell it apart."""

_NUMBERS = re.compile(r"\d+")
_IDS = re.compile(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b[0-9a-f]{8,}\b", re.IGNORECASE)
# Both begin where a word or a part begins, and nowhere else: a long name costs no more than its length.
_TOKENS = re.compile(r"(?<![^\W_])(?<!\*)[^\W_]*(?:\*[^\W_]+)+\*?")
"""Letters behind a number: no word for a kind of key."""
_OTHER = re.compile(r"(?:^|(?<=[:/|]))[^:/|]*[^\w.*\-{}\ufffd:/|][^:/|]*")
"""A part with characters that names of kinds do not have: an address, a base64 text."""
_PARTS = re.compile(r"(?<=[:/|])")
_WORDS = re.compile(r"(?<=[-_.])")
_COARSER = ((16, 8), (8, 6), (4, 4), (2, 3), (1, 2), (0, 1))
"""How many words may follow a common beginning, and how many parts of a name count: the finest that is small enough."""

Parts = tuple[str, ...]


class KeyGroup(NamedTuple):
    """How many keys have a shape, and the memory that they take."""

    keys: int = 0
    bytes: int = 0

    def plus(self, other: KeyGroup) -> KeyGroup:
        """Both together."""
        return KeyGroup(self.keys + other.keys, self.bytes + other.bytes)


def shape(key: str) -> str:
    """A key without what tells it from its like: identifiers, numbers, addresses and tokens become ``*``."""
    numberless = _NUMBERS.sub("*", _IDS.sub("*", key[: 4 * LONGEST]))
    return _OTHER.sub("*", _TOKENS.sub("*", numberless))[:LONGEST]


class Shapes:
    """Counts keys by shape, in bounded memory."""

    def __init__(self) -> None:
        self._groups: dict[str, KeyGroup] = {}
        self.folded = False
        """Whether there were more shapes than are held at once: then what is rare may be in a coarser group."""

    def add(self, key: str, size: int) -> None:
        """One more key that takes ``size`` bytes."""
        name = shape(key)
        self._groups[name] = self._groups.get(name, KeyGroup()).plus(KeyGroup(1, size))
        if len(self._groups) > MOST_SHAPES:
            self.folded = True
            self._groups = _join(_fold(_split(self._groups), MOST_SHAPES // 4))

    def groups(self, most: int) -> dict[str, KeyGroup]:
        """At most ``most`` groups; at least one for each kind of separator."""
        return _join(_fold(_split(self._groups), most))


def _split(groups: Mapping[str, KeyGroup]) -> dict[Parts, KeyGroup]:
    """By the parts of their names; a name without ``:``, ``/`` and ``|`` has words."""
    return {tuple((_PARTS if re.search("[:/|]", name) else _WORDS).split(name)): one for name, one in groups.items()}


def _join(groups: Mapping[Parts, KeyGroup]) -> dict[str, KeyGroup]:
    joined: dict[str, KeyGroup] = {}
    for parts, one in groups.items():
        name = "".join(parts)
        joined[name] = joined.get(name, KeyGroup()).plus(one)
    return joined


def _fold(groups: Mapping[Parts, KeyGroup], most: int) -> dict[Parts, KeyGroup]:
    folded: dict[Parts, KeyGroup] = {}
    for words, depth in _COARSER:
        folded = _folded(groups, 4 * words, words, depth)
        if len(folded) <= most:
            break
    return folded


def _folded(groups: Mapping[Parts, KeyGroup], few: int, words: int, depth: int) -> dict[Parts, KeyGroup]:
    """One group for each first part that is a word, and one for all variables; the rest of the parts likewise.

    ``few`` different first parts are all words; of more, or of later parts, those that many keys have.
    """
    if len(groups) == 1:
        return dict(groups)
    named: dict[str, dict[Parts, KeyGroup]] = {}
    for parts, one in groups.items():
        named.setdefault(parts[0] if parts else "", {})[parts[1:]] = one
    keys = {part: sum(one.keys for one in rest.values()) for part, rest in named.items()}
    kept = set(named)
    if len(named) > max(few, 1):
        by_keys = sorted((part for part in named if keys[part] >= MANY_KEYS), key=lambda part: (-keys[part], part))
        kept = set(by_keys[: max(few, words)])
    merged: dict[str, dict[Parts, KeyGroup]] = {}
    for part, rest in named.items():
        under = merged.setdefault(part if part in kept else _variable(part), {})
        for parts, one in rest.items():
            shorter = parts if depth > 1 or not any(parts) else ("*",)
            under[shorter] = under.get(shorter, KeyGroup()).plus(one)
    return {
        (part, *parts): one
        for part, rest in merged.items()
        for parts, one in (_folded(rest, 1, words, depth - 1) if any(any(parts) for parts in rest) else rest).items()
    }


def _variable(part: str) -> str:
    """``*``, with the separator that ends the part."""
    return "*" + (part[-1] if part and part[-1] in ":/|-_." else "")
