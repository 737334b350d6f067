"""Keys of the alerts that another program overwrote: one sentence, and what does not depend on them goes on."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from pipeline.alerts import commands
from pipeline.alerts.alerting import Alerting
from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.silences import QuietTimes, Silences
from pipeline.alerts.rules.matchers import Matcher
from pipeline.base import config
from pipeline.base.errors import KeyDamaged, RedisOutage
from pipeline.base.redis_link import RedisLink
from pipeline.store.client import Store

RULES = """
rules:
  - {name: full, fact: redis_memory_pct, above: 90, severity: critical}
"""
KEYS = AlertKeys("pipeline")
HOOK = [{"name": "hook", "kind": "webhook", "url": "http://127.0.0.1:1/"}]


@pytest.fixture
def settings(make_settings: Callable[..., config.Settings], redis_url: str, tmp_path: Path) -> config.Settings:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    return make_settings(redis={"url": redis_url}, alerts={"rules_file": str(rules), "channels": HOOK})


def overwrite(client: redis.Redis, key: str) -> None:
    """A set: nothing of the alerts is one."""
    client.delete(key)
    client.sadd(key, "x")


@pytest.mark.parametrize(
    ("key", "stored"),
    [
        (KEYS.state, 0),
        (KEYS.commits, 0),
        (KEYS.table_outbox, 0),
        (KEYS.redis_outbox, 0),
        (KEYS.pending("hook"), 0),
        ("alerts:performance", 1),
    ],
)
def test_a_key_of_another_type_is_named_and_nothing_is_half_done(
    settings: config.Settings, store: Store, key: str, stored: int
) -> None:
    """The sentence names key, type and fix; no state without its notices; once the key is gone, the alert is told."""
    link = RedisLink.open(settings)
    client = link.database("metrics")
    alerting = Alerting(settings, store, link)
    overwrite(client, key)
    with pytest.raises(
        KeyDamaged, match=rf"{key.replace('{', '.').replace('}', '.')} holds a set instead of a \w+.*RENAME"
    ):
        alerting.run_once({"redis_memory_pct": 95.0})
    assert store.rows("SELECT count() FROM alerts") == [(stored,)]
    if key != KEYS.state:
        assert client.hlen(KEYS.state) == (2 if stored else 0)
    client.delete(key)
    Alerting(settings, store, link).run_once({"redis_memory_pct": 95.0})
    assert store.rows("SELECT count() FROM alerts") == [(1,)]
    assert client.llen("alerts:performance") == 1
    link.close()


def test_junk_in_an_outbox_is_passed_over(settings: config.Settings, store: Store) -> None:
    """Elements that are no row and no entry leave the outboxes, said; the rows around them arrive."""
    link = RedisLink.open(settings)
    client = link.database("metrics")
    for junk in ("", "no json", "[" * 100_000, "[]", "{}", '{"transition_id": 1}', "\x00\xff"):
        client.rpush(KEYS.table_outbox, junk)
        client.rpush(KEYS.redis_outbox, junk)
    client.hset(KEYS.state, "rule:full", json.dumps({"tick_ms": 0, "by": [], "rule": {}, "held_in": "x", "pieces": 1}))
    client.set(KEYS.held("x"), "a string where a list should be")
    Alerting(settings, store, link).run_once({"redis_memory_pct": 95.0})
    assert store.rows("SELECT count() FROM alerts") == [(1,)]
    assert (client.llen(KEYS.table_outbox), client.llen(KEYS.redis_outbox)) == (0, 0)
    assert client.llen("alerts:performance") == 1
    link.close()


def test_commands_and_channels_say_it(settings: config.Settings, caplog: pytest.LogCaptureFixture) -> None:
    """``alerts ls`` and ``alerts silence`` are refused in one sentence; channels go on, and nothing is silenced."""
    link = RedisLink.open(settings)
    client = link.database("metrics")
    overwrite(client, KEYS.state)
    overwrite(client, KEYS.silences)
    for ask in (
        lambda: commands.list_alerts(settings, link),
        lambda: commands.list_silences(settings, link),
        lambda: commands.silence(settings, link, ["a=b"], 1000),
        lambda: commands.end_silence(settings, link, "x"),
    ):
        with pytest.raises(RedisOutage, match="holds a set instead of a hash"):
            ask()
    assert QuietTimes(Silences(client, KEYS)).active(0) == []
    assert "no alert is silenced" in caplog.text
    link.close()


def test_no_expression_makes_matching_explode() -> None:
    """A nested repetition over a long value takes milliseconds, where a backtracking matcher would never end."""
    began_s = time.process_time()
    for expression in ("(a+)+b", "(a|a)*b", "(a|aa)+$b", "(.*a){20}b"):
        assert not Matcher.parse(f"test_suite=~{expression}").matches({"test_suite": "a" * 5000})
    assert time.process_time() - began_s < 30
    for expression, why in (
        ("(?!x)", "no look-around"),
        ("(a", "missing"),
        ("a)|(b", "unexpected"),
        (r"(a)\1", "escape"),
    ):
        with pytest.raises(ValueError, match=why):
            Matcher.parse(f"test_suite=~{expression}")
    with pytest.raises(ValueError, match="at most 1000 characters"):
        Matcher.parse("a=" + " " * 2000)
    assert Matcher.parse("suite=~auth|cart.*").matches({"suite": "cart-2"})
    assert not Matcher.parse("suite=~auth").matches({"suite": "auth-2"})
