"""Touched minutes: a worker that looked earlier never forgets what came later."""

import redis

from pipeline.buffer.buffer import Buffer


def _touch(buffer: Buffer, minute: int) -> None:
    buffer.client.lpush(buffer.key, b"{}")
    buffer.seal(10)
    chunk = buffer.claim()
    assert chunk is not None
    buffer.ack(chunk, stored=1, dead_lettered=0, minutes=[minute])


def test_late_touch_survives_a_worker_that_saw_the_minute_before(redis_url: str) -> None:
    """Two rollup workers see a minute; one forgets it, a late row touches it again: the other cannot forget that."""

    buffer = Buffer(redis.Redis.from_url(redis_url), "touches:buffer")
    _touch(buffer, 60)
    first = buffer.dirty_minutes()
    second = buffer.dirty_minutes()
    buffer.forget_minutes(first)
    assert buffer.dirty_minutes() == {}
    _touch(buffer, 60)
    buffer.forget_minutes(second)
    assert set(buffer.dirty_minutes()) == {60}
