"""The doctor: checks what the promises rest on (Redis, ClickHouse, this machine), and names the fix for what is wrong.

``bad`` breaks a promise, ``warn`` weakens one. The service refuses to start on what would lose data
for certain (an eviction policy that deletes the buffer), and logs the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import redis

from pipeline.base.config import Settings
from pipeline.base.errors import ConfigError, Outage, PipelineError, RedisDenied, StoreRefused
from pipeline.base.redis_link import RedisLink
from pipeline.operate import preflight
from pipeline.operate.clickhouse_findings import RIGHTS, clickhouse_findings, retention_finding
from pipeline.operate.findings import Finding
from pipeline.operate.redis_findings import (
    LOOK_AT_DISK,
    collecting_finding,
    durable_seal_finding,
    redis_findings,
    rights_finding,
)
from pipeline.store.client import Store, engine_path

MIN_FREE_BYTES = 2 << 30


def open_for_doctor(settings: Settings) -> tuple[RedisLink | None, Store | None, list[Finding]]:
    """Open Redis and ClickHouse; what cannot be opened is a finding. Nothing is started or created."""
    findings = []
    link: RedisLink | None = None
    store: Store | None = None
    try:
        link = RedisLink.open(settings, start=False)
    except PipelineError as error:
        findings.append(Finding("redis", "bad", str(error), "see 'redis.url' in the settings"))
    path = engine_path(settings)
    if path is not None and not path.exists():
        findings.append(Finding("schema", "warn", f"there is no {path} yet", "start 'pipeline run', which makes it"))
        return link, None, findings
    try:
        store = Store.open(settings, role="reader" if path is not None else "writer")
    except PipelineError as error:
        findings.append(Finding("clickhouse", "bad", str(error), "see 'clickhouse.dsn' in the settings"))
    return link, store, findings


def examine(settings: Settings, link: RedisLink | None, store: Store | None) -> list[Finding]:
    """All checks that can be made with what could be opened."""

    def redis_side(link: RedisLink) -> Iterator[Finding]:
        yield from redis_findings(link)
        yield rights_finding(settings, link)
        yield collecting_finding(settings, link)
        yield durable_seal_finding(settings, link)

    def clickhouse_side(store: Store) -> Iterator[Finding]:
        for finding in clickhouse_findings(settings, store):
            yield finding
            if (finding.check, finding.severity) == ("schema", "ok"):
                yield retention_finding(settings, link, store)

    findings: list[Finding] = []
    if link is not None:
        findings += _attempt("redis", redis_side(link))
    if store is not None:
        findings += _attempt("clickhouse", clickhouse_side(store))
    findings += disk_findings(settings)
    findings += [Finding("encryption", "warn", *warning.split("; ", 1)) for warning in preflight.warnings(settings)]
    return findings


def refuse_risky_redis(settings: Settings, link: RedisLink) -> None:
    """Raise ``ConfigError`` when Redis may evict the buffer itself, unless the risk was accepted."""
    policy = str(link.server_info().get("maxmemory_policy", ""))
    if policy.startswith("allkeys-") and not settings.redis.accept_eviction_risk:
        raise ConfigError(
            f"Redis has the eviction policy {policy!r}, which deletes the buffer itself when memory is short; set "
            "maxmemory-policy to noeviction (or volatile-lru on a shared server), or accept the loss with the "
            "setting 'redis.accept_eviction_risk' true"
        )


def disk_findings(settings: Settings) -> Iterator[Finding]:
    """Room for the embedded engines and for spilled segments."""
    place = settings.data_dir.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_BYTES:
        yield Finding(
            "disk", "warn", f"{free >> 20:,} MiB free under {settings.data_dir}", "make room or move data_dir"
        )
    else:
        yield Finding("disk", "ok", f"{free >> 30:,} GiB free under {settings.data_dir}")


def _attempt(side: str, findings: Iterator[Finding]) -> list[Finding]:
    """What can be found out; what cannot is itself a finding."""
    found = []
    try:
        for finding in findings:
            found.append(finding)  # noqa: PERF402  what came before the error stays
    except RedisDenied as denied:
        found.append(Finding(side, "bad", str(denied), "see 'redis.url', and config/redis-users.acl for its rights"))
    except Outage as outage:
        if "MISCONF" in str(outage):  # said even to those who only read
            if any(one.check == "redis persistence" for one in found):
                return found
            return [*found, Finding("redis persistence", "bad", str(outage), LOOK_AT_DISK)]
        found.append(Finding(side, "bad", str(outage), f"see that it runs, and that {_ADDRESSES[side]} is its address"))
    except StoreRefused as refused:
        found.append(Finding(side, "bad", str(refused), RIGHTS))
    except (PipelineError, redis.RedisError) as error:
        found.append(Finding(side, "bad", str(error), f"see {_ADDRESSES[side]} and what its user may do"))
    return found


_ADDRESSES = {"redis": "'redis.url'", "clickhouse": "'clickhouse.dsn'"}
