"""pytest plugin: ``pytest --pipeline-metrics`` pushes the duration and status of every attempt of every test.

One attempt is one ``duration`` metric: the milliseconds of setup, call and teardown together, as the JUnit report has
them by default; failed when any of the three failed, skipped also for xfail, failed for a strict xpass. An attempt
that a plugin tries again is ``retried``; the last one says how the test ended, ``flaky`` where it passed only then, and
``interrupted`` where it never ended. What could not even be collected counts as failed (or skipped), again like JUnit.
Two things differ: a test that fails in its call and again in its teardown is one execution (JUnit writes two), and
of subtests only the test they belong to counts, failed when one of them failed, else skipped when
one was (JUnit adds their time twice).

A test run never fails, waits or ends otherwise because of this, whatever happens in here: metrics queue up while Redis
is away, at the end they have a moment to leave, and one line says what was sent and what was not. Under pytest-xdist
only the controller sends. Without the option nothing beyond this file is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

FIELDS = ("run-id", "job", "commit", "branch")
"""What the options --pipeline-FIELD say of the run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; where Redis is comes from --pipeline-redis-url or the PIPELINE_ settings."""
    group = parser.getgroup("pipeline", "metrics pipeline")
    group.addoption(
        "--pipeline-metrics", action="store_true", help="push each test's duration and status to the metrics pipeline"
    )
    group.addoption("--pipeline-redis-url", metavar="URL", help="Redis to push to (default: the pipeline's settings)")
    group.addoption("--pipeline-suite", metavar="NAME", help="test_suite of all metrics (default: the test's module)")
    group.addoption("--pipeline-environment", metavar="NAME", default="", help="environment of all metrics")
    group.addoption(
        "--pipeline-browser",
        metavar="NAME",
        help="browser of all metrics (default: pytest-playwright's)",
    )
    for field in FIELDS:
        group.addoption(
            f"--pipeline-{field}", metavar="TEXT", help=f"default: {variable_of(field)}, else the CI's or git's"
        )


def pytest_configure(config: pytest.Config) -> None:
    """Start reporting, in the controller only; workers add to their reports what the controller cannot see."""
    if config.getoption("--pipeline-metrics", False):
        from pipeline.client.pytest_reporter import register

        register(config)


def variable_of(field: str) -> str:
    """The environment variable that says the same as an option."""
    return f"PIPELINE_{field.upper().replace('-', '_')}"
