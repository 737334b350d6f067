"""A chunk that its drainers cannot get over, and one that takes them long: others go on."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drain_parts import (
    Whereabouts,
    assert_books_agree,
    buffer_on,
    client_of,
    drain_store,
    drainer_on,
    good,
    push,
    running,
    wait_until,
)
from test_drainer import url

from pipeline.buffer.buffer import Buffer
from pipeline.buffer.chunk import Chunk
from pipeline.decode.columns import decode_chunk
from pipeline.deliver import delivery as delivery_module
from pipeline.deliver import protocol
from pipeline.store.client import Store

__all__ = ["url"]


@pytest.fixture
def store(engine_path: Path, _open_engine: None) -> Iterator[Store]:
    """A fresh database with the drain's tables in this process's engine."""
    with drain_store(f"chdb://{engine_path}") as store:
        yield store


def claim_and_die(buffer: Buffer) -> Chunk:
    """Claim the next chunk, and say no more until its lease has run out."""
    buffer.lease_s = 0.001
    chunk = buffer.claim()
    assert chunk is not None
    time.sleep(0.01)
    return chunk


def test_a_chunk_whose_drainers_die_is_set_aside_and_others_go_on(url: str, store: Store) -> None:
    """After so many that died before they began to insert; its items wait for a person, all else is stored."""
    buffer = buffer_on(url)
    push(buffer.client, [good(number) for number in range(30)])
    buffer.seal(10)
    for lapses in range(protocol.MAX_LAPSES):
        assert claim_and_die(buffer).lapses == lapses
    drainer = drainer_on(buffer, store)
    drainer.drain_until_empty()
    books = buffer.books()
    assert (books.stored, books.set_aside, books.in_flight, books.unaccounted) == (20, 10, 0, 0)
    assert drainer.activity.set_aside == 1
    Whereabouts(store).assert_each_once(range(10, 30))


def test_a_chunk_that_was_given_back_or_begun_is_not_blamed(url: str, store: Store) -> None:
    """Restarts during an outage of ClickHouse set nothing aside, however many, nor do crashes while writing."""
    buffer = buffer_on(url)
    push(buffer.client, [good(number) for number in range(10)])
    buffer.seal(10)
    for _ in range(2 * protocol.MAX_LAPSES):
        chunk = buffer.claim()
        assert chunk is not None
        assert chunk.lapses == 0
        buffer.release(chunk)
    chunk = buffer.claim()
    assert chunk is not None
    buffer.renew(chunk, before_insert=True)
    buffer.release(chunk)
    for _ in range(2 * protocol.MAX_LAPSES):
        assert claim_and_die(buffer).lapses == 0
    drainer_on(buffer, store).drain_until_empty()
    Whereabouts(store).assert_each_once(range(10))
    assert_books_agree(buffer, store)


def test_the_lease_is_kept_while_a_chunk_is_decoded(url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding takes twice as long as the lease: no other drainer is given the chunk meanwhile."""
    lease_s = 4.0

    is_decoding = threading.Event()

    def slow(*arguments: Any) -> Any:
        is_decoding.set()
        time.sleep(2 * lease_s)
        return decode_chunk(*arguments)

    monkeypatch.setattr(delivery_module, "decode_chunk", slow)
    buffer, other = buffer_on(url), buffer_on(url)
    push(client_of(url), [good(number) for number in range(10)])
    drainer = drainer_on(buffer, store, lease_s=lease_s)
    with running(drainer):
        wait_until(is_decoding.is_set, "it decodes")
        while not drainer.activity.stored:
            chunk = other.claim()
            assert chunk is None or drainer.activity.stored, "the lease ran out"
            time.sleep(0.05)
    assert drainer.activity.fenced == 0
    Whereabouts(store).assert_each_once(range(10))
