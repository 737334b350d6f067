"""Reading back on a cluster: a replica that lags is never believed."""

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_double import ClickHouseDouble
from conftest import free_port
from drain_parts import buffer_on, client_of, drainer_on, good, push
from test_drainer import url

from pipeline.base.errors import StoreOutage
from pipeline.deliver import delivery as delivery_module
from pipeline.store.client import Store

__all__ = ["url"]

EVERYWHERE = "_of_every_replica"


class LaggingCluster:
    """One replica takes every insert and loses each first reply; the other, which plain queries reach, has nothing."""

    def __init__(self, refusals: int) -> None:
        self.taker, self.lagging = ClickHouseDouble(), ClickHouseDouble()
        self.refusals = refusals
        """How often a replica does not answer before all do."""
        self.tokens: list[str] = []
        self._lost: set[str] = set()

    def insert(self, table: str, rows: pa.Table, *, token: str = "") -> int:
        """It lands; the reply to the first insert under each token is lost."""
        self.tokens.append(token)
        self.taker.insert(table, rows, token=token)
        if token not in self._lost:
            self._lost.add(token)
            raise StoreOutage("the reply is lost")
        return rows.num_rows

    def every_replica(self, table: str) -> str:
        """What ``query`` understands as both."""
        return table + EVERYWHERE

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """Of both replicas, or of the one that lags."""
        if EVERYWHERE not in sql:
            return self.lagging.query(sql, parameters)
        if self.refusals:
            self.refusals -= 1
            raise StoreOutage("ClickHouse, code 279: All connection tries failed")
        plain = sql.replace(EVERYWHERE, "")
        return pa.concat_tables([self.taker.query(plain, parameters), self.lagging.query(plain, parameters)])

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The clock cannot be asked."""
        raise StoreOutage(f"not known here: {sql}")


@pytest.mark.parametrize("refusals", [0, 4])
def test_a_replica_that_lags_doubles_nothing(url: str, monkeypatch: pytest.MonkeyPatch, refusals: int) -> None:
    """Replies are lost while another replica lags: the one that took the insert is asked; no new token meanwhile."""
    monkeypatch.setattr(delivery_module, "SETTLE_S", 0.01)
    cluster: Any = LaggingCluster(refusals)
    push(client_of(url), [*(good(number, days_ago=number % 2) for number in range(20)), b"bad"])
    drainer = drainer_on(buffer_on(url), cluster, batch_rows=30, max_retry_pause_s=0.05)
    drainer.drain_until_empty()
    assert sorted(int(row["test_id"]) for row in cluster.taker.tables["metrics"]) == list(range(20))
    assert [row["payload"] for row in cluster.taker.tables["dead_letters"]] == [b"bad"]
    assert len(set(cluster.tokens)) == 1
    assert isinstance(next(iter(cluster.taker.tokens))[1], date)


_SCRIPT = """
import json, sys
import clickhouse_connect
path, config, statement = sys.argv[1:]
client = clickhouse_connect.get_client(interface="chdb", path=path, chdb_options={"config-file": config})
client.command("CREATE DATABASE d")
client.command("CREATE TABLE d.metrics_local (segment String, position UInt32) ENGINE = MergeTree ORDER BY position")
client.command("INSERT INTO d.metrics_local VALUES ('a', 1), ('a', 2)")
found = {}
for cluster in ("both", "one is away"):
    try:
        rows = client.query(statement.replace("CLUSTER", cluster), settings={"skip_unavailable_shards": 0}).result_rows
        found[cluster] = sorted({position for (position,) in rows})
    except Exception as error:
        found[cluster] = str(error)
print(json.dumps(found))
"""


def test_every_replica_is_asked_and_each_must_answer(tmp_path: Any) -> None:
    """On the real engine: all replicas of the cluster are read, and while one is away there is an error, no result."""
    port = free_port()
    replica = "<replica><host>127.0.0.1</host><port>{}</port></replica>"
    config = tmp_path / "cluster.xml"
    clusters = "".join(
        f"<{name}><shard>{replica.format(port)}{replica.format(other)}</shard></{name}>"
        for name, other in (("both", port), ("one_is_away", 1))
    )
    config.write_text(
        f"<clickhouse><tcp_port>{port}</tcp_port><remote_servers>{clusters}</remote_servers></clickhouse>"
    )
    store: Any = SimpleNamespace(cluster="CLUSTER", database="d")
    statement = f"SELECT position FROM {Store.every_replica(store, 'metrics')} WHERE segment = 'a'"
    script = _SCRIPT.replace('"one is away"', '"one_is_away"')
    command = [sys.executable, "-c", script, str(tmp_path / "engine"), str(config), statement]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["both"] == [1, 2]
    assert "279" in found["one_is_away"]


def test_without_a_cluster_the_table_itself_is_asked() -> None:
    """One server has one copy."""
    store: Any = SimpleNamespace(cluster="", database="d")
    assert Store.every_replica(store, "metrics") == "metrics"
