"""The compiled loops: without a cache, with bounds checks, and with texts made to collide there or in Arrow. What they
read is tested in test_columns."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from items import SEALED_AT_MS, Maker
from test_columns import ALIKE, assert_agree

from pipeline.decode import columns, scan
from pipeline.decode.items import Items
from pipeline.deliver import delivery, ledger
from pipeline.metric import Limits

_SCRIPT = """
from numba.core import caching
caching.CompileResultCacheImpl._locator_classes = []  # as where no directory may be written
from pipeline.decode import columns, scan
columns.prepare()
print(type(scan.scan_items._cache).__name__)
"""


@pytest.mark.thorough
def test_without_a_place_for_the_cache_each_process_compiles() -> None:
    """A read-only installation and a user without a home: slower to start, and nothing else."""
    told = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "NullCache"


# The checked twin


@pytest.fixture(scope="module")
def twin() -> ModuleType:
    """The same source as plain Python whose every access to memory is checked."""
    spec = importlib.util.spec_from_file_location("pipeline.decode.scan_checked", scan.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPELINE_CHECKED_SCAN", "1")
        spec.loader.exec_module(module)
    assert module.IS_CHECKED
    return module


@pytest.fixture
def checked(twin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setattr(columns, "scan", twin)
    yield twin
    twin._known.clear()


FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@FEW
@given(st.randoms(use_true_random=False))
def test_the_checked_loops_read_any_chunk_alike(checked: ModuleType, chance: Random) -> None:
    """Every access lies inside the memory it belongs to, and every item is read as the careful path reads it."""
    assert_agree(Maker(chance).batch(most=6))


@FEW
@given(st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode)), min_size=1, max_size=4))
def test_the_checked_loops_read_any_bytes_alike(checked: ModuleType, items: list[bytes]) -> None:
    """The same for what is no item at all."""
    assert_agree(items)


@pytest.mark.parametrize(
    "item", [*ALIKE, b"", b"{", b'{"', b'{"a":tru', b'{"a":"\\', b'{"a":"\\u12', b'{"a":-', b'{"a":1e']
)
def test_the_checked_loops_stop_at_the_end(checked: ModuleType, item: bytes) -> None:
    """Alone, with nothing but the padding behind it."""
    assert_agree([item])


def test_the_checked_loops_notice_an_access_outside(checked: ModuleType) -> None:
    """Without the padding behind the last item the same reading is an error, not a silent one."""
    data = np.frombuffer(b'{"metric_type":"duration"', np.uint8).copy()
    address = checked.address_of(data)
    with pytest.raises(IndexError):
        checked._string_end(address, 16)


# Texts made to collide

WORDS = np.uint64


def colliding(count: int) -> list[bytes]:
    """Different printable texts of 16 bytes with one hash: the first word is free, the second undoes it."""
    factor, random = WORDS(0x9E3779B97F4A7C15), np.random.default_rng(1)
    found: list[bytes] = []
    alphabet = np.frombuffer(bytes(byte for byte in range(35, 127) if byte != 92), np.uint8)
    usable = np.zeros(256, np.bool_)
    usable[alphabet] = True
    while len(found) < count:
        first = alphabet[random.integers(0, len(alphabet), (2_000_000, 8))].copy().view(WORDS)[:, 0]
        state = (WORDS(16) ^ first) * factor
        state ^= state >> WORDS(32)
        second = state ^ WORDS(0x4141414141414141)
        good = usable[second.view(np.uint8).reshape(-1, 8)].all(axis=1)
        pairs = np.stack([first[good], second[good]], axis=1)
        found += [pair.tobytes() for pair in pairs]
    return list(dict.fromkeys(found))[:count]


def test_texts_that_collide_are_left_to_the_careful_path(request: pytest.FixtureRequest) -> None:
    """A producer's texts with one and the same hash cost no more than careful reading, and are read alike."""
    texts = colliding(100_000 if request.config.getoption("--long") else 2_000)
    items = [
        b'{"timestamp":%d,"metric_type":"duration","value":1,"test_id":"%b","tags":{"%b":"x"}}'
        % (SEALED_AT_MS, text, text)
        for text in texts
    ]
    together = Items.of(items)
    positions = np.arange(len(items))
    rows, _ = columns._scan(together, positions, SEALED_AT_MS, Limits())
    assert 0 < len(rows) <= scan.MAX_PROBES
    assert_agree(items, Limits())


def colliding_for_arrow(count: int) -> list[bytes]:
    """Different printable texts of 16 bytes with one hash of Arrow's: each half times a number, its bytes swapped."""
    first_factor, last_factor, random = 14029467366897019727, 11400714785074694791, np.random.default_rng(1)
    undone = WORDS(pow(last_factor, -1, 1 << 64))
    alphabet = np.frombuffer(bytes(byte for byte in range(35, 127) if byte != 92), np.uint8)
    usable = np.zeros(256, np.bool_)
    usable[alphabet] = True
    found: dict[bytes, None] = {}
    while len(found) < count:
        first = alphabet[random.integers(0, len(alphabet), (400_000, 8))].copy().view(WORDS)[:, 0]
        last = (WORDS(0x0123456789ABCDEF) ^ (first * WORDS(first_factor)).byteswap()).byteswap() * undone
        good = usable[last.view(np.uint8).reshape(-1, 8)].all(axis=1)
        found |= dict.fromkeys(pair.tobytes() for pair in np.stack([first[good], last[good]], axis=1))
    return [*found][:count]


def test_texts_that_collide_for_arrow_are_numbered_alike() -> None:
    """As ids, names and values of tags, read by the loops, carefully, and both in one chunk."""
    texts = colliding_for_arrow(80)
    items = [
        b'{"timestamp":%d,"metric_type":"duration","value":1,"test_id":"%b","tags":{"%b":"%b"},"extra":%b}'
        % (SEALED_AT_MS, text, text, text, b"[1]" if number % 2 else b"1")
        for number, text in enumerate(texts)
    ]
    assert_agree(items, Limits())


@pytest.mark.parametrize("module", [columns, delivery, ledger])
def test_no_table_of_arrow_s_is_given_what_a_producer_sent(module: ModuleType) -> None:
    """Its hash has no seed, so that 100,000 texts made to collide held a chunk up for half a minute at each use."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    assert not re.search(r"dictionary_encode|unify_dictionaries|pc\.unique|index_in|group_by", source)
