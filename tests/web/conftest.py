"""A site on a real Redis and a fresh database, without a service around it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3
from conftest import redis_executables

from pipeline.base.config import Settings
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.buffer import Buffer, open_buffers
from pipeline.store.client import Store
from pipeline.web.parts import Parts
from pipeline.web.site import Site


class World:
    """A site and what stands behind it."""

    def __init__(self, site: Site, parts: Parts, store: Store) -> None:
        self.site = site
        self.parts = parts
        self.store = store
        self.http = urllib3.PoolManager(retries=False)

    @property
    def buffer(self) -> Buffer:
        """The only buffer."""
        return self.parts.buffers[0]

    def get(self, path: str, **headers: str) -> Any:
        """GET."""
        return self.http.request("GET", self.site.url + path, headers=headers)

    def post(self, path: str, body: bytes | str, **headers: str) -> Any:
        """POST, with headers whose names are written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.request("POST", self.site.url + path, body=body, headers=named)


@pytest.fixture
def open_site(store: Store, settings: Settings, _redis_servers: Callable[[str], str]) -> Iterator[Callable[..., World]]:
    """``open_site(web={"token": "t"}, loops=…)`` serves one; on the newest Redis there is."""
    import redis

    url = _redis_servers(max(redis_executables()))
    with redis.Redis.from_url(url) as client:
        client.flushall()
    opened: list[Any] = []

    def start(web: dict[str, Any] | None = None, **parts: Any) -> World:
        own = settings.model_copy(
            update={
                "redis": settings.redis.model_copy(update={"url": url}),
                "web": settings.web.model_copy(update=web or {}),
            }
        )
        link = RedisLink.open(own)
        found = Parts(
            own,
            link,
            open_buffers(own, link),
            store=store.clone,
            reader=lambda: Store.open(own, role="reader"),
            **parts,
        )
        site = Site(found, "127.0.0.1", 0)
        opened.extend((link, site))
        return World(site, found, store)

    yield start
    for one in reversed(opened):
        one.close()
