"""Good items that were refused by a wrong clock are stored by ``pipeline dlq replay`` once the clock is right."""

import json
import sys
from collections.abc import Callable

import pytest
from drain_parts import buffer_on, client_of, drainer_on, now_s, push
from items import metric

from pipeline.base import config
from pipeline.buffer import sealing
from pipeline.cli import main
from pipeline.deliver import drainer as drainers
from pipeline.deliver.dead_letters import flush_marks
from pipeline.store.client import Store

HOUR_S = 3600
ITEMS = 30


def pipeline(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, object]:
    """What a command answers."""
    monkeypatch.setattr(sys, "argv", ["pipeline", *arguments, "--json"])
    main._run()
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def test_items_refused_by_a_slow_clock_are_stored_once_it_is_right(
    redis_url: str,
    store: Store,
    settings: config.Settings,
    make_clock: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An hour slow: refused as too far ahead. Right again: replayed, stored once each, marked; the books balance.

    The clocks of this machine and of Redis are slow; then this machine's and ClickHouse's are right, not yet Redis's.
    """
    client = client_of(redis_url)
    push(client, [metric(number, str(now_s() + HOUR_S)) for number in range(ITEMS)])
    drainer_on(buffer_on(redis_url), store).drain_until_empty()
    assert store.rows("SELECT count() FROM metrics") == [(0,)]
    assert store.rows("SELECT count(), any(reason) FROM dead_letters") == [(ITEMS, "timestamp too far ahead")]

    make_clock(HOUR_S)
    monkeypatch.setenv("PIPELINE_REDIS__URL", redis_url)
    monkeypatch.setenv("PIPELINE_CLICKHOUSE__DSN", settings.clickhouse.dsn)
    monkeypatch.setenv("PIPELINE_CLICKHOUSE__DATABASE", settings.clickhouse.database)
    monkeypatch.setenv("PIPELINE_DATA_DIR", str(settings.data_dir))
    replay = ("dlq", "replay", "--reason", "too far ahead")
    assert pipeline(capsys, monkeypatch, *replay)["replayed"] == ITEMS
    assert pipeline(capsys, monkeypatch, *replay)["replayed"] == 0  # marked in Redis, before the table knows

    buffer = buffer_on(redis_url)
    drainer_on(buffer, store).drain_until_empty()
    flush_marks(buffer, store)
    assert pipeline(capsys, monkeypatch, *replay)["replayed"] == 0  # marked in the table
    assert store.rows("SELECT count(), uniqExact(test_id) FROM metrics") == [(ITEMS, ITEMS)]
    books = buffer.books().as_dict()
    expected = {"sealed": 2 * ITEMS, "stored": ITEMS, "dead_lettered": ITEMS, "lost": 0, "unaccounted": 0}
    assert {name: books[name] for name in expected} == expected
    assert pipeline(capsys, monkeypatch, "audit", "--full")["ok"]


@pytest.fixture
def make_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Put the clocks of this machine and of ClickHouse forward; Redis's stays where it is."""

    def make(ahead_s: int) -> None:
        own_ms, third_ms = sealing._now_ms, drainers._clock_ms
        monkeypatch.setattr(sealing, "_now_ms", lambda: own_ms() + ahead_s * 1000)
        monkeypatch.setattr(drainers, "_clock_ms", lambda store: (third_ms(store) or 0) + ahead_s * 1000)

    return make
