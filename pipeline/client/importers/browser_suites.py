"""JUnit reports whose suites are browsers with their versions: Karma's and TestCafe's.

As part of a name, a version would make another test, or suite, of each at every update of a browser.
"""

from __future__ import annotations

import re

KARMA = "karma"
KARMA_PROPERTY = "browser.fullName"
"""What Karma's suites have among their properties, and no others."""
TESTCAFE = "testcafe"
TESTCAFE_SUITE = re.compile(r"TestCafe Tests:.*")

_VERSION = re.compile(r" \d[\d.]*(?: \(.*\)| / .*)?$")


def browser_of(suite: str) -> str:
    """``Chrome Headless`` of ``Chrome Headless 156.0.0.0 (Linux 0.0.0)`` and of TestCafe's list of such."""
    browsers = suite.removeprefix("TestCafe Tests:").split(",")
    return ", ".join(_VERSION.sub("", browser.strip()) for browser in browsers)


def class_of(classname: str, suite: str) -> str:
    """The describe block or fixture around a test; Karma has the browser before it."""
    return classname.removeprefix(re.sub(r"[. ]", "_", suite)).removeprefix(".")
