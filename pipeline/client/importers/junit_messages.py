"""What a <failure> or <error> of a JUnit report says: the line that tells one failure from another.

Many runners write something else first: googletest a place, bats a place in parentheses, gotestsum the lines of
``go test``, Python's runners a traceback whose last line counts, others the word "Failed".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PYTEST_PHASE = re.compile(r'failed on (?:setup|teardown) with "(.*)"', re.DOTALL)
_NO_MESSAGES = frozenset({"", "failed", "failure", "test failure", "test failed", "error", "exception", "none"})
_NO_TYPES = frozenset(
    {"fail", "failed", "failure", "error", "exception", "NoneType", "testtools.testresult.real._StringException"}
)
_NO_NEWS = re.compile(
    r"\S+\.\w+:\d+(?::\d+)?:?"  # a place, as in cart_test.cc:7
    r"|\((?:in test file|from function) .*\)"
    r"|=== [A-Z]+\s.*|--- (?:FAIL|SKIP|PASS): .*"
    r"|[\w\\]+::\w+(?: with data set .*)?"  # PHPUnit: the test itself
)
_TRACEBACK = re.compile(r"(?:.*: )?Traceback \(most recent call last\):")


def message_of(producer: str, attributes: Mapping[str, str], text: str) -> str:
    """From the attribute, else from the text."""
    message = attributes.get("message", "").strip()
    if producer == "pytest":
        return _of_pytest(message, text)
    if message.lower() in _NO_MESSAGES:
        return _telling(text, producer) or message
    return _telling(message, producer) or message


def is_failed_skip(attributes: Mapping[str, str]) -> bool:
    """Whether a <skipped> is a test that could not run: ctest prints it among those that failed, and fails."""
    return attributes.get("message", "") in ("Unable to find executable", "Fixture dependency failed")


def type_of(attributes: Mapping[str, str]) -> str:
    """The error's type; empty for words that only say that it failed."""
    named = attributes.get("type", "").strip()
    return "" if named in _NO_TYPES else named


def _of_pytest(message: str, text: str) -> str:
    wrapped = _PYTEST_PHASE.fullmatch(message)
    if wrapped:
        return wrapped[1]
    if message == "collection failure":
        errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
        return errors[-1] if errors else text
    return message or text


def _telling(text: str, producer: str) -> str:
    """From the line on that tells something. One that ends with a colon has the next one behind it."""
    if producer not in ("", "googletest"):
        return text  # runners whose other reports have the same first line
    lines = [line for line in text.splitlines() if line.strip()]
    first = next((place for place, line in enumerate(lines) if _is_news(line.strip())), None)
    if first is None:
        return ""
    if _TRACEBACK.fullmatch(lines[first].strip()):
        return _raised(lines) or text
    if lines[first].rstrip().endswith(":") and first + 1 < len(lines):
        lines[first] = f"{lines[first].strip()} {lines.pop(first + 1).strip()}"
    return "\n".join(lines[first:])


def _is_news(line: str) -> bool:
    return line.lower() not in _NO_MESSAGES and not _NO_NEWS.fullmatch(line)


def _raised(lines: list[str]) -> str:
    """What stands behind the last frame of a traceback."""
    found, is_in_frame = "", False
    for line in lines:
        if line.startswith(" "):
            is_in_frame = is_in_frame or line.lstrip().startswith("File ")
        elif is_in_frame:
            found, is_in_frame = line, False
    return found
