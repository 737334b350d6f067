"""Maintenance windows of the platform hold alerts of their environment back."""

import json

import pytest
import redis

from pipeline.alerts.journal.maintenance import MaintenanceWindows
from pipeline.alerts.journal.silences import QuietTimes, Silences, is_quiet

from .conftest import KEYS

EXAMPLE = """{
  "scheduled": true,
  "start": "2025-01-12T02:00:00Z",
  "end": "2025-01-12T04:00:00Z",
  "reason": "Database maintenance"
}"""
TWO, THREE, FOUR = (1_736_640_000_000 + hour * 3_600_000 for hour in (2, 3, 4))


def test_the_documents_window_mutes_its_environment(client: redis.Redis) -> None:
    """From its start until its end, alerts labelled with that environment are held back, and no others."""
    client.set("maintenance:staging", EXAMPLE, ex=86_400)
    quiet = QuietTimes(Silences(client, KEYS), MaintenanceWindows(client))
    (window,) = MaintenanceWindows(client).listed(THREE)
    assert window.shown() == {
        "environment": "staging",
        "starts_at": "2025-01-12T02:00:00.000Z",
        "ends_at": "2025-01-12T04:00:00.000Z",
        "reason": "Database maintenance",
    }
    for labels, now_ms, expected in (
        ({"environment": "staging"}, TWO, True),
        ({"environment": "staging"}, TWO - 1, False),
        ({"environment": "staging"}, FOUR, False),
        ({"environment": "production"}, THREE, False),
        ({}, THREE, False),
    ):
        assert is_quiet(labels, now_ms, quiet.active(now_ms), []) == expected
    assert MaintenanceWindows(client).listed(FOUR) == []


def test_what_is_not_scheduled_mutes_nothing(client: redis.Redis) -> None:
    """A window that was called off is none."""
    client.set("maintenance:staging", EXAMPLE.replace("true", "false"))
    assert MaintenanceWindows(client).listed(THREE) == []


@pytest.mark.parametrize(
    "junk",
    [b"", b"\xff", b"[]", b"{}", b"5", b'{"start": 5, "end": 6}', b'{"start": "soon", "end": "late"}', b"[" * 9000,
     json.dumps({"start": "9" * 20_000}).encode()],
)  # fmt: skip
def test_junk_mutes_nothing_and_hides_nothing(client: redis.Redis, junk: bytes) -> None:
    """A window that cannot be read, a key of another type: the other windows are read all the same."""
    client.set("maintenance:junk", junk)
    client.hset("maintenance:hash", "a", "b")
    client.set("maintenance:staging", EXAMPLE)
    windows = MaintenanceWindows(client)
    assert [window.environment for window in windows.listed(THREE)] == ["staging"]
    muted = [name for name in ("junk", "hash", "staging") if windows.covers({"environment": name}, THREE)]
    assert muted == ["staging"]
