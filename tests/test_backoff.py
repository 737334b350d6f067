import random

import pytest

from pipeline.base.backoff import Backoff


def test_pauses_double_up_to_the_cap() -> None:
    """0.1, 0.2, 0.4, … and never more than ``max_s``, however often it failed."""
    backoff = Backoff(0.1, 2.5)
    assert [backoff.pause_s(failures, 0) for failures in range(1, 8)] == pytest.approx(
        [0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5]
    )
    assert backoff.pause_s(1_000_000, 0) == 2.5


def test_a_first_pause_above_the_cap_is_the_cap() -> None:
    """The cap is what an operator sets; it wins."""
    assert Backoff(5, 2).pause_s(1, 0) == 2


def test_jitter_only_shortens_and_never_to_nothing() -> None:
    """A pause lies between half of its ceiling and the ceiling."""
    backoff = Backoff(0.1, 30)
    for failures in range(1, 20):
        pauses = [backoff.pause_s(failures) for _ in range(50)]
        assert all(backoff.ceiling_s(failures) / 2 <= pause <= backoff.ceiling_s(failures) for pause in pauses)
        assert len(set(pauses)) > 10


def test_jitter_leaves_the_random_numbers_of_the_program_alone() -> None:
    """A test suite that seeds ``random``, or that watches it, sees nothing of a client that retries in it."""
    before = random.getstate()
    Backoff(0.1, 30).pause_s(3)
    assert random.getstate() == before


@pytest.mark.parametrize(("first_s", "max_s", "jitter"), [(0, 1, 0.5), (1, 0, 0.5), (1, 1, 1), (1, 1, -0.1)])
def test_what_is_no_backoff_is_refused(first_s: float, max_s: float, jitter: float) -> None:
    """A pause of zero would be a busy loop."""
    with pytest.raises(ValueError, match="not a backoff"):
        Backoff(first_s, max_s, jitter)
