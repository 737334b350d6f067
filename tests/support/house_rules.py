"""What a rule of the house says when the code breaks it: a sentence, and a line for each place."""

from collections.abc import Iterable

import pytest


def none_of(found: Iterable[object], rule: str) -> None:
    """Fail with ``rule``, which says what is wrong and what to do, and with everything that was ``found``."""
    lines = sorted(": ".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in found)
    if lines:
        pytest.fail("\n  ".join([rule + ":", *lines]), pytrace=False)


def holds(condition: object, rule: str) -> None:
    """Fail with ``rule`` unless the condition holds."""
    if not condition:
        pytest.fail(rule, pytrace=False)
