"""Who may ask a port."""

import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import urllib3
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pipeline.base.config import WebSettings
from pipeline.base.errors import ConfigError
from pipeline.serve.access import Access, Credentials, Names, ShownCredentials, require_credentials, same_text
from pipeline.serve.server import HttpServer

ANY = urllib3.PoolManager(retries=False)


async def fine(_: Request) -> PlainTextResponse:
    """What is behind the door."""
    return PlainTextResponse("in")


@pytest.fixture
def serve() -> Iterator[Callable[[Credentials], HttpServer]]:
    """``serve(credentials)`` starts a server with two paths, one of them open."""
    with ExitStack() as running:

        def start(credentials: Credentials) -> HttpServer:
            server = HttpServer("127.0.0.1", 0, name="test-access")
            running.callback(server.close)
            access = Middleware(
                Access,
                port="test",
                credentials=credentials,
                explain=lambda refusal: PlainTextResponse(refusal.why, refusal.status),
                names=lambda: Names("127.0.0.1", server.port, ["metrics.example.org"]),
                open_paths=frozenset({"/healthz"}),
                parameters=True,
            )
            routes = [Route(path, fine, methods=["GET", "POST"]) for path in ("/", "/healthz")]
            server.serve(Starlette(routes=routes, middleware=[access]))
            return server

        yield start


def status(server: HttpServer, path: str = "/", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return int(ANY.request("GET", server.url + path, headers=named).status)


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost:8123", True),
        ("127.0.0.1:8123", True),
        ("[::1]:8123", True),
        ("LOCALHOST:8123", True),
        ("localhost.:8123", True),
        ("localhost", True),
        ("localhost:8124", False),
        ("localhost:8123x", False),
        ("metrics.example.org", True),
        ("metrics.example.org:443", True),
        ("evil.example.org:8123", False),
        ("localhost.evil.example.org:8123", False),
        ("10.1.2.3:8123", False),
        ("0.0.0.0:8123", False),
        ("", False),
        ("[::1", False),
        ("localhost:8123@evil.example.org", False),
    ],
)
def test_own_names_only(host: str, known: bool) -> None:
    """Loopback's names with the own port, what the settings add, and nothing that only looks like them."""
    assert Names("127.0.0.1", 8123, ["metrics.example.org"]).knows(host) is known


def test_beyond_loopback_addresses_are_names_too() -> None:
    """An address in figures cannot be rebound; a foreign name stays foreign."""
    names = Names("0.0.0.0", 8080)
    assert names.knows("192.168.1.7:8080")
    assert names.knows("[fd00::7]:8080")
    assert not names.knows("0.0.0.0:8080")
    assert not names.knows("evil.example.org:8080")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"Origin": "{own}"}, 200),
        ({"Origin": "https://evil.example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}, 200),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}, 403),
        ({"Host": "evil.example.org"}, 403),
    ],
)
def test_foreign_pages_are_refused(
    serve: Callable[[Credentials], HttpServer], headers: dict[str, str], expected: int
) -> None:
    """By Origin, by what the browser says of the page, by Host; a link that a reader follows is let in."""
    server = serve(Credentials())
    assert status(server, **{name: value.format(own=server.url) for name, value in headers.items()}) == expected


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/", {}, 401),
        ("/", {"Authorization": "Bearer t0ken"}, 200),
        ("/", {"Authorization": "bearer t0ken"}, 200),
        ("/", {"Authorization": "Bearer l0cal"}, 200),
        ("/", {"Authorization": "Bearer t0ken2"}, 403),
        ("/", {"Authorization": "Bearer "}, 401),
        ("/", {"Authorization": basic("ann", "s:ecret")}, 200),
        ("/", {"Authorization": basic("ann", "wrong")}, 403),
        ("/", {"Authorization": basic("bob", "s:ecret")}, 403),
        ("/", {"Authorization": "Basic %%%"}, 401),
        ("/", {"X-ClickHouse-User": "ann", "X-ClickHouse-Key": "s:ecret"}, 200),
        ("/", {"X-ClickHouse-User": "ann", "X-ClickHouse-Key": ""}, 401),
        ("/?user=ann&password=s:ecret", {}, 200),
        ("/?user=ann&password=", {}, 401),
        ("/?user=&password=", {"Authorization": "Bearer nonsense"}, 403),
        ("/", {"Cookie": "pipeline_login={cookie}"}, 200),
        ("/", {"Cookie": "pipeline_login=t0ken"}, 403),
        ("/healthz", {}, 200),
        ("/healthz", {"Host": "evil.example.org"}, 403),
        ("//healthz", {}, 401),
        ("/healthz/", {}, 401),
    ],
)
def test_each_way_to_show_credentials(
    serve: Callable[[Credentials], HttpServer], path: str, headers: dict[str, Any], expected: int
) -> None:
    """Token, user with password in each form, the cookie, the machine's secret; nothing else, and no empty ones."""
    credentials = Credentials("t0ken", "ann", "s:ecret", "l0cal")
    server = serve(credentials)
    filled = {name: value.format(cookie=credentials.cookie) for name, value in headers.items()}
    assert ANY.request("GET", server.url + path, headers=filled).status == expected


def test_without_configured_credentials_any_are_taken(serve: Callable[[Credentials], HttpServer]) -> None:
    """Drivers that always send a name and a password get on, on loopback."""
    assert status(serve(Credentials(local_secret="l0cal")), Authorization=basic("default", "whatever")) == 200


@pytest.mark.parametrize("shown", ["\ud800", "t0ken\udcff", "\x00", "ä", "t0ken\x00"])
def test_a_text_of_any_characters_is_compared(shown: str) -> None:
    """Also half a character, which JSON can carry: it is not the token, and no reason to fail."""
    assert not same_text(shown, "t0ken") and same_text(shown, shown)


def test_a_half_configured_pair_is_no_password() -> None:
    """Neither an empty user nor an empty password ever matches."""
    for credentials in (Credentials(token="t"), Credentials(user="ann", token="t"), Credentials()):
        assert not credentials.accept(ShownCredentials())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.7", "metrics.example.org"])
def test_beyond_loopback_credentials_are_required(host: str) -> None:
    """Listening for other machines without credentials is refused, with the way out in the sentence."""
    with pytest.raises(ConfigError, match=r"web\.token"):
        require_credentials(WebSettings(host=host))
    require_credentials(WebSettings(host=host, token="t"))
    require_credentials(WebSettings(host=host, user="u", password="p"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_loopback_they_are_not(host: str) -> None:
    """The default needs no set-up."""
    require_credentials(WebSettings(host=host))


@pytest.mark.parametrize("half", [{"user": "u"}, {"password": "p"}])
def test_user_and_password_go_together(half: dict[str, str]) -> None:
    """One without the other is a mistake, and the sentence says which setting is missing."""
    with pytest.raises(ConfigError, match=r"web\.user.*web\.password|web\.password.*web\.user"):
        require_credentials(WebSettings(**half))  # type: ignore[arg-type]
