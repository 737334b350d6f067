"""One <testcase> of a JUnit report while it is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.client.attempts import Attempt


@dataclass(eq=False)
class Case:
    """A test with what its element and its suite say of it."""

    name: str
    classname: str
    file: str
    suite: str
    browser: str
    attempt: Attempt
    properties: dict[str, str]
    told: dict[str, str]
    """Properties of the suite that name the test rather than the run."""
    place: str = ""
    error_output: str = ""
    is_todo: bool = False
    earlier: list[Attempt] = field(default_factory=list)
    later: list[Attempt] = field(default_factory=list)
