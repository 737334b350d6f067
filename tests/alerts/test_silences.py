"""Silences, mute times and matchers."""

from datetime import UTC, datetime

import pytest
import redis

from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.silences import MuteTime, Silences
from pipeline.alerts.rules.matchers import Matcher
from pipeline.base.errors import UsageError

LABELS = {"rule": "slow", "severity": "critical", "test_suite": "auth-eu"}


def ms(text: str) -> int:
    """Epoch milliseconds of a UTC time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("severity=critical", True),
        ("severity = critical", True),
        ('severity="critical"', True),
        ("severity=crit", False),
        ("severity!=critical", False),
        ("test_suite=~auth-.*", True),
        ("test_suite=~auth", False),
        ("test_suite!~auth", True),
        ("page=", True),
        ("page!=", False),
        ("page=~.+", False),
    ],
)
def test_matchers_read_as_alertmanagers(text: str, matches: bool) -> None:
    """=, !=, =~ and !~; expressions match the whole value, an absent label is empty."""
    assert Matcher.parse(text).matches(LABELS) == matches


@pytest.mark.parametrize("text", ["severity", "=critical", "a b=c", "severity=~(", "1a=b"])
def test_what_is_no_matcher(text: str) -> None:
    """What cannot be read is refused, expressions included."""
    with pytest.raises(ValueError):
        Matcher.parse(text)


def test_a_silence_covers_what_all_its_matchers_describe_until_it_ends(client: redis.Redis) -> None:
    """It holds back exactly those labels, from now until its end, and can be ended before."""
    kept = Silences(client, AlertKeys("b"))
    silence = kept.add(["rule=slow", "test_suite=~auth.*"], 1000, 5000, "deploying", "ann")
    assert kept.active(1000) == [silence]
    assert [silence.covers(LABELS, at) for at in (999, 1000, 4999, 5000)] == [False, True, True, False]
    assert not silence.covers({**LABELS, "rule": "other"}, 2000)
    assert kept.active(5000) == []
    assert kept.end(silence.id)
    assert not kept.end(silence.id)
    assert silence.shown()["ends_at"] == "1970-01-01T00:00:05Z"


def test_old_silences_are_forgotten(client: redis.Redis) -> None:
    """A day after its end a silence leaves Redis."""
    kept = Silences(client, AlertKeys("b"))
    kept.add(["rule=slow"], 0, 1000)
    kept.active(1000 + 86_400_000)
    assert client.hlen(AlertKeys("b").silences) == 1
    kept.active(1001 + 86_400_000)
    assert client.hlen(AlertKeys("b").silences) == 0


JUNK = (
    *("[]", "7", "{}", "no json", '{"matchers": 5, "starts_ms": 0, "ends_ms": 9e15}', "[" * 100_000),
    *(
        '{"matchers": ["a=b"], "starts_ms": "a", "ends_ms": "b"}',
        '{"matchers": ["a=b"], "starts_ms": [1], "ends_ms": [2]}',
    ),
    *('{"matchers": ["a=b"], "starts_ms": 0, "ends_ms": 1e400}', '{"matchers": ["a=b"], "starts_ms": 9, "ends_ms": 8}'),
    '{"matchers": [], "starts_ms": 0, "ends_ms": 9000000000000000}',
)


@pytest.mark.parametrize("junk", JUNK)
def test_junk_among_the_silences_silences_nothing(client: redis.Redis, junk: str) -> None:
    """Another program wrote into our hash: what is no silence is passed over, and those beside it hold."""
    kept = Silences(client, AlertKeys("b"))
    silence = kept.add(["rule=slow"], 1000, 5000)
    client.hset(AlertKeys("b").silences, "junk", junk)
    assert kept.active(2000) == [silence]


def test_a_silence_of_centuries_is_a_slip(client: redis.Redis) -> None:
    """It is refused in a sentence, instead of ending at a time that no calendar has."""
    with pytest.raises(UsageError, match=r"^a silence lasts at most 3660d$"):
        Silences(client, AlertKeys("b")).add(["rule=slow"], 0, 99_999_999 * 86_400_000)


def test_silences_that_make_no_sense_are_refused(client: redis.Redis) -> None:
    """No matcher, a bad one, or an end in the past is a sentence."""
    kept = Silences(client, AlertKeys("b"))
    for matchers, until in (([], 10), (["x"], 10), (["a=b"], 0)):
        with pytest.raises(UsageError):
            kept.add(matchers, 0, until)


# 2025-01-11 is a Saturday.
@pytest.mark.parametrize(
    ("spec", "muted", "heard"),
    [
        ("Sat-Sun", ["2025-01-11T00:00", "2025-01-12T23:59"], ["2025-01-10T23:59", "2025-01-13T00:00"]),
        ("sun", ["2025-01-12T12:00"], ["2025-01-11T12:00", "2025-01-13T00:00"]),
        ("22:00-06:00", ["2025-01-08T22:00", "2025-01-09T05:59"], ["2025-01-08T21:59", "2025-01-09T06:00"]),
        (
            "Mon-Fri 18:00-08:00",
            ["2025-01-10T18:00", "2025-01-11T07:59", "2025-01-07T03:00"],
            ["2025-01-11T08:00", "2025-01-13T07:59", "2025-01-13T17:59"],
        ),
        ("Sun 23:00-01:00", ["2025-01-12T23:30", "2025-01-13T00:59"], ["2025-01-13T01:00", "2025-01-12T00:30"]),
        ("Fri-Mon 12:00-13:00", ["2025-01-10T12:30", "2025-01-13T12:30"], ["2025-01-14T12:30", "2025-01-10T13:00"]),
        ("Tue 00:00-24:00", ["2025-01-07T00:00", "2025-01-07T23:59"], ["2025-01-08T00:00"]),
    ],
)
def test_mute_times_are_hours_of_the_week_in_utc(spec: str, muted: list[str], heard: list[str]) -> None:
    """Days, hours, hours over midnight, weeks over Sunday."""
    mute = MuteTime.parse(spec)
    assert [mute.covers(ms(at)) for at in muted] == [True] * len(muted)
    assert [mute.covers(ms(at)) for at in heard] == [False] * len(heard)


@pytest.mark.parametrize("spec", ["", "Someday", "25:00-26:00", "10:00", "Mon-Xyz", "8-9", "10:99-11:00"])
def test_what_is_no_mute_time(spec: str) -> None:
    """What cannot be read is refused with an example of what can."""
    with pytest.raises(ValueError):
        MuteTime.parse(spec)
