"""The site: one application on ``web.port``, and the server that answers it."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from pipeline.base.errors import Outage
from pipeline.base.keys import FleetKeys
from pipeline.embedded import local_secret
from pipeline.operate.lease import Lease
from pipeline.serve.access import Access, AccessRefusal, Credentials, Names, ShownCredentials, require_credentials
from pipeline.serve.bounds import Bounds
from pipeline.serve.counted import RequestCounter
from pipeline.serve.server import HttpServer
from pipeline.serve.workers import Workers
from pipeline.web import health, statics
from pipeline.web.desk import Desk
from pipeline.web.headers import SecurityHeaders
from pipeline.web.parts import Parts
from pipeline.web.pulse import Pulse
from pipeline.web.receiving import PATHS as RECEIVING_PATHS
from pipeline.web.receiving import Receiving
from pipeline.web.telemetry import CONTENT_TYPE, Telemetry

OPEN = frozenset({"/healthz", "/readyz"})
SHELL = frozenset({"/", "/api/login"})
"""The page without any data, and where it signs in."""

_AT_ONCE = 6
_PATIENCE_S = 10.0


class Site:
    """Serves until ``close``."""

    def __init__(self, parts: Parts, host: str, port: int, *, bounds: Bounds | None = None) -> None:
        """Bind and answer from now on; port 0 takes a free one.

        Raises ``OSError`` when the port is taken, ``ConfigError`` when other machines could ask without credentials.
        """
        web = parts.settings.web
        require_credentials(web.model_copy(update={"host": host}))
        self._parts = parts
        self.secret = local_secret.issue(parts.settings.data_dir / "web")
        """A reader of this file may act from the page, also where no credentials are configured."""
        self._credentials = Credentials.of(web, self.secret)
        self._workers = Workers(_AT_ONCE, "web-worker")
        self.pulse = Pulse(parts)
        self._telemetry = Telemetry(parts, self.pulse)
        self._desk = Desk(parts, self.pulse, self._credentials, self._workers)
        self._names: Callable[[], Names] = lambda: Names(host, self.server.port, web.names)
        self.server = HttpServer(host, port, name="web", bounds=bounds)
        self.server.serve(self._app())
        self.pulse.start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return self.server.url

    @property
    def address(self) -> str:
        """The page to open, signed in: its reader may act."""
        return f"{self.url}/#key={self.secret}"

    def close(self) -> None:
        """Stop answering."""
        self._desk.end_streams()
        self.server.close()
        self._workers.close()
        self.pulse.close()
        self._desk.close()

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
                *statics.routes(),
                Route("/alerts/{id}", _to_alert),
                *self._desk.routes(),
                *Receiving(self._parts, self._credentials, self._names, self._workers).routes(),
            ],
            middleware=[
                Middleware(RequestCounter, port="web"),
                Middleware(SecurityHeaders),
                Middleware(
                    Access,
                    port="web",
                    credentials=self._credentials,
                    explain=_explained,
                    names=self._names,
                    open_paths=OPEN | SHELL,
                    open_prefixes=("/static/", "/alerts/"),
                    exempt_paths=RECEIVING_PATHS,
                ),
            ],
            exception_handlers={HTTPException: _http_error, Exception: _unexpected},
        )

    # Operations

    async def _healthz(self, request: Request) -> Response:
        return self._verdict(request, health.stuck(self._parts.loops()))

    async def _readyz(self, request: Request) -> Response:
        held = await self._workers.run(self._lease_held, _PATIENCE_S)
        return self._verdict(request, health.missing(self.pulse.newest, self.pulse.age_s(), held))

    async def _metrics(self, _: Request) -> Response:
        return Response(self._telemetry.page(), media_type=CONTENT_TYPE)

    def _verdict(self, request: Request, trouble: list[str]) -> Response:
        """Yes or no without credentials; the reasons only with credentials."""
        if not trouble:
            return PlainTextResponse("ok\n")
        may_know = not self._credentials.are_required or self._credentials.accept(
            ShownCredentials.by(request, parameters=False)
        )
        return PlainTextResponse("\n".join(trouble if may_know else ["no"]) + "\n", 503)

    def _lease_held(self) -> bool | None:
        scheduler = FleetKeys(self._parts.settings.fleet.name).scheduler
        try:
            return Lease(self._parts.link.database("metrics"), scheduler).is_held()
        except Outage:
            return None


async def _to_alert(request: Request) -> Response:
    """Where links in notifications lead (``alerts.page_url``)."""
    return RedirectResponse("/?" + urlencode({"view": "alerts", "alert": request.path_params["id"]}), 302)


def _explained(refusal: AccessRefusal) -> Response:
    headers = {"WWW-Authenticate": 'Bearer realm="pipeline"'} if refusal.status == 401 else {}
    return JSONResponse({"error": refusal.why, "kind": refusal.kind}, refusal.status, headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _unexpected(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "Something went wrong here; the log of the service says what."}, 500)
