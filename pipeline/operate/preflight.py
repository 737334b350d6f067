"""What is checked before anything is opened: ``pipeline validate`` and ``pipeline run`` make the same check.

Whatever can be known from the settings and this machine alone is refused here with one sentence; what
needs Redis or ClickHouse is for ``pipeline doctor``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.alerts.notify.channels import parse_channels
from pipeline.alerts.rules.load import load
from pipeline.alerts.rules.rule import Rule
from pipeline.base import tls
from pipeline.base.addresses import Address, clickhouse_address, redis_address
from pipeline.base.config import Settings, demand_server_for_cluster
from pipeline.base.errors import ConfigError
from pipeline.base.redis_pool import tls_settings
from pipeline.base.text import printable
from pipeline.collect.build import checked_catalogue
from pipeline.serve.access import require_credentials


def check(settings: Settings) -> list[Rule]:
    """The alert rules, once everything else is well. Raises ``UsageError`` with the first mistake."""
    check_certificates(settings)
    demand_server_for_cluster(settings.clickhouse)
    check_directory(settings.data_dir)
    require_credentials(settings.web)
    parse_channels(settings.alerts.channels)
    checked_catalogue(settings)
    return load(settings.alerts.rules_file)


def check_certificates(settings: Settings) -> None:
    """Raise ``ConfigError`` unless every file that TLS needs can be used."""
    redis, clickhouse = _addresses(settings)
    if redis is not None and redis.is_encrypted:
        tls_settings(redis, settings.redis.tls)
    if clickhouse is not None and clickhouse.is_encrypted:
        tls.check_files(settings.clickhouse.tls, "clickhouse.tls")


def check_directory(data_dir: Path) -> None:
    """Raise ``ConfigError`` unless files can be written to ``data_dir``, which need not exist yet."""
    shown = printable(str(data_dir))
    for place in (data_dir, *data_dir.absolute().parents):
        if not os.path.lexists(place):
            continue
        if not place.is_dir():
            what = "it" if place == data_dir else f"'{printable(str(place))}'"
            raise ConfigError(f"data_dir is '{shown}', but {what} is not a directory; choose another place")
        if not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(
                f"data_dir is '{shown}', but this user may not write to '{printable(str(place))}'; "
                "give it the right, or choose another place"
            )
        return


def warnings(settings: Settings) -> Iterator[str]:
    """What works and is still not as it should be, each with its fix."""
    redis, clickhouse = _addresses(settings)
    for name, fix, address in (("redis.url", "rediss://", redis), ("clickhouse.dsn", "https://", clickhouse)):
        if address is not None and address.password and not address.is_encrypted and not address.is_local:
            yield f"{name} sends a password to {address} without encryption; use {fix}"


def _addresses(settings: Settings) -> tuple[Address | None, Address | None]:
    url, dsn = settings.redis.url, settings.clickhouse.dsn
    return (
        None if url == "embedded" else redis_address(url),
        None if dsn == "embedded" else clickhouse_address(dsn),
    )
