"""The page's JSON: figures, questions, live events, signing in, and what can be done from the page."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from pipeline.base import log, resources
from pipeline.base.errors import Outage, PipelineError, StoreOutage, UsageError
from pipeline.serve.access import COOKIE, Credentials, ShownCredentials
from pipeline.serve.bodies import BodyRefused, Budget, read_body
from pipeline.serve.workers import Workers
from pipeline.web import acts, figures
from pipeline.web.figures import BadRequest, ReaderPool
from pipeline.web.now import history, now
from pipeline.web.parts import Parts
from pipeline.web.pulse import Pulse

_log = log.get(__name__)

_MAX_BODY_BYTES = 256 << 10
_PATIENCE_S = 15.0
_KEEP_ALIVE_S = 15.0
_MAX_STREAMS = 32
_COOKIE_AGE_S = 30 * 86_400
_KILL_AGAIN_S = 0.5
_TOO_MUCH = frozenset({159, 160, 241})
"""ClickHouse's codes for what takes too long, or too much memory: of a person's question they say something."""

Answer = Callable[[Request], Awaitable[Response]]


class Denied(Exception):
    """What changes something needs credentials, also where looking does not."""


class Desk:
    """Answers the page."""

    def __init__(self, parts: Parts, pulse: Pulse, credentials: Credentials, workers: Workers) -> None:
        self._parts = parts
        self._pulse = pulse
        self._credentials = credentials
        self._workers = workers
        self._own = ReaderPool(parts.store)
        self._analysts = ReaderPool(parts.reader)
        self._budget = Budget(16 << 20)
        self._streams: set[asyncio.Event] = set()
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def routes(self) -> list[BaseRoute]:
        """For the site."""
        return [
            Route("/api/session", self._guarded(self._session)),
            Route("/api/login", self._guarded(self._login), methods=["POST"]),
            Route("/api/logout", self._guarded(self._logout), methods=["POST"]),
            Route("/api/now", self._guarded(self._now)),
            Route("/api/events", self._guarded(self._events)),
            Route("/api/figures/{name}", self._guarded(self._figure)),
            Route("/api/schema", self._guarded(self._schema)),
            Route("/api/ask", self._guarded(self._ask), methods=["POST"]),
            Route("/api/download", self._guarded(self._download)),
            Route("/api/silences", self._guarded(self._silences), methods=["GET", "POST"]),
            Route("/api/silences/{id}", self._guarded(self._end_silence), methods=["DELETE"]),
            Route("/api/letters", self._guarded(self._letters), methods=["GET", "POST"]),
        ]

    def end_streams(self) -> None:
        """Have every live stream end; called from another thread."""
        self._ended = True
        for fresh in list(self._streams):
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(fresh.set)

    def close(self) -> None:
        """Give the handles back."""
        self._own.close()
        self._analysts.close()

    def _guarded(self, answer: Answer) -> Answer:
        """Every error as JSON in words for people."""

        async def guarded(request: Request) -> Response:
            try:
                return await answer(request)
            except (BadRequest, UsageError) as wrong:
                return JSONResponse({"error": str(wrong)}, 400)
            except Denied as denied:
                return JSONResponse({"error": str(denied), "kind": "denied"}, 403)
            except BodyRefused as why:
                return JSONResponse({"error": str(why)}, why.status, {"Connection": "close"})
            except Outage as outage:
                return JSONResponse({"error": str(outage), "kind": "outage"}, 503)
            except PipelineError as refused:
                return JSONResponse({"error": str(refused)}, 422)
            except TimeoutError:
                return JSONResponse({"error": "Too much is asked at once; try again in a moment."}, 503)
            except ClientDisconnect:
                return Response(status_code=400)

        return guarded

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await self._workers.run(work, _PATIENCE_S)

    async def _json(self, request: Request) -> Mapping[str, Any]:
        async with read_body(request, _MAX_BODY_BYTES, self._budget) as body:
            try:
                found = json.loads(bytes(body) or b"{}")
            except (ValueError, RecursionError):
                raise BadRequest("the body is not JSON") from None
        if not isinstance(found, dict):
            raise BadRequest("the body has to be a JSON object")
        return found

    # Who asks

    async def _session(self, request: Request) -> Response:
        settings = self._parts.settings
        return JSONResponse(
            {
                "may_act": self._may_act(request),
                "signs_in": self._credentials.are_required,
                "database": settings.clickhouse.database,
                "beacons": self._parts.beacons,
                "queries": [query.as_dict(name) for name, query in resources.queries().items()],
            }
        )

    async def _login(self, request: Request) -> Response:
        asked = await self._json(request)
        given = {name: str(asked.get(name, "")) for name in ("token", "user", "password")}
        if not self._credentials.accept(ShownCredentials(given["token"], given["user"], given["password"])):
            return JSONResponse({"error": "These credentials are not known here."}, 403)
        response = JSONResponse({"may_act": True})
        response.set_cookie(
            COOKIE,
            self._credentials.cookie,
            max_age=_COOKIE_AGE_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def _logout(self, _: Request) -> Response:
        response = JSONResponse({"may_act": False})
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    def _may_act(self, request: Request) -> bool:
        return self._credentials.accept(ShownCredentials.by(request, parameters=False))

    def _demand_act(self, request: Request) -> None:
        if not self._may_act(request):
            raise Denied("Sign in to change something: with the token, or by the address that the command printed.")

    # Looking

    async def _now(self, _: Request) -> Response:
        return JSONResponse(self._told(with_history=True))

    def _told(self, *, with_history: bool = False) -> dict[str, Any]:
        told = now(self._parts, self._pulse)
        return {**told, "history": history(self._pulse.history)} if with_history else told

    async def _events(self, _: Request) -> Response:
        if len(self._streams) >= _MAX_STREAMS:
            return JSONResponse({"error": "Too many pages are open."}, 503, {"Retry-After": "10"})
        return StreamingResponse(self._stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def _stream(self) -> AsyncIterator[bytes]:
        """A look for each event, as long as the reader stays and the service runs."""
        self._loop = loop = asyncio.get_running_loop()
        fresh = asyncio.Event()
        forget = self._pulse.listen(lambda _: loop.call_soon_threadsafe(fresh.set))
        self._streams.add(fresh)
        try:
            yield _event(self._told(with_history=True))
            while not self._ended:
                try:
                    await asyncio.wait_for(fresh.wait(), _KEEP_ALIVE_S)
                    fresh.clear()
                    yield _event(self._told())
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            self._streams.discard(fresh)
            forget()

    async def _figure(self, request: Request) -> Response:
        values = figures.parameters(request.query_params, int(time.time()))
        name = request.path_params["name"]
        return JSONResponse(await self._run(lambda: figures.figure(self._own, name, values)))

    async def _schema(self, _: Request) -> Response:
        database = self._parts.settings.clickhouse.database
        return JSONResponse({"tables": await self._run(lambda: figures.schema(self._own, database))})

    async def _ask(self, request: Request) -> Response:
        asked = await self._json(request)
        sql, given = str(asked.get("sql", "")).strip(), asked.get("parameters") or {}
        if not sql:
            raise BadRequest("there is no question")
        if not isinstance(given, dict):
            raise BadRequest("'parameters' has to be an object")
        values = figures.filled(sql, given)
        return JSONResponse(
            await self._for_as_long(request, lambda tag: figures.asked(self._analysts, sql, values, tag))
        )

    async def _download(self, request: Request) -> Response:
        sql, output = request.query_params.get("sql", ""), request.query_params.get("format", "CSVWithNames")
        given = {name[6:]: text for name, text in request.query_params.items() if name.startswith("param_")}
        values = figures.filled(sql, given)
        body = await self._for_as_long(request, lambda tag: figures.download(self._analysts, sql, output, values, tag))
        kind, ending = figures.DOWNLOADS[output]
        return Response(
            body, media_type=kind, headers={"Content-Disposition": f'attachment; filename="answer.{ending}"'}
        )

    async def _for_as_long(self, request: Request, work: Callable[[str], Any]) -> Any:
        """What a question's ``work`` gives, under a tag by which ClickHouse ends it once its reader has gone."""
        tag = f"page {uuid.uuid4()}"
        running = asyncio.ensure_future(self._run(lambda: work(tag)))
        gone = asyncio.ensure_future(_gone(request))
        await asyncio.wait((running, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not running.done():
            threading.Thread(target=self._end, args=(tag, running), name="page-kill", daemon=True).start()
        try:
            return await running
        except StoreOutage as outage:
            if outage.code in _TOO_MUCH:
                raise PipelineError(f"{outage}. Ask for a shorter span or fewer rows.") from None
            raise

    def _end(self, tag: str, running: asyncio.Future[Any]) -> None:
        """End a question; it may not have begun yet, so this is said until it is over."""
        try:
            with self._parts.store() as store:
                while not running.done():
                    store.end(tag)
                    threading.Event().wait(_KILL_AGAIN_S)
        except PipelineError as error:
            _log.warning("question without a reader could not be ended", trouble=str(error))

    # Acting

    async def _silences(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse(
                {
                    "silences": await self._run(lambda: acts.silences(self._parts)),
                    "maintenance": await self._run(lambda: acts.maintenance(self._parts)),
                }
            )
        self._demand_act(request)
        asked = await self._json(request)
        return JSONResponse(await self._run(lambda: acts.silence(self._parts, asked)), 201)

    async def _end_silence(self, request: Request) -> Response:
        self._demand_act(request)
        name = request.path_params["id"]
        return JSONResponse({"ended": await self._run(lambda: acts.end_silence(self._parts, name))})

    async def _letters(self, request: Request) -> Response:
        def with_store(work: Callable[[Any], Any]) -> Callable[[], Any]:
            def run() -> Any:
                with self._own.take() as store:
                    return work(store)

            return run

        if request.method == "GET":
            reason = request.query_params.get("reason", "")[:200]
            found = await self._run(with_store(lambda store: acts.letters(self._parts, store, reason)))
            return JSONResponse({"letters": found})
        asked = await self._json(request)
        if not asked.get("preview"):
            self._demand_act(request)
        return JSONResponse(await self._run(with_store(lambda store: acts.act_on_letters(self._parts, store, asked))))


async def _gone(request: Request) -> None:
    """Until the reader has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(told: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(told, default=str).encode() + b"\n\n"
