"""What a status means: one table, in Python and in SQL."""

import pytest

from pipeline.status_words import SYNONYMS, status_word


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("FAILED", "failed"),
        ("Timed Out", "failed"),
        ("timed_out", "failed"),
        (" ok ", "passed"),
        ("Not-Run", "skipped"),
        ("", ""),
        ("Weird Word", "weird word"),
    ],
)
def test_case_spaces_and_synonyms_are_folded(sent: str, meant: str) -> None:
    """A status means the same in any letter case, with any separator and by any common synonym."""
    assert status_word(sent) == meant


def test_no_word_means_two_things() -> None:
    """Each synonym stands for one meaning, and each meaning is a word for itself."""
    words = [word for words in SYNONYMS.values() for word in words]
    assert len(words) == len(set(words))
    assert {meaning: status_word(meaning) for meaning in SYNONYMS} == {meaning: meaning for meaning in SYNONYMS}
