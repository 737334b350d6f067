"""The sections of the settings, one class each: names, types, limits and defaults, with the sentence for the table.

``config.Settings`` puts them together. A check that concerns one section stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.base import addresses
from pipeline.base.config_types import (
    Interval,
    Lease,
    Pause,
    Percent,
    PlainText,
    Positive,
    PositiveInt,
    Section,
    Shown,
    Url,
)
from pipeline.base.errors import ConfigError
from pipeline.base.nearest import nearest

WRITTEN_ENTRIES = (
    *("window_1min", "window_5min", "web_vitals", "compat_scores", "baseline", "test_stats", "test_history"),
    *("failure_pattern", "failure_analysis", "channel_dashboard_update", "cleanup_status"),
    *("alerts_performance", "channel_alerts_critical"),
)
"""Entries of the platform's schema that this product writes, and that ``publish.skip`` may name."""


class RedisDatabases(Section):
    """Database numbers as in the platform's schema; Redis Cluster knows only 0."""

    sessions: int = Field(0, ge=0, le=1_000_000, description="test sessions and authentication")
    coordination: int = Field(1, ge=0, le=1_000_000, description="test coordination and locking")
    results: int = Field(2, ge=0, le=1_000_000, description="test results, baselines")
    metrics: int = Field(3, ge=0, le=1_000_000, description="the buffer, windows, vitals, alerts")
    ai: int = Field(4, ge=0, le=1_000_000, description="AI model cache")
    notifications: int = Field(5, ge=0, le=1_000_000, description="channels")
    environment: int = Field(6, ge=0, le=1_000_000, description="environment state, retention, clean-up status")
    temporary: int = Field(7, ge=0, le=1_000_000, description="temporary test data")


class RedisPool(Section):
    """Connection pool sizes and timeouts (schema document, Connection Pooling)."""

    max_connections: PositiveInt = Field(15, le=addresses.MAX_CONNECTIONS, description="connections to one database")
    connection_timeout_ms: PositiveInt = Field(
        5000, le=addresses.MAX_TIMEOUT_MS, description="timeout for opening a connection"
    )
    socket_timeout_ms: PositiveInt = Field(3000, le=addresses.MAX_TIMEOUT_MS, description="timeout for one reply")
    retry_attempts: int = Field(3, ge=0, le=100, description="immediate retries of one read-only command")


class TlsSettings(Section):
    """Certificates, for addresses that ask for TLS."""

    ca_file: PlainText = Field("", description="PEM file of the CA that signed the server's certificate")
    cert_file: PlainText = Field("", description="PEM file of the client certificate, if the server asks for one")
    key_file: PlainText = Field("", description="PEM file of the private key; empty: cert_file contains it")
    check_hostname: bool = Field(True, description="verify that the certificate names the host of the address")


class RedisSettings(Section):
    """Where Redis is."""

    url: Url = Field("embedded", description="embedded, or redis://, rediss://, unix://")
    tls: TlsSettings = Field(default_factory=TlsSettings)
    databases: RedisDatabases = Field(default_factory=RedisDatabases)
    pool: RedisPool = Field(default_factory=RedisPool)
    accept_eviction_risk: bool = Field(
        False, description="start even if the eviction policy of Redis may delete the buffer"
    )

    @field_validator("url")
    @classmethod
    def _readable(cls, url: str) -> str:
        if url != "embedded":
            database = addresses.redis_address(url).database
            if database is not None:
                raise ValueError(
                    f"names database {database}; the databases are settings of their own: "
                    f"set 'redis.databases.metrics' to {database} and take it out of the URL"
                )
        return url

    @model_validator(mode="after")
    def _certificates_are_used(self) -> RedisSettings:
        _demand_encryption("redis", self.tls, "redis.url", self.url, ("redis", "unix"), "rediss")
        return self


def _demand_encryption(
    section: str, tls: TlsSettings, setting: str, url: str, plain: Sequence[str], encrypted: str
) -> None:
    """Who names certificates wants encryption, which the scheme of the URL alone decides."""
    scheme = url.partition("://")[0]
    named = next((name for name in ("ca_file", "cert_file", "key_file") if getattr(tls, name)), "")
    if named and scheme in plain:
        raise ValueError(
            f"{section}.tls.{named} is set, but {setting} starts with {scheme}://, which is not encrypted; "
            f"write {encrypted}://, or leave the certificates out"
        )


_DATABASES_OF_CLICKHOUSE = ("system", "information_schema")


class ClickHouseSettings(Section):
    """Where ClickHouse is."""

    dsn: Url = Field("embedded", description="embedded, chdb:///path, http://user:password@host:8123, https://…")
    tls: TlsSettings = Field(default_factory=TlsSettings)
    database: PlainText = Field("pipeline", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="database of all tables")
    cluster: PlainText = Field(
        "",
        pattern=r"^[A-Za-z0-9_-]*$",
        description="cluster name; if set, tables are replicated and distributed (ON CLUSTER)",
    )
    connect_timeout_s: Interval = Field(10, description="timeout for opening a connection")
    request_timeout_s: Interval = Field(
        60, description="timeout for one answer; after it the outcome is unknown and is read back"
    )

    @field_validator("dsn")
    @classmethod
    def _readable(cls, dsn: str) -> str:
        if dsn != "embedded":
            addresses.clickhouse_address(dsn)
        return dsn

    @model_validator(mode="after")
    def _certificates_are_used(self) -> ClickHouseSettings:
        _demand_encryption("clickhouse", self.tls, "clickhouse.dsn", self.dsn, ("http",), "https")
        return self

    @model_validator(mode="after")
    def _a_database_of_its_own(self) -> ClickHouseSettings:
        is_embedded = self.dsn == "embedded" or self.dsn.startswith("chdb://")
        if self.database.lower() in _DATABASES_OF_CLICKHOUSE:
            raise ValueError(f"clickhouse.database is '{self.database}', which is ClickHouse's own; choose another")
        if is_embedded and self.database == "default":
            raise ValueError(
                "clickhouse.database is 'default': in the embedded engine that database shows the files of this "
                "machine as tables; choose another, such as 'pipeline'"
            )
        return self


def demand_server_for_cluster(settings: ClickHouseSettings) -> None:
    """Raise ``ConfigError`` when the embedded engine is to be a cluster: it has no replicas, and no ON CLUSTER."""
    if settings.cluster and (settings.dsn == "embedded" or settings.dsn.startswith("chdb://")):
        raise ConfigError(
            f"clickhouse.cluster is '{settings.cluster}', but clickhouse.dsn is the embedded engine, which is no "
            "cluster; name a server of the cluster in clickhouse.dsn, or leave clickhouse.cluster empty"
        )


class BufferSettings(Section):
    """The list that producers push to."""

    key: Annotated[str | list[str], Shown()] = Field("metrics:buffer", description="Redis list, or several of them")
    max_item_bytes: PositiveInt = Field(65_536, description="maximum size of an item; larger items are refused")
    max_depth: PositiveInt = Field(32, description="maximum nesting of an item; deeper items are refused")
    high_water_rows: PositiveInt = Field(5_000_000, description="alarm above this many waiting items")
    high_water_age_s: Positive = Field(300, description="alarm when the oldest item has waited this long")
    high_water_memory_pct: Positive = Field(80, le=100, description="alarm above this percentage of Redis maxmemory")
    overflow: Literal["refuse", "drop_oldest", "spill"] = Field(
        "refuse",
        description="above a high-water mark: refuse (a full Redis rejects pushes), drop_oldest, spill (to data_dir)",
    )

    @field_validator("key")
    @classmethod
    def _some_key(cls, key: str | list[str]) -> str | list[str]:
        if not key or (isinstance(key, list) and len(set(key)) < len(key)):
            raise ValueError("must name one list, or several different ones")
        for name in [key] if isinstance(key, str) else key:
            # What belongs to a buffer stands beside it under "{buffer}:…" and must share its slot on Redis Cluster.
            if ("{" in name or "}" in name) and not re.match(r"[^{]*\{[^}]+\}", name):
                raise ValueError(
                    f"has {name!r}, whose braces are no hash tag: on Redis Cluster its parts would be spread over "
                    "several nodes; leave them out, or put a part of the name between both, as in '{metrics}:buffer'"
                )
        return key

    @property
    def keys(self) -> list[str]:
        """The buffers, always as a list."""
        return [self.key] if isinstance(self.key, str) else self.key


class DrainerSettings(Section):
    """How the buffer is drained."""

    batch_rows: PositiveInt = Field(100_000, le=1_000_000, description="rows per insert")
    page_rows: PositiveInt = Field(5_000, description="items per read from Redis")
    flush_interval_s: Pause = Field(0.5, description="maximum wait before a partial batch is sealed")
    lease_s: Lease = Field(60, description="lease time of a chunk; after it another drainer may take the chunk over")
    durable_seal: bool = Field(
        True, description="fsync a segment's name before its rows are inserted, so that a power cut cannot double them"
    )
    max_bad_share: float = Field(
        0.5, gt=0, le=1, description="the drainer stops when ClickHouse refuses more than this share of a chunk"
    )
    max_retry_pause_s: Pause = Field(30, description="maximum backoff between retries")
    traces: bool = Field(False, description="an OpenTelemetry span for each batch; needs the extra otel")


LONGEST_KEPT_DAYS = 9000
"""Days are counted from 1970 and times end in 2106: a retention must stay clear of both, with its margins."""


class RetentionSettings(Section):
    """How long things are kept; ``retention:performance_metrics`` in Redis overrides ``raw_hours``."""

    raw_hours: PositiveInt = Field(
        720, le=LONGEST_KEPT_DAYS * 24, description="retention of raw rows; items with an older timestamp are refused"
    )
    rollup_days: PositiveInt = Field(
        400, le=LONGEST_KEPT_DAYS, description="retention of windows, vitals, baselines, change points and alerts"
    )
    future_s: Positive = Field(300, le=86_400 * 366, description="items with a timestamp further ahead are refused")


class RollupSettings(Section):
    """The 1- and 5-minute windows."""

    interval_s: Interval = Field(5, description="interval of the job")
    delay_s: float = Field(2, ge=0, le=86_400, description="a window is computed this long after its end")
    grace_s: float = Field(120, ge=0, le=86_400 * 366, description="a window is final this long after its end")


class CollectSettings(Section):
    """What is read from the platform's own Redis keys."""

    enabled: bool = Field(True, description="false: do not read the platform's keys")
    interval_s: Interval = Field(15, description="poll interval; a pass takes at most 30 % of it")
    skip: list[str] = Field(default_factory=list, description="catalogue entries that are not collected")
    keys: list[dict[str, Any]] = Field(
        default_factory=list, description="more key patterns, in the form of the catalogue (pipeline/collect/README.md)"
    )
    executions: Literal["buffer", "missing"] = Field(
        "buffer", description="missing: results in Redis that never came through the buffer are collected as executions"
    )


class PublishSettings(Section):
    """What is written to the platform's own Redis keys."""

    skip: list[str] = Field(
        default_factory=list, description="names of schema entries that the platform writes itself (pipeline schema)"
    )
    failures_interval_s: Interval = Field(60, description="interval of the job that writes test:history and failure:*")

    @field_validator("skip")
    @classmethod
    def _known_names(cls, skip: list[str]) -> list[str]:
        for name in skip:
            if name not in WRITTEN_ENTRIES:
                raise ValueError(f"{name!r} is not written by the pipeline; {nearest(name, WRITTEN_ENTRIES)}")
        return skip


class RunSettings(Section):
    """CI runs."""

    grace_s: Positive = Field(1800, description="a run is final when it got no row for this long")
    interval_s: Interval = Field(60, description="interval of the job that looks for runs that became final")


FormFactor = Literal["mobile", "desktop"]


class VitalsSettings(Section):
    """Core Web Vitals."""

    interval_s: Interval = Field(15, description="interval of the job")
    rolling_s: PositiveInt = Field(3600, le=86_400 * 366, description="span of cwv:* and compat:scores in Redis")
    form_factor: FormFactor = Field("mobile", description="Lighthouse control points to score by: mobile or desktop")
    form_factors: Annotated[dict[str, FormFactor], Shown()] = Field(
        default_factory=dict, description="form factor of an environment, where it differs from form_factor"
    )
    browser_aliases: Annotated[dict[str, str], Shown()] = Field(
        default_factory=lambda: {
            "chromium": "chrome",
            "google-chrome": "chrome",
            "webkit": "safari",
            "msedge": "edge",
            "microsoft-edge": "edge",
        },
        description="maps the browser as sent to the browser as reported",
    )


NEWEST_RUNS = 5
"""Runs that a baseline holds against those before them (as in ``analyse/shifts.py``)."""


class BaselineSettings(Section):
    """What is normal."""

    interval_s: Interval = Field(60, description="interval of the job")
    days: Positive = Field(7, le=3660, description="how many days of runs count")
    max_runs: PositiveInt = Field(100, le=10_000, description="maximum number of runs; the newest count")
    min_runs: PositiveInt = Field(
        12, le=10_000, description="minimum number of runs; with fewer the state is insufficient_history or learning"
    )
    branches: Annotated[list[str], Shown()] = Field(
        default_factory=lambda: ["", "main", "master"],
        description="branches whose runs count for speed; the empty string stands for runs that name no branch",
    )

    @model_validator(mode="after")
    def _reachable(self) -> BaselineSettings:
        if self.min_runs + NEWEST_RUNS > self.max_runs:
            raise ValueError(
                f"baselines.min_runs is {self.min_runs} and baselines.max_runs {self.max_runs}: the newest "
                f"{NEWEST_RUNS} runs are held against min_runs others, so max_runs must be at least "
                f"{self.min_runs + NEWEST_RUNS}"
            )
        return self


class ChangeSettings(Section):
    """The change detector."""

    interval_s: Interval = Field(120, description="interval of the job")
    days: Positive = Field(14, le=3660, description="how far back series are searched")
    max_points: int = Field(400, ge=12, le=1200, description="maximum points of one series; the newest count")
    false_discovery_rate: float = Field(0.01, gt=0, lt=1, description="expected share of false positives among changes")
    cycle_days: Positive = Field(28, le=56, description="how far back daily and weekly cycles are learnt")
    min_change_pct: dict[str, Percent] = Field(
        default_factory=lambda: {"default": 2.0}, description="minimum size of a reported change, by metric type"
    )


class AlertSettings(Section):
    """The evaluator and its channels."""

    rules_file: PlainText = Field("", description="empty: config/rules.yaml as shipped")
    interval_s: Interval = Field(10, description="evaluation interval")
    delay_s: float = Field(
        10, ge=0, le=86_400, description="evaluation lags storage by this many seconds, so that late rows are included"
    )
    channels: list[dict[str, Any]] = Field(default_factory=list, description="notification channels besides Redis")
    page_url: Url = Field("", description="base URL of the page, for links in notifications")

    @field_validator("page_url")
    @classmethod
    def _is_a_link(cls, page_url: str) -> str:
        if page_url and not re.fullmatch(r"https?://[^/?#@\s]+(/[!-~]*)?", page_url):
            raise ValueError("must be http://… or https://… with a host, and without user or password: people get it")
        return page_url


class WebSettings(Section):
    """HTTP interfaces."""

    host: PlainText = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port of the page, /metrics and health checks")
    token: str = Field("", repr=False, description="secret; bearer token that gives access")
    user: PlainText = Field("", description="user name for HTTP basic authentication")
    password: str = Field("", repr=False, description="secret; password for HTTP basic authentication")
    names: Annotated[list[str], Shown()] = Field(
        default_factory=list, description="additional allowed values of the Host header, such as a proxy's name"
    )
    write_key: str = Field("", repr=False, description="secret; if set, POST /v1/push and /v1/vitals require it")
    vitals_origins: Annotated[list[str], Shown()] = Field(
        default_factory=list, description="allowed origins (CORS) of /v1/vitals, such as https://shop.example.org"
    )
    vitals_per_s: Positive = Field(20, description="rate limit of /v1/vitals for one address, requests per second")
    clickhouse_port: int = Field(
        8123, ge=0, le=65535, description="embedded store only: ClickHouse's HTTP interface, read-only"
    )
    query_max_s: Interval = Field(30, description="time limit of an analyst's query")
    query_max_at_once: PositiveInt = Field(
        4, description="maximum number of analysts' queries at once; further queries wait"
    )
    query_max_memory_bytes: PositiveInt = Field(
        2_000_000_000, description="memory limit of all analysts' queries together; each gets an equal share"
    )
    query_max_result_rows: PositiveInt = Field(1_000_000, description="row limit of an analyst's result")

    @field_validator("names", "vitals_origins")
    @classmethod
    def _lower(cls, names: list[str]) -> list[str]:
        return [name.lower().rstrip("/") for name in names]

    @field_validator("names")
    @classmethod
    def _are_hosts(cls, names: list[str]) -> list[str]:
        for name in names:
            if not re.fullmatch(r"[^/?#@\s\[\]]+|\[[0-9a-f:.]+\](:[0-9]+)?", name):
                raise ValueError("must be hosts as they stand in the Host header, such as metrics.example.org:8080")
        return names

    @field_validator("vitals_origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin):
                raise ValueError("must be origins, such as https://shop.example.org: scheme, host, and no path")
        return origins


class FleetSettings(Section):
    """The processes that work together."""

    name: str = Field(
        "pipeline",
        pattern=r"^[A-Za-z0-9_.:-]+$",
        description="prefix of the Redis keys that all processes share: schedule, heartbeats, checkpoints, alert state",
    )


class LogSettings(Section):
    """Structured logs on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="minimum log level")
    format: Literal["auto", "json", "pretty"] = Field("auto", description="auto: pretty on a terminal, json elsewhere")
