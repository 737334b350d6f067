"""The command ``push``: reports of test runs, or metrics, from files into the buffer.

Every input gets a line of its own, and the last line says what all of them came to. Warnings and troubles name file and
place, on stderr. Exit 1: something was refused or failed (with --strict also: something was warned of); 2: wrong use.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.base import config
from pipeline.base.errors import Outage, UsageError
from pipeline.base.text import masked, printable
from pipeline.cli.group import JSON, command, print_json, say

_FORMATS = (
    *("ndjson", "junit", "trx", "nunit", "xunit", "ctrf", "lighthouse", "playwright", "jest", "cypress"),
    *("mochawesome", "mocha", "pytest-json", "allure", "playwright-blob", "cucumber", "cucumber-messages"),
)


@command()
@click.argument("files", nargs=-1, metavar="[FILE|DIRECTORY|PATTERN|-]...")
@click.option("--format", "kind", type=click.Choice(_FORMATS), help="Default: recognised from the content.")
@click.option("--suite", "test_suite", default="", help="test_suite of metrics that name none.")
@click.option("--environment", default="", help="environment of metrics that name none.")
@click.option("--browser", default="", help="browser of metrics that name none.")
@click.option("--run-id", default="", help="The run; default PIPELINE_RUN_ID, else what the CI system says.")
@click.option("--job", default="", help="The session in the run; default PIPELINE_JOB, else the CI job and a digest.")
@click.option("--commit", default="", help="Default PIPELINE_COMMIT, else the CI system or git.")
@click.option("--branch", default="", help="Default PIPELINE_BRANCH, else the CI system or git.")
@click.option("--link", default="", help="Address of the full report, kept as a tag.")
@click.option("--timezone", default="", metavar="NAME|local", help="The zone of times that name none; default UTC.")
@click.option("--root", default="", metavar="DIRECTORY", help="Paths of tests are relative to it; default: this one.")
@click.option("--property", "properties", multiple=True, metavar="NAME", help="Keep this JUnit property as a tag.")
@click.option(
    "--identity", "identities", multiple=True, metavar="PRODUCER.FIELD=TEMPLATE", help="Template of a test's names."
)
@click.option("--wait", is_flag=True, help="Wait until everything is stored.")
@click.option(
    "--wait-for-s",
    type=click.FloatRange(min=1),
    default=300,
    show_default=True,
    help="Maximum wait in seconds, with --wait.",
)
@click.option(
    "--retry-for-s",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    help="How long to retry while Redis is unreachable, in seconds.",
)
@click.option("--dry-run", is_flag=True, help="Push nothing; show what would be refused and why.")
@click.option("--again", is_flag=True, help="Push also what was pushed before.")
@click.option("--strict", is_flag=True, help="Treat warnings as errors: exit 1.")
@JSON
def push(settings: config.Settings, files: tuple[str, ...], as_json: bool, strict: bool, **options: Any) -> None:
    """Send reports of test runs, or metrics, to the buffer: from files, directories, patterns, or stdin.

    Pushing a report again, or again after it was interrupted, adds only what is missing.
    """
    outcome = _Push(settings, options, quiet=as_json).run(files)
    if as_json:
        print_json(outcome.as_dict())
    else:
        say(outcome.last_line())
    if outcome.has_trouble or (strict and outcome.warnings):
        sys.exit(1)


class _Push:
    """One call of the command; afterwards also its outcome."""

    def __init__(self, settings: config.Settings, options: dict[str, Any], *, quiet: bool) -> None:
        from pipeline.client.report_files import Tally

        self._settings = settings
        self._options = options
        self._quiet = quiet
        self._said = ""
        self._has_several = False
        self.total = Tally()
        self.files: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.has_trouble = False
        self.stored: bool | None = None
        self.missing = ""

    def run(self, files: Sequence[str]) -> _Push:
        """Read every input and push it; then wait, if that was asked for."""
        from pipeline.base.redis_link import RedisLink
        from pipeline.buffer.buffer import open_buffer
        from pipeline.client.report_files import inputs_of
        from pipeline.client.report_sender import Sender, wait_until_stored

        inputs = inputs_of(files)
        if self._options["dry_run"]:
            self._push_all(inputs, None)
            return self
        link = RedisLink.open(self._settings)
        key = self._settings.buffer.keys[0]
        try:
            self._retention_in_force(link)
            self._push_all(inputs, Sender(link, key, self._options["retry_for_s"], self._trouble))
            if self._options["wait"]:
                waited = wait_until_stored(
                    open_buffer(self._settings, link, key), self._options["wait_for_s"], self._trouble
                )
                self.stored, self.missing = waited.stored, waited.missing
                self.has_trouble |= not waited.stored
                if waited.dead_lettered:
                    self._trouble(f"{waited.dead_lettered} dead letters arrived meanwhile; see `pipeline dlq ls`")
        finally:
            link.close()
        return self

    def _retention_in_force(self, link: Any) -> None:
        """What the drainer refuses as too old depends on the platform's own retention, where Redis has one."""
        from pipeline.jobs.retention import retention_hours

        try:
            hours = retention_hours(link, self._settings.retention.raw_hours)
        except Outage:
            return  # sending tells it, and waits
        retention = self._settings.retention.model_copy(update={"raw_hours": hours})
        self._settings = self._settings.model_copy(update={"retention": retention})

    def _push_all(self, inputs: Sequence[Any], sender: Any) -> None:
        from pipeline.cli.progress import progress_bar

        asked = self._asked()
        self._has_several = len(inputs) > 1
        with progress_bar("pushing", quiet=self._quiet or len(inputs) < 2) as advance:
            for number, one in enumerate(inputs):
                advance(number, len(inputs))
                self._push_one(one, asked, sender)
        if not self.has_trouble and not any(told["format"] for told in self.files):
            # All were passed over. What should have written a report did not.
            self.has_trouble = True
            say("pipeline: nothing of this is a report that is known", err=True)

    def _push_one(self, one: Any, asked: Any, sender: Any) -> None:
        from pipeline.client.importers.report import ReportBroken, ReportRefused
        from pipeline.client.report_files import ReadReport, read

        result = ReadReport(one)
        refused, is_broken = "", False
        try:
            for batch in read(one, asked, result):
                if sender is not None:
                    moved = sender.send(batch)
                    result.tally.pushed += moved
                    result.tally.already_pushed += len(batch.items) - moved
        except (ReportRefused, OSError) as error:
            is_broken = not isinstance(error, ReportRefused) or isinstance(error, ReportBroken)
            refused = str(error) if isinstance(error, ReportRefused) else f"cannot be read: {error.strerror or error}"
        except Outage as error:
            is_broken, refused = True, f"Redis did not take it within {self._options['retry_for_s']:g} s: {error}"
        self._tell(result, refused, is_broken=is_broken)

    def _tell(self, result: Any, refused: str, *, is_broken: bool) -> None:
        name = result.input.name
        # In a directory many a file is no report. One that is, and cannot be read, may be all that a run left behind.
        if refused and not result.input.is_named and not is_broken and not result.tally.pushed:
            result.warnings.add(f"passed over: {refused}")
            refused = ""
        self.total.add(result.tally)
        warnings = [f"{name}: {line}" for line in result.warnings.lines()]
        troubles = [f"{name}: {line}" for line in [*result.troubles, *([refused] if refused else [])]]
        self.warnings += warnings
        self.has_trouble |= bool(troubles)
        for line in [*(f"warning: {line}" for line in warnings), *troubles]:
            say(f"pipeline: {masked(printable(line))}", err=True)
        told = {"name": name, "format": result.format, "producer": result.producer}
        self.files.append({**told, **vars(result.tally), "warnings": warnings, "troubles": troubles})
        if not self._quiet and result.format and self._has_several:
            producer = f" ({result.producer})" if result.producer not in ("", result.format) else ""
            before = ", pushed before" if result.tally.already_pushed and not result.tally.pushed else ""
            say(f"{printable(name)}: {result.format}{producer}, {_summed(result.tally)}{before}")

    def _asked(self) -> Any:
        from pipeline.client.checkout import places_in
        from pipeline.client.importers.identities import rules_of
        from pipeline.client.importers.report import Context
        from pipeline.client.importers.times import zone_named
        from pipeline.client.report_files import Asked
        from pipeline.client.run_context import detect
        from pipeline.metric import Limits

        options = self._options
        zone = zone_named(options["timezone"]) if options["timezone"] else None
        if options["timezone"] and zone is None:
            raise UsageError(f"--timezone {options['timezone']!r} is neither 'local' nor a zone such as Europe/Paris")
        environ = dict(os.environ)
        for field in ("run_id", "job", "commit", "branch"):
            if options[field]:
                environ[f"PIPELINE_{field.upper()}"] = options[field]
        limits = Limits.of(self._settings)
        root = options["root"] or str(Path.cwd())
        context = Context(
            0,
            zone,
            frozenset(options["properties"]),
            rules_of(options["identities"]),
            limits.future_ms,
            root=root,
            place_of=places_in(Path(root)),
        )
        named = {name: options[name] for name in ("test_suite", "environment", "browser")}
        return Asked(
            now_ms=time.time_ns() // 1_000_000,
            limits=limits,
            run=detect(environ),
            is_job_given=bool(environ.get("PIPELINE_JOB")),
            format=options["kind"] or "",
            defaults={name: text for name, text in named.items() if text},
            context=context,
            link=options["link"],
            nonce=secrets.token_hex(8) if options["again"] else "",
        )

    def _trouble(self, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            say(f"pipeline: {masked(printable(sentence))}; trying again", err=True)

    def last_line(self) -> str:
        """What a person believes."""
        total = self.total
        count = len(self.warnings)
        line = _summed(total) + (f", {count} warning{'s' * (count != 1)}" if count else "")
        if self._options["dry_run"]:
            return f"{line}; nothing pushed (--dry-run)"
        if total.already_pushed and not total.pushed:
            line += "; all of it was pushed before, nothing added (--again pushes it anyway; another job: --job)"
        elif total.already_pushed:
            line += f"; {total.already_pushed:,} metrics were pushed before, {total.pushed:,} added"
        if self.stored:
            return f"{line}; stored"
        if self.stored is False:
            return f"{line}; queued, {self.missing}"
        if total.pushed:
            return f"{line}; queued, not yet stored"
        return line if total.already_pushed else f"{line}; nothing queued"

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        offered = self.total.metrics + self.total.refused
        moved = self.total.pushed + self.total.already_pushed
        return {
            "offered": offered,
            **vars(self.total),
            "dropped": 0 if self._options["dry_run"] else max(0, offered - moved),
            "stored": self.stored,
            "dry_run": self._options["dry_run"],
            "warnings": self.warnings,
            "files": self.files,
        }


def _summed(tally: Any) -> str:
    """``412 executions, 3 failed, 1 flaky``; what is zero is left out, but for executions."""
    others = tally.metrics - tally.executions - tally.retried
    parts = []
    if tally.executions or not others:
        parts.append(f"{tally.executions:,} execution{'s' * (tally.executions != 1)}")
    counts = [(getattr(tally, name), name) for name in ("failed", "flaky", "skipped", "interrupted")]
    parts += [f"{count:,} {name}" for count, name in counts if count]
    if tally.retried:
        parts.append(f"{tally.retried:,} retried attempt{'s' * (tally.retried != 1)}")
    if others:
        parts.append(f"{others:,} {'other ' * bool(tally.executions)}metric{'s' * (others != 1)}")
    if tally.refused:
        parts.append(f"{tally.refused:,} refused")
    return ", ".join(parts)
