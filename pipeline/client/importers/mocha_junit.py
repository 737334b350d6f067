"""What mocha-junit-reporter, mocha's xunit and @wdio/junit-reporter mean by the attributes that they write.

All report tests of mocha, so a test is named as mocha's own JSON names it: the file, and the titles with blanks
between them. Pure functions; ``junit`` reads the elements.
"""

from __future__ import annotations

import re

from pipeline.client.failures import failure, typed_by
from pipeline.client.importers.junit_case import Case
from pipeline.status_words import FAILED, SKIPPED

MOCHA = "mocha-junit"
XUNIT = "mocha-xunit"
"""Mocha's own reporter: the class name has the titles of the suites, the name that of the test."""
WDIO = "wdio"
WDIO_PROPERTIES = frozenset({"specId", "suiteName", "featureName", "capabilities", "file", "featureFile"})
"""What @wdio/junit-reporter writes into every suite; ``specId`` is what only it writes."""

_HERE = re.compile(r"^(?:file://)?(?:\./)?")


def full_title(name: str, classname: str) -> str:
    """The titles of suites and test: the name, or the class name with ``testCaseSwitchClassnameAndName``."""
    return classname if name and classname != name and classname.endswith(name) else name


def wdio_title(name: str, classname: str, told: dict[str, str]) -> str:
    """The titles of suites and test.

    The class name is ``<capabilities>.<titles of the suites with _ for blanks>``, the property ``suiteName`` the title
    of the innermost suite as it was written.
    """
    suite = told.get("suiteName") or told.get("featureName", "")
    package, dot, titles = classname.partition(f"{told.get('capabilities', '')}.")
    if package in ("", "CucumberJUnitReport-") and dot and titles.endswith(re.sub(r"\s", "_", suite)):
        suite = titles[: len(titles) - len(suite)].replace("_", " ") + suite
    return f"{suite} {name}".strip()


def wdio_file(told: dict[str, str]) -> str:
    """The file, from the directory on in which the tests ran; it is written as ``file://./spec/cart.js``."""
    return _HERE.sub("", told.get("file") or told.get("featureFile", ""))


def wdio_browser(told: dict[str, str]) -> str:
    """The first part of ``chrome.131_0_6778_85.linux``: a version would split a test's history."""
    return told.get("capabilities", "").partition(".")[0]


def wdio_attempts(cases: list[Case]) -> list[Case]:
    """The tests with their attempts: wdio writes one that it repeats as skipped, with the error on <system-err>."""
    found: list[Case] = []
    tried: dict[tuple[str, str, str], int] = {}
    for case in cases:
        key = (case.classname, case.name, wdio_file(case.told))
        place = tried.pop(key, len(found))
        if place < len(found):
            before = found[place]
            before.attempt.status, before.attempt.failure = FAILED, failure(before.error_output)
            case.earlier = [*before.earlier, before.attempt]
            found[place] = case
        else:
            found.append(case)
        if case.attempt.status == SKIPPED and case.error_output:
            tried[key] = place
        if case.attempt.status == FAILED:
            case.attempt.failure = typed_by(case.attempt.failure, case.error_output)
    return found
