"""What the status of a test means, whatever word its reporter uses for it.

Raw rows keep the status as it was sent. Windows, executions and views fold letter case, spaces and synonyms
by this one table; the SQL function ``statusWord`` is the same table, and a test holds the two together.
"""

from __future__ import annotations

import re

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
FLAKY = "flaky"
"""Passed after a retry: the verdict of an execution whose earlier attempts failed."""
RETRIED = "retried"
"""An attempt that failed and was tried again: not an execution."""
INTERRUPTED = "interrupted"
"""An execution that never came to a verdict."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    PASSED: ("passed", "pass", "ok", "success", "successful", "succeeded", "expected", "xpassed", "xpass"),
    FAILED: ("failed", "fail", "failure", "error", "errored", "broken", "timedout", "timeout", "unexpected", "crashed"),
    FLAKY: ("flaky",),
    SKIPPED: (
        *("skipped", "skip", "ignored", "ignore", "disabled", "pending", "todo", "notrun", "notexecuted"),
        *("inconclusive", "xfailed", "xfail"),
    ),
    RETRIED: ("retried", "rerun", "retry"),
    INTERRUPTED: ("interrupted", "aborted", "cancelled", "canceled", "killed"),
}
"""Meaning to the words for it, in lower case, without spaces, hyphens and underscores."""

_MEANING = {word: meaning for meaning, words in SYNONYMS.items() for word in words}
_SEPARATORS = re.compile(r"[ _-]+")


def status_word(status: str) -> str:
    """What ``status`` means: one of the keys of ``SYNONYMS``, or the status in lower case where it is unknown."""
    return _MEANING.get(_SEPARATORS.sub("", status.strip().lower()), status.strip().lower())
