"""Every metric that this software tells of itself: one catalogue, names by Prometheus's conventions.

What a process counts itself (stages, HTTP) is counted here, in ``PROCESS``. What is read from elsewhere when
Prometheus asks (the books, jobs, alerts) is built by ``pipeline.web.telemetry`` from ``READ``. A name that
is not here cannot be told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Kind = Literal["counter", "gauge"]

PROCESS = CollectorRegistry()

STAGE_SECONDS = Histogram(
    "pipeline_stage_seconds",
    "Time that one chunk took in a stage of the drain: read, decode, write, ack.",
    ["stage"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=PROCESS,
)
HTTP_REQUESTS = Counter(
    "pipeline_http_requests_total", "HTTP requests answered.", ["port", "method", "status"], registry=PROCESS
)
HTTP_SECONDS = Histogram(
    "pipeline_http_request_seconds",
    "Time from a request's headers to the end of its answer.",
    ["port"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=PROCESS,
)
HTTP_REFUSED = Counter(
    "pipeline_http_refused_total", "Requests refused before they were read.", ["port", "reason"], registry=PROCESS
)
HTTP_CONNECTIONS = Gauge("pipeline_http_connections", "Open connections.", ["port"], registry=PROCESS)
INGESTED = Counter(
    "pipeline_ingested_items_total",
    "Items that came over HTTP, by what became of them: accepted, refused, repeated.",
    ["endpoint", "outcome"],
    registry=PROCESS,
)


@dataclass(frozen=True)
class Measure:
    """A metric that is read when it is asked for."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


_SINCE = "since the buffer's ledger began"

READ: tuple[Measure, ...] = (
    Measure("pipeline_items_sealed_total", "counter", f"Items taken from the buffer {_SINCE}."),
    Measure("pipeline_items_stored_total", "counter", f"Items stored as rows {_SINCE}."),
    Measure("pipeline_items_dead_lettered_total", "counter", f"Items refused, kept with their reason, {_SINCE}."),
    Measure("pipeline_items_dropped_total", "counter", f"Items dropped by the overflow policy {_SINCE}."),
    Measure("pipeline_items_lost_total", "counter", f"Items gone with damaged segments {_SINCE}."),
    Measure("pipeline_items_waiting", "gauge", "Items that lie in the buffer."),
    Measure("pipeline_items_in_flight", "gauge", "Items sealed and not yet acknowledged."),
    Measure("pipeline_items_spilled", "gauge", "Items that lie in files on a drainer's disk."),
    Measure("pipeline_items_set_aside", "gauge", "Items in segments that wait for a person."),
    Measure("pipeline_items_unaccounted", "gauge", "Sealed items that are nowhere; 0 unless something is wrong."),
    Measure("pipeline_oldest_item_age_seconds", "gauge", "Age of the oldest item that is not stored."),
    Measure("pipeline_freshness_seconds", "gauge", "Time since the newest row was stored."),
    Measure("pipeline_stored_rows", "gauge", "Rows in the table of raw metrics."),
    Measure("pipeline_dead_letters", "gauge", "Dead letters that were neither replayed nor dropped.", ("reason",)),
    Measure("pipeline_rollup_backlog", "gauge", "Minutes whose windows are to be computed again."),
    Measure("pipeline_ledger_pending", "gauge", "Acknowledged chunks on their way to the ledger table."),
    Measure("pipeline_redis_memory_bytes", "gauge", "Memory that Redis uses."),
    Measure("pipeline_redis_figure", "gauge", "A figure of the Redis server, as alert rules name it.", ("name",)),
    Measure("pipeline_redis_db_keys", "gauge", "Keys of a Redis database.", ("database",)),
    Measure("pipeline_redis_db_expiring_keys", "gauge", "Keys of a database that have a TTL.", ("database",)),
    Measure(
        "pipeline_redis_db_mean_ttl_seconds", "gauge", "Their mean time to live, as Redis estimates it.", ("database",)
    ),
    Measure("pipeline_collect_last_look_timestamp_seconds", "gauge", "When a collector looked last.", ("collector",)),
    Measure(
        "pipeline_collect_keys", "gauge", "Keys (of a channel: messages) in a collector's last look.", ("collector",)
    ),
    Measure("pipeline_collect_items", "gauge", "Metrics that a collector's last look pushed.", ("collector",)),
    Measure("pipeline_collect_troubled_keys", "gauge", "Keys that a collector could not read.", ("collector",)),
    Measure(
        "pipeline_collect_gaps_total",
        "counter",
        "Times that some were missed: a list slid too far, the subscription was lost.",
        ("collector",),
    ),
    Measure("pipeline_redis_up", "gauge", "Whether Redis answers."),
    Measure("pipeline_clickhouse_up", "gauge", "Whether ClickHouse answers."),
    Measure("pipeline_drainer_chunks_total", "counter", "Chunks this process acknowledged.", ("buffer",)),
    Measure("pipeline_drainer_rows_total", "counter", "Rows this process stored.", ("buffer",)),
    Measure("pipeline_drainer_fenced_total", "counter", "Chunks taken over by another drainer.", ("buffer",)),
    Measure("pipeline_drainer_retries_total", "counter", "Attempts beyond the first at ClickHouse.", ("buffer",)),
    Measure("pipeline_loop_age_seconds", "gauge", "Time since a loop of this process turned.", ("loop",)),
    Measure("pipeline_job_turns_total", "counter", "Turns of a job that succeeded.", ("job",)),
    Measure("pipeline_job_failures_total", "counter", "Turns of a job that failed.", ("job",)),
    Measure("pipeline_job_missed_total", "counter", "Turns of a job that were due and did not begin.", ("job",)),
    Measure("pipeline_job_last_turn_seconds", "gauge", "How long the last turn of a job took.", ("job",)),
    Measure("pipeline_job_lag_seconds", "gauge", "How long after its time a job is.", ("job",)),
    Measure("pipeline_alerts", "gauge", "Alerts by state.", ("state",)),
    Measure("pipeline_look_age_seconds", "gauge", "Age of the figures told here."),
)
