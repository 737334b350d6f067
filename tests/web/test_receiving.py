"""Metrics and vitals that come over HTTP."""

import gzip
import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.metric import Limits, Metric, decode
from pipeline.web.beacons import ATTRIBUTION, NotAReport, as_metric, browser_of, page_of
from pipeline.web.inbox import InboxRefused, split
from pipeline.web.rates import Rates
from web.conftest import World

OpenSite = Callable[..., World]
GOOD: dict[str, Any] = {"metric_type": "duration", "value": 5, "test_id": "a"}


def metric(**fields: Any) -> dict[str, Any]:
    return {**GOOD, "timestamp": time.time_ns() // 1_000_000, **fields}


def waiting(world: World) -> list[bytes]:
    return list(world.buffer.client.lrange(world.buffer.key, 0, -1))


@pytest.mark.parametrize(
    ("body", "items"),
    [
        (b'{"a": 1}', [b'{"a": 1}']),
        (b' {\n "a": 1\n}\n', [b'{\n "a": 1\n}']),
        (b'[{"a": 1.50}, {"b" :2}]', [b'{"a": 1.50}', b'{"b" :2}']),
        (b'{"a": 1}\r\n\n{"b": 2}\n', [b'{"a": 1}', b'{"b": 2}']),
        (b'{"a": 1}\nnonsense', [b'{"a": 1}', b"nonsense"]),
    ],
)
def test_an_object_an_array_or_lines(body: bytes, items: list[bytes]) -> None:
    """Items are taken out of a body to the byte, so that numbers and order stay as they were sent."""
    assert split(body) == items


@pytest.mark.parametrize("body", [b"", b" \n ", b"[", b"[]", b"[" * 100_000])
def test_a_body_without_items_is_refused(body: bytes) -> None:
    """With a sentence, before anything is pushed."""
    with pytest.raises(InboxRefused):
        split(body)


def test_the_platforms_retention_counts_at_once(open_site: OpenSite) -> None:
    """When the platform keeps raw rows for fewer hours or more, the next push is judged by that, and so is a replay."""
    hours = [720]
    world = open_site(raw_hours=lambda: hours[0])
    body = json.dumps(metric(timestamp=time.time() - 100 * 3600))
    assert world.post("/v1/push", body).status == 202
    hours[0] = 24
    assert json.loads(world.post("/v1/push", body).data)["refused"][0]["reason"] == "timestamp too old"
    assert world.parts.limits().retention_ms == 24 * 3_600_000


def test_pushed_is_what_redis_has(open_site: OpenSite) -> None:
    """202 with the count; each refused item is named with the drainer's own reason; the others are pushed."""
    world = open_site()
    items = [metric(), {"metric_type": "duration"}, metric(value="x"), metric(timestamp=1)]
    answer = world.post("/v1/push", json.dumps(items))
    told = json.loads(answer.data)
    assert (answer.status, told["accepted"], told["refused_count"]) == (202, 1, 3)
    assert [(one["index"], one["reason"]) for one in told["refused"]] == [
        (1, "missing field"),
        (2, "wrong type"),
        (3, "timestamp too old"),
    ]
    assert [json.loads(item) for item in waiting(world)] == [items[0]]
    lines = "\n".join(json.dumps(metric(test_id=str(n))) for n in range(2500)).encode()
    packed = world.post("/v1/push", gzip.compress(lines), Content_Encoding="gzip")
    assert json.loads(packed.data)["accepted"] == 2500
    assert len(waiting(world)) == 2501
    assert world.post("/v1/push", "nonsense").status == 422
    assert world.post("/v1/push", "").status == 400
    bomb = gzip.compress(b" " * (20 << 20))
    assert world.post("/v1/push", bomb, Content_Encoding="gzip").status == 413


def test_a_body_of_two_lengths_is_refused(open_site: OpenSite) -> None:
    """A proxy in front may go by the other length, and what follows would be a request that it never judged."""
    world = open_site()
    address = urlsplit(world.site.url)
    smuggled = b"POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled
        )
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1 ") == 1
    assert b"not both" in answer
    assert waiting(world) == []


def test_a_retried_request_counts_once(open_site: OpenSite) -> None:
    """The same key with the same items is answered as before; with other items it is refused."""
    world = open_site()
    body = json.dumps([metric(test_id=str(n)) for n in range(3)])
    first = json.loads(world.post("/v1/push", body, Idempotency_Key="run-7").data)
    again = world.post("/v1/push", body, Idempotency_Key="run-7")
    assert (again.status, json.loads(again.data)) == (202, {**first, "repeated": True})
    assert len(waiting(world)) == 3
    assert world.post("/v1/push", json.dumps(metric()), Idempotency_Key="run-7").status == 422
    assert world.post("/v1/push", body, Idempotency_Key="run-8").status == 202
    assert len(waiting(world)) == 6


def test_a_full_or_absent_redis_is_said(open_site: OpenSite) -> None:
    """503, with what to do; nothing is called accepted that Redis does not have."""
    world = open_site()
    client = world.buffer.client
    client.config_set("maxmemory", 1)
    try:
        full = world.post("/v1/push", json.dumps(metric()), Idempotency_Key="k")
    finally:
        client.config_set("maxmemory", 0)
    assert (full.status, full.headers["Retry-After"]) == (503, "5")
    assert b"same Idempotency-Key" in full.data
    assert waiting(world) == []
    assert world.post("/v1/push", json.dumps(metric()), Idempotency_Key="k").status == 202


def test_who_may_push(open_site: OpenSite) -> None:
    """Each client on loopback without credentials; with a write key or credentials who shows one; never a page."""
    world = open_site(web={"write_key": "wr1te", "token": "t0ken"})
    body = json.dumps(metric())
    assert world.post("/v1/push", body).status == 401
    assert world.post("/v1/push", body, Authorization="Bearer wrong").status == 401
    for shown in ({"Authorization": "Bearer wr1te"}, {"X_Write_Key": "wr1te"}, {"Authorization": "Bearer t0ken"}):
        assert world.post("/v1/push", body, **shown).status == 202
    assert world.post("/v1/push", body, Authorization="Bearer wr1te", Origin="https://evil.example.org").status == 403
    assert world.post("/v1/push", body, Authorization="Bearer wr1te", Host="evil.example.org").status == 403
    # The write key writes, and does nothing else.
    assert world.get("/metrics", Authorization="Bearer wr1te").status == 403


# Vitals

REPORT = {"name": "LCP", "value": 1234.5, "id": "v5-1700000000000-123", "rating": "good", "delta": 1234.5}
CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"


def test_a_report_becomes_a_metric(open_site: OpenSite) -> None:
    """Also as sendBeacon's text, also several; only listed fields, the path of the page, the browser's family."""
    world = open_site(web={"vitals_origins": ["https://shop.example.org"]})
    report = {
        **REPORT,
        "navigationType": "navigate",
        "page": "https://shop.example.org/cart?user=ann#x",
        "environment": "prod",
        "attribution": {
            "element": "#hero",
            "timeToFirstByte": 120.04,
            "lcpEntry": {"secret": 1},
            "url": "https://x/?p=1",
        },
        "cookie": "secret",
    }
    body = json.dumps([report, {**REPORT, "name": "CLS", "value": 0.1}, {"name": "X"}])
    origin = "https://shop.example.org"
    answer = world.post("/v1/vitals", body, Content_Type="text/plain", Origin=origin, User_Agent=CHROME)
    assert (answer.status, json.loads(answer.data)["accepted"]) == (202, 2)
    assert json.loads(answer.data)["refused"][0]["index"] == 2
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert "Access-Control-Allow-Credentials" not in answer.headers
    cls, lcp = (json.loads(item) for item in waiting(world))
    assert (cls["metric_type"], cls["value"]) == ("cls", 0.1)
    assert lcp == {
        "timestamp": lcp["timestamp"],
        "metric_type": "lcp",
        "value": 1234.5,
        "browser": "chrome",
        "page": "/cart",
        "environment": "prod",
        "tags": {
            "id": "v5-1700000000000-123",
            "source": "beacon",
            "rating": "good",
            "navigation_type": "navigate",
            "target": "#hero",
            "time_to_first_byte": "120.0",
        },
    }


def test_only_listed_origins_may_report(open_site: OpenSite) -> None:
    """Preflight and report of another origin are refused and get no permission; a write key is asked for if set."""
    world = open_site(web={"vitals_origins": ["https://shop.example.org"], "write_key": "wr1te", "token": "t0ken"})
    for method in ("OPTIONS", "POST"):
        foreign = world.http.request(
            method, world.site.url + "/v1/vitals", headers={"Origin": "https://evil.example.org"}, body=b"{}"
        )
        assert foreign.status == 403
        assert "Access-Control-Allow-Origin" not in foreign.headers
    preflight = world.http.request(
        "OPTIONS", world.site.url + "/v1/vitals", headers={"Origin": "https://shop.example.org"}
    )
    assert (preflight.status, preflight.headers["Access-Control-Allow-Methods"]) == (204, "POST")
    sent = json.dumps(REPORT)
    assert world.post("/v1/vitals", sent, Origin="https://shop.example.org").status == 401
    assert world.post("/v1/vitals?key=wr1te", sent, Origin="https://shop.example.org").status == 202


def test_one_address_may_send_so_much(open_site: OpenSite) -> None:
    """Beyond its rate an address is told to wait."""
    world = open_site(web={"vitals_per_s": 0.5})
    answers = [world.post("/v1/vitals", json.dumps(REPORT)).status for _ in range(12)]
    assert 429 in answers
    assert answers[0] == 202


def test_rates_are_by_address_and_bounded() -> None:
    """A bucket fills again with time, another address has its own, and their number is bounded."""
    rates = Rates(1.0, 2, most_addresses=3)
    assert [rates.allow("a", 0.0) for _ in range(3)] == [True, True, False]
    assert rates.allow("b", 0.0)
    assert rates.allow("a", 1.0)
    assert [rates.allow("b", 100.0) for _ in range(3)] == [True, True, False], "a long rest saves up no more"
    for number in range(10):
        rates.allow(str(number), 102.0)
    assert len(rates._buckets) == 3


@pytest.mark.parametrize(
    "report",
    [
        None, 1, [], {}, {**REPORT, "name": "lcpx"}, {**REPORT, "value": True}, {**REPORT, "value": "1"},
        {**REPORT, "value": -1}, {**REPORT, "value": 1e9}, {**REPORT, "id": ""}, {**REPORT, "id": "a b"},
        {**REPORT, "id": "x" * 81}, {**REPORT, "value": float("nan")},
    ],
)  # fmt: skip
def test_what_is_no_report(report: Any) -> None:
    """Another name, no number, no id: refused with the field at fault."""
    with pytest.raises(NotAReport):
        as_metric(report, "", 0)


ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.integers(10**308, 10**400) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["name", "value", "id", "rating", "navigationType", "page", "environment", "attribution"])


@given(
    st.dictionaries(FIELDS, ANY_JSON, max_size=3),
    st.dictionaries(st.sampled_from(sorted(ATTRIBUTION)), ANY_JSON, max_size=3),
)
@example({}, {"inputDelay": 10**400})
def test_a_report_is_refused_or_becomes_a_metric_whatever_stands_in_its_fields(
    odd: dict[str, Any], attribution: dict[str, Any]
) -> None:
    """One odd field never costs the other reports of its body."""
    now_ms = time.time_ns() // 1_000_000
    try:
        item = as_metric({**REPORT, "attribution": attribution, **odd}, CHROME, now_ms)
    except NotAReport:
        return
    assert isinstance(decode(json.dumps(item).encode(), now_ms, Limits()), Metric)


@pytest.mark.parametrize(
    ("agent", "family"),
    [
        (CHROME, "chrome"),
        (CHROME + " Edg/140.0", "edge"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0", "firefox"),
        ("Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15", "safari"),
        (
            "Mozilla/5.0 (X11; Linux) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/140.0 Safari/537.36",
            "chrome",
        ),
        ("curl/8", "other"),
        ("", "other"),
    ],
)
def test_browsers_by_family(agent: str, family: str) -> None:
    """The names that the platform's own tests use, after aliases."""
    assert browser_of(agent) == family


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/a?b#c", "/a"),
        ("https://x.example/a/b", "/a/b"),
        ("//[", ""),
        (5, ""),
        ("/a\x00b\x1b", "/ab"),
        ("x" * 5000, "x" * 200),
    ],
)
def test_pages_are_paths(address: Any, path: str) -> None:
    """Nothing of a query, nothing that would harm a terminal, nothing long."""
    assert page_of(address) == path
