"""The evaluator: judges every rule at every tick that is due, once, and has it told.

Ticks are multiples of a rule's ``every`` in the time of the data. A tick is judged when the windows
before it are stored: ``alerts.delay_s`` after it, and not before the rollup job says that
it came so far. After an absence the ticks in between are judged one after the other on what is
stored, at most ``MAX_CATCH_UP_MS`` back; what lies before that counts as time away.

Facts have no past. They are judged as they are, before anything is read from ClickHouse, so that
an outage of ClickHouse is itself alarmed.

``late: reevaluate`` makes a rule judge the last ``LATE_MS`` again at each tick. Where late data
changed who is firing at the tick before, that is corrected by one transition that says so;
``late: ignore``, the default, judges every tick once, on what was stored then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from msgspec import structs

from pipeline.alerts.journal.journal import Committed, Journal, StaleJournal
from pipeline.alerts.journal.rule_state import RuleState
from pipeline.alerts.judge.evaluation import Alerts, Transition, judge, judge_tick, ticks, transition, withdraw
from pipeline.alerts.judge.evidence import Account, iso
from pipeline.alerts.judge.facts import Facts
from pipeline.alerts.judge.frames import LabelValues
from pipeline.alerts.judge.sources import Source, SourceBatch
from pipeline.alerts.judge.state import Alert, Change, Observation, State, Verdict, restore, rewound
from pipeline.alerts.rules.rule import MINUTE_MS, Rule, Subject
from pipeline.base import log
from pipeline.base.errors import RedisOutage

_log = log.get(__name__)

CHUNK_MS = 30 * MINUTE_MS
"""Catching up reads and commits this much at a time."""
MAX_CATCH_UP_MS = 6 * 60 * MINUTE_MS
CLOCK_TOLERANCE_MS = 1000
"""A watermark further ahead of the clock than this was written by a clock that was wrong."""
LATE_MS = 15 * MINUTE_MS
"""How far back ``late: reevaluate`` looks: as long as a resolved alert is remembered."""

CompleteUntil = Mapping[Subject, int]
"""Up to which end of a window (epoch milliseconds) each kind of number is complete."""


@dataclass
class EvaluationReport:
    """What one turn did."""

    ticks: int = 0
    transitions: list[Transition] = field(default_factory=list)
    pending: int = 0
    firing: int = 0
    rewound: list[str] = field(default_factory=list)
    """Rules that had been judged by a clock that was ahead, and are judged by the right one again."""


class Evaluator:
    """Judges rules; all it must remember stands in the journal.

    Not thread-safe. Two evaluators over one journal do no harm: the slower one's commit is refused.
    """

    def __init__(
        self,
        journal: Journal,
        rules: Sequence[Rule],
        source: Source,
        *,
        delay_ms: int,
        page_url: str = "",
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self.rules = tuple(rules)
        self._journal = journal
        self._source = source
        self._delay_ms = delay_ms
        self._page_url = page_url.rstrip("/")
        self._on_commit = on_commit
        self._committed: Committed | None = None

    def run(self, now_ms: int, facts: Facts, complete_until: CompleteUntil | None = None) -> EvaluationReport:
        """Judge what is due at ``now_ms`` and commit it; ``on_commit`` is called after each commit.

        Raises ``StoreOutage`` or ``RedisOutage``: what was committed stays, the rest is due again.
        """
        report = EvaluationReport()
        try:
            self._journal.hand_out()  # what a process committed that died before it was done
            committed = self._committed = self._committed or self._journal.load()
            self._rewind(committed, now_ms, report)
            self._withdraw_unknown(committed, now_ms, report)
            self._judge_facts(committed, now_ms, facts, report)
            while self._judge_windows(committed, now_ms, complete_until or {}, report):
                pass
        except (RedisOutage, StaleJournal) as error:
            # Perhaps written, perhaps by another process: what stands there is the truth.
            self._committed = None
            if isinstance(error, RedisOutage):
                raise
            _log.info("alerts already evaluated by another process")
        if self._committed is not None:
            alerts = [alert for state in self._committed.states.values() for alert in state.alerts.values()]
            report.pending = sum(alert.state is State.PENDING for alert in alerts)
            report.firing = sum(alert.state is State.FIRING for alert in alerts)
        return report

    def reload(self, rules: Sequence[Rule], *, delay_ms: int | None = None, page_url: str | None = None) -> None:
        """Judge by other rules from the next turn on; alerts keep their times where rule and ``by`` stay."""
        self.rules = tuple(rules)
        self._delay_ms = self._delay_ms if delay_ms is None else delay_ms
        self._page_url = self._page_url if page_url is None else page_url.rstrip("/")

    # Rules that are gone

    def _withdraw_unknown(self, committed: Committed, now_ms: int, report: EvaluationReport) -> None:
        known = {rule.name: rule for rule in self.rules}
        changed: dict[str, RuleState | None] = {}
        found: list[Transition] = []
        for name, state in committed.states.items():
            rule = known.get(name)
            if rule is not None and (rule.by == state.by or state.tick_ms is None):
                continue
            if rule is None or state.tick_ms is None:
                at_ms, reason = now_ms, "its rule was removed from the rules"
                changed[name] = None
            else:
                # Right after the last tick: the alerts of the new labels begin at the next one, not before.
                at_ms, reason = (
                    state.tick_ms + 1,
                    f"its rule has other labels now: by {', '.join(rule.by) or 'nothing'}",
                )
                changed[name] = RuleState(state.tick_ms, rule.by, rule=_remembered(rule))
            gone = [
                withdraw(_as_it_was(name, state), dict(state.alerts), labels, at_ms, reason) for labels in state.alerts
            ]
            found += [resolved for resolved in gone if resolved is not None]
        if changed:
            self._commit(committed, changed, found, now_ms, report)

    # Clocks

    def _rewind(self, committed: Committed, now_ms: int, report: EvaluationReport) -> None:
        """A rule judged up to a time that is still to come is judged from now on: the clock had been ahead."""
        for rule in self.rules:
            state = committed.states.get(rule.name)
            if state is None or state.tick_ms is None or state.tick_ms <= now_ms + CLOCK_TOLERANCE_MS:
                continue
            due_ms = now_ms if rule.subject == "facts" else now_ms - self._delay_ms
            tick_ms = due_ms - due_ms % rule.every_ms - rule.every_ms
            ahead_ms = state.tick_ms - tick_ms
            _log.warning(
                "alert watermark in the future, rewound",
                rule=rule.name,
                watermark=iso(state.tick_ms),
                now=iso(now_ms),
                ahead_s=round((state.tick_ms - now_ms) / 1000, 1),
            )
            alerts = {labels: rewound(alert, ahead_ms, now_ms) for labels, alert in state.alerts.items()}
            # The key of the list that holds the old alerts stays known, so that the next commit drops it.
            committed.states[rule.name] = replace(
                state, tick_ms=tick_ms, alerts=alerts, base_tick_ms=None, base_alerts={}
            )
            report.rewound.append(rule.name)

    # Facts

    def _judge_facts(self, committed: Committed, now_ms: int, facts: Facts, report: EvaluationReport) -> None:
        changed: dict[str, RuleState | None] = {}
        found: list[Transition] = []
        for rule in self.rules:
            tick_ms = now_ms - now_ms % rule.every_ms
            state = committed.states.get(rule.name) or RuleState()
            if rule.subject != "facts" or (state.tick_ms is not None and tick_ms <= state.tick_ms):
                continue
            alerts = dict(state.alerts)
            if state.tick_ms is not None and tick_ms - state.tick_ms > 2 * rule.every_ms + MINUTE_MS:
                alerts = _restored(rule, alerts, state.tick_ms, tick_ms)
            view = SourceBatch(self._source, [], tick_ms, tick_ms, facts).view_at(rule)(tick_ms)
            found += judge_tick(rule, tick_ms, view, alerts, self._page_url)
            changed[rule.name] = RuleState(tick_ms, rule.by, alerts, rule=_remembered(rule))
            report.ticks += 1
        if changed:
            self._commit(committed, changed, found, now_ms, report)

    # Windows, baselines, change points

    def _judge_windows(
        self, committed: Committed, now_ms: int, complete_until: CompleteUntil, report: EvaluationReport
    ) -> bool:
        """Judge at most ``CHUNK_MS`` of ticks of all rules; whether there is more to do."""
        due = [due for rule in self.rules if (due := self._due(committed, rule, now_ms, complete_until)) is not None]
        if not due:
            return False
        chunk_end_ms = min(one.ticks[0] for one in due) + CHUNK_MS
        now_due = [one.until(chunk_end_ms) for one in due if one.ticks[0] <= chunk_end_ms]
        first_ms = min(one.from_ms for one in now_due)
        last_ms = max(one.ticks[-1] for one in now_due)
        batch = SourceBatch(self._source, [one.rule for one in now_due], first_ms, last_ms, {})
        changed: dict[str, RuleState | None] = {}
        found: list[Transition] = []
        for one in now_due:
            state, transitions = self._judge_rule(one, batch)
            changed[one.rule.name] = state
            found += transitions
            report.ticks += len(one.ticks)
        found.sort(key=lambda transition: transition.at_ms)
        self._commit(committed, changed, found, now_ms, report)
        return True

    def _due(self, committed: Committed, rule: Rule, now_ms: int, complete_until: CompleteUntil) -> _Due | None:
        if rule.subject == "facts":
            return None
        complete_ms = complete_until.get(rule.subject, now_ms)
        if rule.subject == "baselines":  # means are read from windows
            complete_ms = min(complete_ms, complete_until.get("windows", now_ms))
        until_ms = min(now_ms - self._delay_ms, complete_ms)
        until_ms -= until_ms % rule.every_ms
        if until_ms <= 0:
            return None
        state = committed.states.get(rule.name) or RuleState()
        if state.tick_ms is None:
            # A rule begins with the newest tick: what happened before it is not alerted.
            return _Due(rule, RuleState(), until_ms - rule.every_ms, until_ms)
        if until_ms <= state.tick_ms:
            return None
        oldest_ms = until_ms - MAX_CATCH_UP_MS
        if state.tick_ms < oldest_ms:
            first_ms = ticks(rule, oldest_ms, until_ms)[0]
            alerts = _restored(rule, state.alerts, state.tick_ms, first_ms)
            return _Due(rule, RuleState(oldest_ms, rule.by, alerts), oldest_ms, until_ms)
        return _Due(rule, state, state.tick_ms, until_ms)

    def _judge_rule(self, one: _Due, batch: SourceBatch) -> tuple[RuleState, list[Transition]]:
        rule, view_at = one.rule, batch.view_at(one.rule)
        last_ms = one.ticks[-1]
        if rule.late == "ignore":
            alerts = dict(one.state.alerts)
            found = judge(rule, one.ticks, view_at, alerts, self._page_url)
            return RuleState(last_ms, rule.by, alerts, rule=_remembered(rule)), found
        alerts = dict(one.state.base_alerts if one.state.base_tick_ms is not None else one.state.alerts)
        base_tick_ms, base_alerts = one.from_ms, dict(alerts)
        found = []
        for tick_ms in ticks(rule, one.from_ms, last_ms):
            judged = judge_tick(rule, tick_ms, view_at(tick_ms), alerts, self._page_url)
            if tick_ms > one.after_ms:
                found += judged
            elif tick_ms == one.after_ms:
                found += self._corrections(rule, tick_ms, one.state.alerts, alerts)
            if tick_ms <= last_ms - LATE_MS:
                base_tick_ms, base_alerts = tick_ms, dict(alerts)
        return RuleState(last_ms, rule.by, alerts, base_tick_ms, base_alerts, _remembered(rule)), found

    def _corrections(self, rule: Rule, tick_ms: int, told: Alerts, now: Alerts) -> list[Transition]:
        """Tell where data that came late changed who is firing: one transition, dated at the tick it is about."""
        found = []
        for labels in sorted({*told, *now}):
            was, is_ = told.get(labels), now.get(labels)
            was_firing = was is not None and was.state is State.FIRING
            if was_firing == (is_ is not None and is_.state is State.FIRING):
                continue
            change = (
                Change(State.FIRING, State.RESOLVED, Verdict.CLEAR)
                if was_firing
                else Change(was.state if was else State.INACTIVE, State.FIRING, Verdict.HELD)
            )
            found.append(self._correction(rule, labels, was if was_firing else is_, change, tick_ms))
        return found

    def _correction(
        self, rule: Rule, labels: LabelValues, alert: Alert | None, change: Change, tick_ms: int
    ) -> Transition:
        assert alert is not None  # one of the two was firing
        if change.after is State.RESOLVED:
            alert = structs.replace(alert, state=State.RESOLVED, resolved_at_ms=tick_ms)
        now = "not beyond its threshold" if change.after is State.RESOLVED else "beyond its threshold"
        reason = f"late data changed the verdict: at {iso(tick_ms)} it was {now}"
        observation = None if alert.value is None else Observation(alert.value, 0)
        return transition(Account(rule, tick_ms), labels, alert, change, observation, {}, self._page_url, reason=reason)

    # Writing down

    def _commit(
        self,
        committed: Committed,
        changed: Mapping[str, RuleState | None],
        found: Sequence[Transition],
        now_ms: int,
        report: EvaluationReport,
    ) -> None:
        self._journal.commit(committed, changed, found, now_ms)
        for one in found:
            _log.info(
                f"alert {one.from_state.upper()} => {one.to_state.upper()}",
                rule=one.rule,
                labels=dict(one.labels),
                severity=one.severity,
                reason=one.reason,
                at_ms=one.at_ms,
                alert_id=one.alert_id,
            )
        report.transitions += found
        self._on_commit()


@dataclass(frozen=True)
class _Due:
    """The ticks of one rule in (after, until], and the state before them."""

    rule: Rule
    state: RuleState
    after_ms: int
    until_ms: int

    @property
    def ticks(self) -> Sequence[int]:
        return ticks(self.rule, self.after_ms, self.until_ms)

    @property
    def from_ms(self) -> int:
        """The tick after which judging begins: earlier than ``after_ms`` where late data are judged again."""
        base_ms = self.state.base_tick_ms
        return self.after_ms if self.rule.late == "ignore" or base_ms is None else base_ms

    def until(self, end_ms: int) -> _Due:
        """The same, but no further than ``end_ms``."""
        return replace(self, until_ms=min(self.until_ms, end_ms))


def _restored(rule: Rule, alerts: Alerts, evaluated_ms: int, now_ms: int) -> Alerts:
    back = {labels: restore(alert, evaluated_ms, now_ms, rule) for labels, alert in alerts.items()}
    return {labels: alert for labels, alert in back.items() if alert is not None}


_REMEMBERED = (
    "threshold",
    "direction",
    "clears_at",
    "metrics",
    "fact",
    "statistic",
    "severity",
    "type",
    "labels",
    "unit",
)


def _remembered(rule: Rule) -> dict[str, object]:
    """What ``_withdraw_unknown`` needs when the rule stands in no file any more."""
    return {name: getattr(rule, name) for name in _REMEMBERED}


def _as_it_was(name: str, state: RuleState) -> Rule:
    known = {key: value for key, value in state.rule.items() if key in _REMEMBERED}
    return Rule(name=name, by=state.by, **{"threshold": 0.0, **known})
