"""A journal on a real Redis, for the tests of alerts."""

from collections.abc import Iterator

import pytest
import redis

from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.journal import Journal

KEYS = AlertKeys("metrics:buffer")


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """Database 3 of an empty Redis."""
    with redis.Redis.from_url(f"{redis_url}/3") as client:
        yield client


@pytest.fixture
def journal(client: redis.Redis) -> Journal:
    """A journal with two channels."""
    return Journal(client, KEYS, ["one", "two"])
