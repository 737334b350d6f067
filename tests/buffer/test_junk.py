"""Random junk under the buffer's own keys while it is drained: types, fields, deletions, renames, times to live."""

import contextlib
import random
from collections import Counter

import pytest
from conftest import effort
from taking import Taken, buffer_on, numbered, push, take_all, take_one

from pipeline.base.errors import LeaseLost, RedisOutage
from pipeline.buffer.buffer import Buffer

TAG = b"{metrics:buffer}:"
VALUES = (
    "",
    "0",
    "1",
    "5",
    "-1",
    "junk",
    "done",
    "x#1 0 1",
    "x#1 99999999999999 1",
    "1e300",
    "inf",
    "\xff",
    ",0,",
    ",1,2,",
)
FIELDS = (
    *("rows", "chunk_rows", "sealed_at", "written_at", "run", "head", "tail", "freed", "next", "trimmed", "done"),
    *("acked_rows", "0", "1", "2", "99", "sealed", "stored", "spilled", "lost", "set_aside", "touches", "60", "junk"),
)


class Vandal:
    """Another program; it knows which items it took away itself."""

    def __init__(self, buffer: Buffer, seed: int) -> None:
        self.client, self.random = buffer.client, random.Random(seed)
        self.taken_away: set[bytes] = set()
        self.removed_fields = 0
        self.did: list[str] = []

    def strike(self) -> None:
        """One random damage to one random key."""
        keys = sorted(key for key in self.client.scan_iter(match="*metrics:buffer*") if key.startswith(TAG))
        if not keys:
            return
        key = self.random.choice(keys)
        deed = self.random.choice((self.delete, self.overwrite, self.set_field, self.drop_field, self.expire, self.cut))
        before = self.items_in(key)
        deed(key)
        self.did.append(f"{deed.__name__} {key!r}")
        self.taken_away |= before - self.items_in(key)

    def items_in(self, key: bytes) -> set[bytes]:
        """The items of a list."""
        return set(self.client.lrange(key, 0, -1)) if self.client.type(key) == b"list" else set()

    def delete(self, key: bytes) -> None:
        self.removed_fields += key.endswith(b":ledger")
        self.client.delete(key)

    def overwrite(self, key: bytes) -> None:
        self.removed_fields += key.endswith(b":ledger")
        self.client.set(key, self.random.choice(VALUES))

    def set_field(self, key: bytes) -> None:
        kind, value = self.client.type(key), self.random.choice(VALUES)
        if kind == b"hash":
            self.removed_fields += key.endswith(b":ledger")
            self.client.hset(key, self.random.choice(FIELDS), value)
        elif kind == b"zset":
            self.client.zadd(key, {value: self.random.choice((0, 1e13))})
        elif kind == b"list" and b":segment:" in key:
            self.client.rpush(key, b"stray")

    def drop_field(self, key: bytes) -> None:
        kind = self.client.type(key)
        if kind == b"hash" and (fields := self.client.hkeys(key)):
            self.removed_fields += key.endswith(b":ledger")
            self.client.hdel(key, self.random.choice(fields))
        elif kind == b"zset" and (members := self.client.zrange(key, 0, -1)):
            self.client.zrem(key, self.random.choice(members))

    def expire(self, key: bytes) -> None:
        self.client.expire(key, 10_000)

    def cut(self, key: bytes) -> None:
        if self.client.type(key) == b"list":
            self.client.ltrim(key, *self.random.choice(((1, -1), (0, -2), (3, -4), (0, 0))))


def items_in_redis(buffer: Buffer) -> set[bytes]:
    """Items that are kept somewhere, for a person."""
    found: set[bytes] = set()
    for key in buffer.client.scan_iter():
        if buffer.client.type(key) == b"list":
            found |= set(buffer.client.lrange(key, 0, -1))
    return found


def step(buffer: Buffer, taken: Taken) -> None:
    """A drainer's turn; what is damaged is an outage to it, or a lease lost."""
    with contextlib.suppress(RedisOutage, LeaseLost):
        buffer.tidy_after_restart()
        buffer.seal(7)
        take_one(buffer, taken)


def vandalised(url: str, seed: int) -> None:
    buffer = buffer_on(url, lease_s=0.001)
    buffer.client.flushall()
    vandal, taken, pushed = Vandal(buffer, seed), Taken(), 0
    for _ in range(effort(5, 12)):
        count = vandal.random.randrange(40)
        push(buffer.client, numbered(count, start=pushed))
        pushed += count
        for _ in range(vandal.random.randrange(3)):
            step(buffer, taken)
        vandal.strike()
    take_all(buffer, taken, chunk_rows=7)
    told = f"seed {seed}: {vandal.did}"
    delivered = Counter(item for item in taken.values() if item != b"stray")
    doubled = [item for item, count in delivered.items() if count > 1]
    assert not doubled, (told, doubled)
    missing = set(numbered(pushed)) - delivered.keys() - vandal.taken_away - items_in_redis(buffer)
    assert not missing, (told, sorted(missing, key=int))
    books = buffer.books()
    assert books.in_flight == books.waiting == 0, told
    assert books.unaccounted == 0 or buffer.set_aside_names() or vandal.removed_fields, (told, books)


@pytest.mark.parametrize("seed", range(effort(5, 12)))
def test_no_junk_loses_or_doubles_anything_else(redis_url: str, seed: int) -> None:
    """Whatever is put under any key: the drain ends, no item is delivered twice, none is missing but what the vandal
    took away, and the books balance or say what is lost."""
    vandalised(redis_url, seed)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_no_junk_of_a_thousand_kinds_loses_or_doubles_anything_else(redis_url: str) -> None:
    """The same for as long as an option allows."""
    for seed in range(100, 1_100):
        vandalised(redis_url, seed)
