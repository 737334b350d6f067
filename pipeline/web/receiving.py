"""``POST /v1/push`` for producers that cannot reach Redis, ``POST /v1/vitals`` for browsers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pipeline.base.errors import Outage
from pipeline.base.measures import INGESTED
from pipeline.serve.access import Credentials, Names, ShownCredentials, is_same_origin, same_text
from pipeline.serve.bodies import BodyRefused, Budget, read_body, unpacked
from pipeline.serve.workers import Workers
from pipeline.web import beacons
from pipeline.web.inbox import Inbox, InboxRefused, JudgedItems, judge, split
from pipeline.web.parts import Parts
from pipeline.web.rates import Rates

PATHS = frozenset({"/v1/push", "/v1/vitals"})
MAX_PUSH_BYTES = 8 << 20
MAX_BODIES_BYTES = 64 << 20
_PATIENCE_S = 10.0
_PREFLIGHT_S = "86400"


class Receiving:
    """Both endpoints; they judge their senders themselves, since browsers of other origins may be among them."""

    def __init__(self, parts: Parts, credentials: Credentials, names: Callable[[], Names], workers: Workers) -> None:
        web = parts.settings.web
        self._web = web
        self._credentials = credentials
        self._names = names
        self._workers = workers
        self._limits = parts.limits
        self._inbox = Inbox(parts.buffers)
        self._budget = Budget(MAX_BODIES_BYTES)
        self._rates = Rates(web.vitals_per_s, int(web.vitals_per_s * 10))

    def routes(self) -> list[BaseRoute]:
        """For the site."""
        return [
            Route("/v1/push", self._push, methods=["POST"]),
            Route("/v1/vitals", self._vitals, methods=["POST", "OPTIONS"]),
        ]

    # /v1/push

    async def _push(self, request: Request) -> Response:
        if refusal := self._refused_push(request):
            return refusal
        key = request.headers.get("idempotency-key", "")[:500]
        return await self._received(request, "push", MAX_PUSH_BYTES, self._judge_push, key)

    def _refused_push(self, request: Request) -> Response | None:
        if not self._names().knows(request.headers.get("host", "")):
            return _no(403, "The Host header is not a name of this server; see the setting web.names.")
        if not is_same_origin(request.headers):
            return _no(403, "Pages of other origins may not push; for vitals there is /v1/vitals.")
        required = self._credentials.are_required or bool(self._web.write_key)
        shown = ShownCredentials.by(request, parameters=False)
        if not required or self._has_write_key(request, shown) or self._credentials.accept(shown):
            return None
        return _no(401, "Pushing needs the write key (setting web.write_key) or the site's credentials.")

    def _judge_push(self, body: bytes) -> JudgedItems:
        return judge(split(body), time.time_ns() // 1_000_000, self._limits())

    # /v1/vitals

    async def _vitals(self, request: Request) -> Response:
        origin = request.headers.get("origin", "")
        foreign = bool(origin) and not is_same_origin(request.headers)
        if not self._names().knows(request.headers.get("host", "")):
            return _no(403, "The Host header is not a name of this server; see the setting web.names.")
        if foreign and not beacons.allowed_origin(origin, self._web.vitals_origins):
            return _no(403, "This origin is not listed in the setting web.vitals_origins.")
        response = await self._vitals_of(request)
        if foreign:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        response.headers["Vary"] = "Origin"
        return response

    async def _vitals_of(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            allowed = {"Access-Control-Allow-Methods": "POST", "Access-Control-Max-Age": _PREFLIGHT_S}
            return Response(
                status_code=204, headers={**allowed, "Access-Control-Allow-Headers": "content-type, x-write-key"}
            )
        if self._web.write_key and not self._has_write_key(request, ShownCredentials.by(request, parameters=False)):
            return _no(401, "A write key is required: ?key= or the header X-Write-Key.")
        address = request.client.host if request.client else ""
        if not self._rates.allow(address, time.monotonic()):
            return _no(429, "Too many reports from this address.", {"Retry-After": "1"})
        agent = request.headers.get("user-agent", "")
        return await self._received(
            request, "vitals", beacons.MAX_BODY_BYTES, lambda body: self._judge_vitals(body, agent)
        )

    def _judge_vitals(self, body: bytes, user_agent: str) -> JudgedItems:
        now_ms = time.time_ns() // 1_000_000
        items: dict[int, bytes] = {}
        refused = []
        try:
            found = beacons.reports(body)
        except beacons.NotAReport as why:
            raise InboxRefused(400, f"No report: {why}.") from None
        for index, report in enumerate(found):
            try:
                items[index] = json.dumps(beacons.as_metric(report, user_agent, now_ms)).encode()
            except beacons.NotAReport as why:
                refused.append({"index": index, "reason": "not a report", "detail": str(why)})
        judged = judge(list(items.values()), now_ms, self._limits())
        places = list(items)
        refused += [{**one, "index": places[one["index"]]} for one in judged.refused]
        return JudgedItems(judged.accepted, sorted(refused, key=lambda one: one["index"]))

    # Both

    def _has_write_key(self, request: Request, shown: ShownCredentials) -> bool:
        given = request.headers.get("x-write-key") or request.query_params.get("key") or shown.bearer
        return same_text(given, self._web.write_key)

    async def _received(
        self, request: Request, endpoint: str, limit: int, judge_body: Callable[[bytes], JudgedItems], key: str = ""
    ) -> Response:
        try:
            async with read_body(request, limit, self._budget) as sent:
                encoding = request.headers.get("content-encoding", "")
                work = self._workers.run(lambda: self._take(sent, encoding, limit, judge_body, key), _PATIENCE_S)
                answer = await work
        except (BodyRefused, InboxRefused) as why:
            close = {"Connection": "close"} if isinstance(why, BodyRefused) else {}
            return _no(why.status, str(why), close)
        except ClientDisconnect:
            return _no(400, "The client went away.")
        except (Outage, TimeoutError) as outage:
            said = f"Redis did not confirm the items: {outage}. " if isinstance(outage, Outage) else "Too busy. "
            hint = "Send them again with the same Idempotency-Key." if key else "Send them again."
            return _no(503, said + hint, {"Retry-After": "5"})
        outcome = "repeated" if answer.get("repeated") else "accepted"
        INGESTED.labels(endpoint, outcome).inc(answer["accepted"])
        INGESTED.labels(endpoint, "refused").inc(answer["refused_count"])
        return JSONResponse(answer, 202 if answer["accepted"] else 422)

    def _take(
        self, sent: bytearray, encoding: str, limit: int, judge_body: Callable[[bytes], JudgedItems], key: str
    ) -> dict[str, Any]:
        return self._inbox.push(judge_body(bytes(unpacked(sent, encoding, limit))), key)


def _no(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": why}, status, headers)
