"""Alerting as the service runs it: real Redis, real store, settings, reload, and the commands."""

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.alerts import commands
from pipeline.alerts.alerting import Alerting
from pipeline.alerts.commands import end_silence, list_alerts, list_silences, silence
from pipeline.alerts.rules.rule import MINUTE_MS
from pipeline.analyse.windows import roll_up, stamp
from pipeline.base import config
from pipeline.base.clock import ManualClock
from pipeline.base.errors import ConfigError, RuleError, StoreOutage, UsageError
from pipeline.base.redis_link import RedisLink
from pipeline.store.client import Store

from .test_channels import http
from .test_views import T0, raw

RULES = """
rules:
  - {name: slow, metric: duration, statistic: avg, by: [test_suite, test_name], above: 3000, clears_at: 2700, for: 1m,
     min_samples: 5, message: "{test_name}: {value:.0f} ms"}
  - {name: full, fact: redis_memory_pct, above: 90, severity: critical}
"""


class Place:
    """Settings, stores and a clock of one test."""

    def __init__(self, settings: config.Settings, store: Store, redis_url: str, tmp_path: Path, hook: str) -> None:
        self.rules = tmp_path / "rules.yaml"
        self.rules.write_text(RULES)
        channels = [{"name": "hook", "kind": "webhook", "url": hook, "group_wait": 0, "group_interval": "1m"}]
        changed: dict[str, Any] = {
            "redis": config.RedisSettings(url=redis_url),
            "alerts": config.AlertSettings(rules_file=str(self.rules), channels=channels, page_url="https://page/"),
        }
        self.settings = settings.model_copy(update=changed)
        self.store = store
        self.link = RedisLink.open(self.settings)
        self.clock = ManualClock(T0)

    def alerting(self) -> Alerting:
        """A new process, so to say."""
        return Alerting(self.settings, self.store, self.link, clock=self.clock)

    def at(self, minute: int) -> None:
        """When the windows until this minute are due."""
        self.clock.set_ms(T0 + minute * MINUTE_MS + 10_000)


@pytest.fixture
def place(settings: config.Settings, store: Store, _redis_servers: Any, tmp_path: Path) -> Any:
    """A slow login test from minute 2 to 5, stored as windows; a recording receiver."""
    url = _redis_servers("6.2")
    with redis.Redis.from_url(url) as client:
        client.flushall()
    rows = [
        {"minute": m, "value": 4500 + i if 2 <= m < 5 else 2300 + i, "test_suite": "auth", "test_name": "login-flow"}
        for m in range(9)
        for i in range(20)
    ]
    store.insert("metrics_1min", stamp(roll_up(raw(rows), 60), T0, 120))
    with http() as (hook, received):
        made = Place(settings, store, url, tmp_path, hook)
        made.received = received  # type: ignore[attr-defined]
        yield made
        made.link.close()


def test_a_regression_is_told_everywhere_and_resolved(place: Any) -> None:
    """From stored windows to the table, Redis's list and a webhook; the document's keys first, then the evidence."""
    alerting = place.alerting()
    for minute in range(1, 9):
        place.at(minute)
        alerting.run_once({})
        for worker in alerting.notifier.workers:
            worker.turn(place.clock.now_ms())
    client = place.link.database("metrics")
    resolved, fired = (json.loads(entry) for entry in client.lrange("alerts:performance", 0, -1))
    assert list(fired.items())[:5] == [
        ("type", "slow"),
        ("test", "login-flow"),
        ("threshold", 3000.0),
        ("actual", 4509.5),
        ("timestamp", "2050-01-01T00:04:00Z"),
    ]
    assert fired["samples"] == 20
    assert 4480 < fired["low"] < fired["actual"] < fired["high"] < 4540
    assert fired["link"] == f"https://page/alerts/{fired['alert_id']}"
    assert fired["message"] == "login-flow: 4510 ms"
    assert (resolved["state"], resolved["timestamp"]) == ("resolved", "2050-01-01T00:06:00Z")
    states = place.store.rows("SELECT to_state, labels['test_name'] FROM alerts ORDER BY at")
    assert states == [("firing", "login-flow"), ("resolved", "login-flow")]
    bodies = [body for _, body in place.received]
    assert [(body["state"], body["alerts"][0]["transition_id"]) for body in bodies] == [
        ("firing", fired["transition_id"]),
        ("resolved", resolved["transition_id"]),
    ]
    assert bodies[0]["alerts"][0] == fired
    assert alerting.figures()["hook"] == {"sent": 2, "failed": 0, "last_error": ""}


def test_alerts_ls_shows_what_is_not_inactive(place: Any) -> None:
    """Pending and firing alerts with their labels, values and times; resolved ones when asked."""
    alerting = place.alerting()
    seen = {}
    for minute in range(1, 8):
        place.at(minute)
        alerting.run_once({"redis_memory_pct": 95.0})
        seen[minute] = [(one["rule"], one["state"]) for one in list_alerts(place.settings, place.link)]
    assert seen[2] == [("full", "firing")]
    assert seen[3] == [("full", "firing"), ("slow", "pending")]
    assert seen[4] == [("full", "firing"), ("slow", "firing")]
    (full,) = list_alerts(place.settings, place.link)
    assert (full["severity"], full["value"], full["threshold"]) == ("critical", 95.0, 90.0)
    (over,) = list_alerts(place.settings, place.link, states=["resolved"])
    assert (over["labels"], over["resolved_at"]) == (
        {"test_suite": "auth", "test_name": "login-flow"},
        "2050-01-01T00:06:00Z",
    )


def test_a_silenced_alert_is_judged_but_not_told(place: Any) -> None:
    """`alerts silence` holds notifications back; table and Redis have the alert all the same."""
    made = silence(place.settings, place.link, ["rule=slow"], 3_600_000, comment="known", clock=place.clock)
    alerting = place.alerting()
    for minute in range(1, 9):
        place.at(minute)
        alerting.run_once({})
        alerting.notifier.workers[0].turn(place.clock.now_ms())
    assert place.received == []
    assert place.store.rows("SELECT count() FROM alerts") == [(2,)]
    assert [one.id for one in list_silences(place.settings, place.link, place.clock)] == [made.id]
    assert end_silence(place.settings, place.link, made.id)


def test_a_bad_reload_keeps_the_old_rules(place: Any) -> None:
    """Rules that make no sense are refused with their line, and the service goes on with the ones it has."""
    alerting = place.alerting()
    place.rules.write_text(RULES.replace("above: 3000", "abov: 3000"))
    with pytest.raises(RuleError, match=r"rules\.yaml:3: .*did you mean 'above'"):
        alerting.reload()
    assert [rule.name for rule in alerting.evaluator.rules] == ["slow", "full"]
    place.rules.write_text(RULES.replace("name: slow", "name: slower"))
    alerting.reload()
    assert [rule.name for rule in alerting.evaluator.rules] == ["slower", "full"]
    with pytest.raises(RuleError):
        place.rules.write_text("rules: 5")
        place.alerting()


def test_a_reload_takes_over_what_it_can_and_names_it(place: Any, tmp_path: Path) -> None:
    """Another rules_file, delay, page and other channels count from the next run; what was told goes to them."""
    alerting = place.alerting()
    other = tmp_path / "other.yaml"
    other.write_text(RULES.replace("name: full", "name: fuller"))
    alerts = place.settings.alerts.model_copy(
        update={"rules_file": str(other), "channels": [{**place.settings.alerts.channels[0], "name": "second"}]}
    )
    changed = place.settings.model_copy(update={"alerts": alerts})
    assert alerting.reload(changed) == ["alert rules", "alerts.rules_file", "alerts.channels"]
    assert [rule.name for rule in alerting.evaluator.rules] == ["slow", "fuller"]
    place.at(1)
    alerting.run_once({"redis_memory_pct": 99.0})
    for worker in alerting.notifier.workers:
        worker.turn(place.clock.now_ms())
    assert [body["channel"] for _, body in place.received] == ["second"]
    broken = alerts.model_copy(update={"channels": [{"name": "x", "kind": "fax"}]})
    with pytest.raises(ConfigError):
        alerting.reload(place.settings.model_copy(update={"alerts": broken}))
    assert [worker.channel.name for worker in alerting.notifier.workers] == ["second"]


def test_maintenance_of_an_environment_mutes_its_alerts(place: Any) -> None:
    """While it lasts nothing about that environment is told; the table has it all the same, and the list shows it."""
    by_environment = RULES.replace("by: [test_suite, test_name]", "by: [environment]").replace("{test_name}: ", "")
    place.rules.write_text(by_environment)
    window = {"scheduled": True, "start": "2049-12-31T00:00:00Z", "end": "2050-01-02T00:00:00Z", "reason": "move"}
    place.link.database("environment").set("maintenance:staging", json.dumps(window))
    rows = [
        {"minute": m, "value": 4500 + i, "environment": "staging", "test_suite": "m"}
        for m in range(6)
        for i in range(20)
    ]
    place.store.insert("metrics_1min", stamp(roll_up(raw(rows), 60), T0, 120))
    alerting = place.alerting()
    for minute in range(1, 5):
        place.at(minute)
        alerting.run_once({})
        alerting.notifier.workers[0].turn(place.clock.now_ms())
    fired = place.store.rows("SELECT labels['environment'] FROM alerts WHERE to_state = 'firing' ORDER BY 1")
    assert ("staging",) in fired
    told = {alert["labels"].get("environment", "") for _, body in place.received for alert in body["alerts"]}
    assert "staging" not in told
    assert [one.environment for one in commands.list_maintenance(place.link, place.clock)] == ["staging"]


def test_an_outage_of_clickhouse_is_alarmed_and_made_good(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While ClickHouse is away facts are judged and told in Redis; afterwards everything stands in the table."""
    alerting = place.alerting()
    place.at(1)
    alerting.run_once({})

    def away(*_: Any) -> Any:
        raise StoreOutage("away")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "query", away)
        place.at(2)
        with pytest.raises(StoreOutage):
            alerting.run_once({"redis_memory_pct": 99.0})
        assert place.link.database("metrics").llen("alerts:performance") == 1
    place.at(5)
    report = alerting.run_once({"redis_memory_pct": 99.0})
    assert report.evaluation.ticks == 4 + 1
    assert place.store.rows("SELECT rule FROM alerts ORDER BY rule") == [("full",), ("slow",)]


def test_a_channel_can_be_tried(place: Any) -> None:
    """`alerts test` sends a notification that says that it is a test; an unknown channel gets the nearest name."""
    commands.test_channel(place.settings, "hook")
    ((_, body),) = place.received
    assert "nothing is wrong" in body["alerts"][0]["message"]
    with pytest.raises(UsageError, match="did you mean 'hook'"):
        commands.test_channel(place.settings, "hok")


def test_channels_that_make_no_sense_stop_the_start(place: Any) -> None:
    """A mistake in alerts.channels is told at the start, not when the first alert fires."""
    alerts = place.settings.alerts.model_copy(update={"channels": [{"name": "x", "kind": "fax"}]})
    with pytest.raises(ConfigError, match=r"alerts\.channels\.x\.kind"):
        Alerting(place.settings.model_copy(update={"alerts": alerts}), place.store, place.link)
