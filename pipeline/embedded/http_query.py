"""One request of ClickHouse's HTTP interface: read it, run it on a handle, answer it.

The engine is blocking, so a statement runs on one of a few threads; a request that waits for one costs none.
When its client goes away, the statement is ended too.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pipeline.base import log
from pipeline.base.config import WebSettings
from pipeline.base.errors import EngineRights
from pipeline.base.sql_text import literal
from pipeline.embedded import http_replies as replies
from pipeline.embedded import http_statement, query_guard, writable
from pipeline.embedded.handles import AnalystHandles, Answer, EngineError, Handle, QuerySettings, as_query_settings
from pipeline.serve.bodies import BodyRefused, Budget, read_body
from pipeline.serve.workers import Workers
from pipeline.store.client import analyst_settings

_log = log.get(__name__)

# A question is text; inserts (development only) may be as large as a drainer's largest batch.
_MAX_QUESTION_BYTES = 16 << 20
_MAX_QUESTIONS_BYTES = 128 << 20
_MAX_INSERT_BYTES = 2 << 30

_KILL_AGAIN_S = 0.5
_CODE_OF_STATUS = {
    400: replies.INCORRECT_DATA,
    413: replies.QUERY_IS_TOO_LARGE,
    415: replies.UNKNOWN_COMPRESSION_METHOD,
    503: replies.TOO_MANY_SIMULTANEOUS_QUERIES,
}


@dataclass
class Running:
    """A statement at work. ``tag`` stands in its text, so that it can be found and ended."""

    query_id: str
    tag: str = field(default_factory=lambda: uuid.uuid4().hex)
    is_unwanted: threading.Event = field(default_factory=threading.Event)


class Interface:
    """The ASGI application behind ``/``."""

    def __init__(
        self, handles: AnalystHandles, path: Path, *, limits: WebSettings, at_once: int, database: str, writable: bool
    ) -> None:
        self._handles = handles
        self._path = path
        self._workers = Workers(at_once, "clickhouse-query")
        self._limits = limits
        self._database = database
        self._writable = writable
        self._limit = _MAX_INSERT_BYTES if writable else _MAX_QUESTION_BYTES
        self._budget = Budget(2 * _MAX_INSERT_BYTES if writable else _MAX_QUESTIONS_BYTES)
        self._running: dict[str, Running] = {}

    def close(self) -> None:
        """End what runs; nothing new is taken."""
        for running in list(self._running.values()):
            self._end(running)
        self._workers.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            async with read_body(request, self._limit, self._budget) as body:
                response = await self._respond(request, body)
        except ClientDisconnect:
            return
        except BodyRefused as why:
            response = _of_body(why)
            response.headers["Connection"] = "close"  # the rest is not read
        await response(scope, receive, send)

    async def _respond(self, request: Request, body: bytearray) -> Response:
        running = Running(str(uuid.uuid4()))
        try:
            work = asyncio.ensure_future(
                self._workers.run(lambda: self._answer(request, body, running), self._limits.query_max_s)
            )
            gone = asyncio.ensure_future(_gone(request))
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if not work.done():
                running.is_unwanted.set()
                threading.Thread(target=self._end, args=(running,), name="clickhouse-kill", daemon=True).start()
            return await work
        except TimeoutError:
            error = replies.refused(
                replies.TOO_MANY_SIMULTANEOUS_QUERIES,
                f"Too many simultaneous queries: none ended within {self._limits.query_max_s:g} s.",
            )
            return replies.error_reply(error)

    def _answer(self, request: Request, body: bytearray, running: Running) -> Response:
        """On a worker's thread."""
        try:
            if running.is_unwanted.is_set():
                raise ClientDisconnect
            statement, parameters = http_statement.read_statement(
                request.scope["query_string"], request.headers, body, self._limit
            )
            if request.method != "POST" and not statement.strip() and request.url.path == "/":
                return ok()
            with self._known(running, parameters):
                answer, format_name = self._run(request, statement, parameters, running)
            accepted = request.headers.get("accept-encoding", "")
            return replies.result_reply(answer, format_name, parameters, accepted, running.query_id)
        except EngineError as error:
            return replies.error_reply(error, running.query_id, (str(self._path),))
        except BodyRefused as why:
            return _of_body(why)
        except EngineRights as error:
            _log.error("engine does not enforce the analyst role, queries disabled", reason=str(error))
            return replies.error_reply(replies.refused(replies.AUTHENTICATION_FAILED, "Queries are not served now."))
        except ValueError:  # an address or a form that is none
            return replies.error_reply(replies.refused(replies.INCORRECT_DATA, "Malformed request."))

    def _run(
        self, request: Request, statement: bytes | bytearray, parameters: Mapping[str, str], running: Running
    ) -> tuple[Answer, str | None]:
        """The answer, and the format it is in (None where there is no result)."""
        headers = request.headers
        default_format = parameters.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated"
        database = parameters.get("database") or headers.get("x-clickhouse-database") or "default"
        if database == "default":
            database = self._database
        values = http_statement.fills(parameters)
        with self._handles.take(self._query_settings(parameters), self._limits.query_max_s) as handle:
            handle.use(database)
            if self._writable and writable.is_insert(statement):
                return writable.insert(handle, statement, values), None
            if self._writable:
                handle.is_spoilt = writable.changes_settings(statement)  # no sessions: it ends with the request
                return writable.run(handle, bytes(statement), default_format, values)
            checked = query_guard.checked(handle, bytes(statement), values, self._limits)
            tagged = checked.text + b" /* request " + running.tag.encode() + b" */"
            try:
                answer = handle.run(tagged, default_format, values)
            except EngineError as error:
                raise query_guard.as_asked(handle, error) from None
            return answer, (checked.format or default_format) if checked.returns_rows else None

    def _query_settings(self, parameters: Mapping[str, str]) -> QuerySettings:
        """What a handle is to carry: the limits, and what the client asks for and may have."""
        asked = http_statement.query_settings(parameters)
        if self._writable:
            return tuple(sorted(asked.items()))
        allowed = {name: query_guard.allowed_setting(name, value, self._limits) for name, value in asked.items()}
        merged = analyst_settings(self._limits) | allowed
        merged["readonly"] = merged.pop("readonly")  # the last one
        return as_query_settings(merged)

    @contextlib.contextmanager
    def _known(self, running: Running, parameters: Mapping[str, str]) -> Iterator[None]:
        """For as long as the statement runs it stands under its id."""
        running.query_id = parameters.get("query_id") or running.query_id
        if self._running.setdefault(running.query_id, running) is not running:
            raise replies.refused(
                replies.QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING,
                f"Query with id = {running.query_id} is already running.",
            )
        try:
            yield
        finally:
            del self._running[running.query_id]

    def _end(self, running: Running) -> None:
        """End a statement whose client is gone; it may not have begun yet, so this is said until it is over."""
        running.is_unwanted.set()
        find = literal(f"request {running.tag}").encode()
        kill = b"KILL QUERY WHERE position(query, " + find + b") > 0 AND query NOT LIKE 'KILL%' ASYNC"
        try:
            killer = Handle(self._path, ())
            try:
                while running in self._running.values():
                    killer.run(kill)
                    threading.Event().wait(_KILL_AGAIN_S)
            finally:
                killer.close()
        except EngineError as error:
            _log.warning("query of a disconnected client could not be killed", trouble=str(error))


def ok() -> Response:
    """A sign of life."""
    return replies.reply(200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})


async def _gone(request: Request) -> None:
    """Until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _of_body(why: BodyRefused) -> Response:
    code = _CODE_OF_STATUS[why.status]
    return replies.error_reply(replies.refused(code, str(why)))
