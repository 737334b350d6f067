"""A process that judges, stores, publishes and delivers alerts in simulated time; it is killed by its failpoint.

It goes on with the minute in which its predecessor died. Told to finish, it prints what stands in the table.
"""

import json
import os
import sys
from pathlib import Path

import redis

from pipeline.alerts.journal import table
from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.journal import Journal, Sizes
from pipeline.alerts.journal.silences import Silences
from pipeline.alerts.judge.evaluator import Evaluator
from pipeline.alerts.judge.memory_source import MemorySource
from pipeline.alerts.notify.channels import Channel
from pipeline.alerts.notify.deliveries import Deliveries
from pipeline.alerts.notify.notify import ChannelWorker
from pipeline.alerts.rules.rule import MINUTE_MS, Rule
from pipeline.base import failpoints
from pipeline.base.clock import ManualClock
from pipeline.base.config import ClickHouseSettings, Settings
from pipeline.store.client import Store
from pipeline.store.migrate import migrate

sys.path.insert(0, str(Path(__file__).parent.parent))

from alerts.test_views import T0, raw

MINUTES = 36
CLOCK = "kill_driver:minute"
"""The minute of the simulated time. A clock that went back by some minutes would have a channel told again."""
RULE = Rule(
    "slow",
    50.0,
    metrics=("duration",),
    statistic="avg",
    by=("page",),
    clears_at=50.0,
    when_unsure="fire",
    severity="critical",
)
KEYS = AlertKeys("metrics:buffer")
SIZES = Sizes(small_alerts=0, small_notices=0, piece_alerts=1, piece_notices=1, stage_at_once=1)
"""Every commit goes in two phases and in pieces, so that a kill can strike between any two of them."""


def numbers() -> MemorySource:
    """Three pages that break and recover in different rhythms, so that something happens in most minutes."""
    return MemorySource(
        raw(
            [
                {"minute": minute, "value": 60 if minute // period % 2 else 10, "page": f"page {period}"}
                for period in (2, 3, 5)
                for minute in range(MINUTES)
            ]
        )
    )


def work(client: redis.Redis, store: Store, receiver: str) -> list[str]:
    """Work through all minutes, and ten more in which only delivery is left; the ids that stand in the table."""
    journal = Journal(client, KEYS, ["hook"], SIZES)
    evaluator = Evaluator(journal, [RULE], numbers(), delay_ms=0)
    channel = Channel(name="hook", kind="webhook", url=receiver, group_wait="1m", group_interval="3m", group_by=[])
    worker = ChannelWorker(channel, Deliveries(client, KEYS, "hook"), Silences(client, KEYS), ManualClock(T0))
    for minute in range(int(client.get(CLOCK) or 0), MINUTES + 10):
        client.set(CLOCK, minute)
        now_ms = T0 + minute * MINUTE_MS
        if minute <= MINUTES:
            evaluator.run(now_ms, {})
        journal.publish()
        table.flush(journal, store)
        worker.turn(now_ms)
    # Physically, without FINAL: doubles would show.
    return [found for (found,) in store.rows("SELECT transition_id FROM alerts ORDER BY at, rule SETTINGS final = 0")]


def live(redis_url: str, engine: str, receiver: str) -> None:
    """One process's life; prints what stands in the table if it comes to the end."""
    settings = Settings(clickhouse=ClickHouseSettings(dsn=f"chdb://{engine}"))
    with redis.Redis.from_url(redis_url) as client, Store.open(settings) as store:
        migrate(store, settings)
        print(json.dumps(work(client, store, receiver)), flush=True)


def main(redis_url: str, engine: str, receiver: str, *kills: str) -> None:
    """Live until a life comes to its end, after the last kill at the latest; each life a process of its own.

    None begins after that: its clock would go back to the last minute, and a channel is told again by such a clock.

    Forked rather than started anew, which saves the imports; nothing is open at that moment.
    """
    for kill in (*kills, ""):
        child = os.fork()
        if child == 0:
            os.environ[failpoints.VARIABLE] = kill
            live(redis_url, engine, receiver)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(f"{kill if code else 'undisturbed'} {code}", file=sys.stderr, flush=True)
        if code == 0:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
