"""A handle on a ClickHouse server by HTTP or HTTPS.

The driver would choose TLS by the port and ignore the scheme of the address, so the address is read
here and everything is said to the driver part by part. Certificates are the settings ``clickhouse.tls``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver import httputil
from clickhouse_connect.driver.client import Client
from urllib3 import PoolManager

from pipeline.base import tls
from pipeline.base.addresses import Address, clickhouse_address
from pipeline.base.config import ClickHouseSettings
from pipeline.store.answers import Answers, AnswersByProxy


def connect(settings: ClickHouseSettings, dsn: str, profile: Mapping[str, Any], token: str = "") -> Client:
    """Connect to ``dsn``; ``profile`` goes with every request, ``token`` instead of user and password.

    Raises ``ConfigError`` when a certificate's file cannot be used, and the driver's errors.
    """
    # These log every request that fails, with a traceback; the caller that retries logs the outage once.
    for talker in ("clickhouse_connect", "urllib3.connectionpool"):
        logging.getLogger(talker).setLevel(logging.ERROR)
    address = clickhouse_address(dsn)
    # Without a password ClickHouse may know its user by the certificate, which the driver has to announce.
    by_certificate = bool(settings.tls.cert_file and address.is_encrypted and address.user and not address.password)
    return clickhouse_connect.get_client(
        interface=address.scheme,
        host=address.host,
        port=address.port,
        username=address.user or None,
        password=address.password,
        access_token=token or None,
        client_cert=settings.tls.cert_file if by_certificate else None,
        # A handle per thread is what clone() is for; a session would refuse the second one.
        autogenerate_session_id=False,
        autogenerate_query_id=False,  # ``Answers`` gives each request one
        settings=dict(profile),
        # Whole seconds: the driver cuts off what is behind the point, and half a second would be none.
        connect_timeout=math.ceil(settings.connect_timeout_s),
        send_receive_timeout=math.ceil(settings.request_timeout_s),
        compress=False,
        query_retries=0,
        pool_mgr=_pool(settings, address),
        show_clickhouse_errors="scrub",  # the whole text repeats the URL, password included
    )


def _pool(settings: ClickHouseSettings, address: Address) -> PoolManager:
    """A pool of the handle's own, closed with it. The certificates are read again for every connection."""
    options: dict[str, Any] = {"maxsize": 2, "num_pools": 1}
    if address.is_encrypted:
        tls.check_files(settings.tls, "clickhouse.tls")
        options |= {
            "verify": True,
            "ca_cert": settings.tls.ca_file or None,
            "client_cert": settings.tls.cert_file or None,
            "client_cert_key": settings.tls.key_file or settings.tls.cert_file or None,
        }
        if not settings.tls.check_hostname:
            options["assert_hostname"] = False
    options = httputil.get_pool_manager_options(**options)
    proxy = httputil.check_env_proxy("https", address.host, address.port) if address.is_encrypted else None
    # Its time at the server, and as long again for the way of a large answer.
    whole_s = math.ceil(settings.connect_timeout_s) + 2 * math.ceil(settings.request_timeout_s)
    if not proxy:
        return Answers(whole_s=whole_s, **options)
    return AnswersByProxy(proxy if proxy.startswith("http") else f"https://{proxy}", whole_s=whole_s, **options)
