"""``/metrics``: the catalogue of ``pipeline.base.measures``, filled from the newest look and from this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from pipeline.base.measures import PROCESS, READ
from pipeline.web.parts import Parts
from pipeline.web.pulse import Pulse

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Measure to its key in the status.
_OF_STATUS = {
    "pipeline_items_sealed_total": "sealed",
    "pipeline_items_stored_total": "stored",
    "pipeline_items_dead_lettered_total": "dead_lettered",
    "pipeline_items_dropped_total": "dropped",
    "pipeline_items_lost_total": "lost",
    "pipeline_items_waiting": "waiting",
    "pipeline_items_in_flight": "in_flight",
    "pipeline_items_spilled": "spilled",
    "pipeline_items_set_aside": "set_aside",
    "pipeline_items_unaccounted": "unaccounted",
    "pipeline_oldest_item_age_seconds": "oldest_s",
    "pipeline_freshness_seconds": "newest_row_age_s",
    "pipeline_stored_rows": "rows",
    "pipeline_rollup_backlog": "dirty_minutes",
    "pipeline_ledger_pending": "ledger_pending",
    "pipeline_redis_memory_bytes": "redis_memory_bytes",
}
_OF_JOB = {
    "pipeline_job_turns_total": "turns",
    "pipeline_job_failures_total": "failures",
    "pipeline_job_missed_total": "missed",
    "pipeline_job_last_turn_seconds": "last_took_s",
}
_OF_DRAINER = {
    "pipeline_drainer_chunks_total": "chunks",
    "pipeline_drainer_rows_total": "stored",
    "pipeline_drainer_fenced_total": "fenced",
    "pipeline_drainer_retries_total": "retries",
}

_OF_DATABASE = {
    "pipeline_redis_db_keys": "keys",
    "pipeline_redis_db_expiring_keys": "expires",
    "pipeline_redis_db_mean_ttl_seconds": "avg_ttl_s",
}
_OF_COLLECTOR = {
    "pipeline_collect_keys": "keys",
    "pipeline_collect_items": "items",
    "pipeline_collect_troubled_keys": "troubled_keys",
    "pipeline_collect_gaps_total": "gaps",
}

Values = Mapping[tuple[str, ...], float]


class Telemetry(Collector):
    """Prometheus's view of one service."""

    def __init__(self, parts: Parts, pulse: Pulse) -> None:
        self._parts = parts
        self._pulse = pulse
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry) + generate_latest(PROCESS)

    def collect(self) -> Iterator[Metric]:
        """Every measure of the catalogue; what is unknown has no sample."""
        values = self._values()
        for measure in READ:
            family = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
            metric = family(measure.name, measure.help, labels=measure.labels)
            for labels, value in values.get(measure.name, {}).items():
                metric.add_metric(labels, value)
            yield metric

    def _values(self) -> dict[str, Values]:
        look = self._pulse.newest
        found: dict[str, Values] = {
            name: {(): float(look.status[key])} for name, key in _OF_STATUS.items() if _known(look.status.get(key))
        }
        found["pipeline_redis_up"] = {(): float(not look.redis_trouble)}
        found["pipeline_clickhouse_up"] = {(): float(not look.clickhouse_trouble)}
        found["pipeline_alerts"] = {(state,): float(count) for state, count in look.alerts.items()}
        found["pipeline_dead_letters"] = {(reason,): float(count) for reason, count in look.dead_letters.items()}
        found["pipeline_look_age_seconds"] = {(): self._pulse.age_s()} if look.at_ms else {}
        found["pipeline_loop_age_seconds"] = {(name,): age for name, age in self._parts.loops().items()}
        jobs = self._parts.jobs()
        for name, key in _OF_JOB.items():
            found[name] = {(job,): float(state[key]) for job, state in jobs.items() if _known(state.get(key))}
        found["pipeline_job_lag_seconds"] = {
            (job,): max(0.0, state["began_s_ago"] - state["interval_s"]) for job, state in jobs.items()
        }
        for name, key in _OF_DRAINER.items():
            found[name] = {(buffer,): float(getattr(own, key)) for buffer, own in self._parts.drainers.items()}
        return found | of_platform(look.status)


def of_platform(status: Mapping[str, Any]) -> dict[str, Values]:
    """The health of the platform's Redis and of what is collected from it."""
    health, states = status.get("redis_health") or {}, status.get("collect") or {}
    databases = health.get("databases", [])
    found: dict[str, Values] = {
        "pipeline_redis_figure": {(name,): float(value) for name, value in health.get("figures", {}).items()},
        "pipeline_collect_last_look_timestamp_seconds": {
            (name,): one["last_ms"] / 1000 for name, one in states.items() if _known(one.get("last_ms"))
        },
    }
    for name, key in _OF_DATABASE.items():
        found[name] = {(str(one["database"]),): float(one[key]) for one in databases if _known(one.get(key))}
    for name, key in _OF_COLLECTOR.items():
        found[name] = {(collector,): float(one[key]) for collector, one in states.items() if _known(one.get(key))}
    return found


def _known(value: Any) -> bool:
    return isinstance(value, int | float)
