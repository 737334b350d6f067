"""What the page's own requests answer to texts and values that do not belong there."""

import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from conftest import effort

from pipeline.base import resources
from pipeline.web.figures import FILE, parameters
from web.conftest import World

ODD: list[Any] = [
    None, True, 0, -1, 10**400, 1e308, float("nan"), "", "x" * 3000, "\ud800", "\x00\x1b[31m", "a\nb", "9" * 400,
    "0001-01-01T00:00:00Z", "1h", "99999999d", 2**63, 1.5, [], {}, [[]], [None], [{}], ["x"] * 2000, "{a:Int64}",
    "rule=", "rule=~'('", "test_suite=~'(a+)+$'", "../../etc/passwd", "%00",
]  # fmt: skip
TEXTS = ["", "-1", "0", "9" * 400, "1.5", "NaN", "\x00", "Ω", "'", "x" * 3000, "4294967296", "a\nb", "{a:Int64}", "٣"]
QUESTIONS = [
    "SELECT 1", "SELECT {a:Int64}", "SELECT {a:Array(Int8)}", "SELECT {a:Identifier}", "SELECT '\ud800'", "SELECT", "",
    "SELECT 1 AS `\x00`, 2 AS `a\n`", "SELECT {from:DateTime}, {to:DateTime}", "SELECT 1; SELECT 2",
    "SELECT throwIf(1)",
    "SELECT toInt256(1), map(1, 2), tuple(), [], NULL, nan, '\\xff', toDate32('1900-01-01'), INTERVAL 1 DAY",
]  # fmt: skip
FORMATS = ["CSVWithNames", "Parquet", "Native", "", "x"]
Request = tuple[str, str, Any]


def a_request(chosen: random.Random) -> Request:
    """Method, path and body."""

    def given(*names: str) -> dict[str, Any]:
        return {name: chosen.choice(ODD) for name in names if chosen.random() < 0.6}

    def address(path: str, **parts: str) -> str:
        return path + "?" + urlencode({name: text for name, text in parts.items() if chosen.random() < 0.6})

    texts = {name: chosen.choice(TEXTS) for name in parameters({}, 10**6)}
    choices: list[Callable[[], Request]] = [
        lambda: ("GET", address("/api/figures/" + chosen.choice(list(resources.queries(FILE))), **texts), None),
        lambda: ("POST", "/api/ask", {"sql": chosen.choice(QUESTIONS), "parameters": given("a", "from")}),
        lambda: ("POST", "/api/ask", given("sql", "parameters")),
        lambda: (
            "GET",
            address(
                "/api/download", sql=chosen.choice(QUESTIONS[:4]), format=chosen.choice(FORMATS), param_a=texts["run"]
            ),
            None,
        ),
        lambda: ("POST", "/api/silences", given("matchers", "for", "comment", "by", "starts", "ends")),
        lambda: ("POST", "/api/silences", {"matchers": ["rule=a"], **given("for", "comment", "ends")}),
        lambda: ("DELETE", "/api/silences/" + quote(texts["run"] or "x", safe=""), None),
        lambda: ("POST", "/api/letters", {"preview": True, **given("action", "reason", "letters", "ids")}),
        lambda: ("GET", address("/api/letters", reason=texts["run"]), None),
        lambda: ("POST", "/api/login", given("token", "user", "password")),
        lambda: ("POST", chosen.choice(["/v1/push", "/v1/vitals"]), chosen.choice(ODD)),
    ]
    return chosen.choice(choices)()


@pytest.mark.parametrize("seed", range(effort(1, 2, 20)))
def test_every_request_of_the_page_is_answered_or_refused_in_words(open_site: Callable[..., World], seed: int) -> None:
    """Nothing fails inside: not by a number, a text, a list in a place where another thing belongs."""
    world = open_site(web={"token": "t"})
    chosen = random.Random(seed)
    headers = {"Authorization": "Bearer t", "Content-Type": "application/json"}
    for _ in range(effort(150, 300)):
        method, path, body = a_request(chosen)
        answer = world.http.request(
            method, world.site.url + path, body=None if body is None else json.dumps(body), headers=headers
        )
        assert answer.status not in (500, 404) or path.startswith("/api/silences/"), (method, path, body, answer.data)
        assert answer.status < 400 or {"error", "refused"} & json.loads(answer.data).keys(), (method, path, body)
    assert world.get("/healthz").status == 200
