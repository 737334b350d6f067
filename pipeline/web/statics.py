"""The page's files: read once, compressed once, told apart by a digest so that browsers ask again only for news."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pipeline.web import shell

FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class _File:
    body: bytes
    packed: bytes
    tag: str
    kind: str


def load() -> dict[str, _File]:
    """Every file of the page by its path."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in _TYPES:
            found[path.relative_to(FOLDER).as_posix()] = _file(path.read_bytes(), _TYPES[path.suffix])
    return found


def _file(body: bytes, kind: str) -> _File:
    return _File(body, gzip.compress(body, 9, mtime=0), f'"{hashlib.sha256(body).hexdigest()[:24]}"', kind)


def routes() -> list[BaseRoute]:
    """The page at ``/``, its files under ``/static``. They hold no data: the sign-in form needs no credentials."""
    files = load()
    template = files.pop("index.html").body.decode()
    pages = {view: _file(text.encode(), _TYPES[".html"]) for view, text in shell.documents(template).items()}

    async def page(request: Request) -> Response:
        return _answer(request, pages.get(request.query_params.get("view", ""), pages["now"]))

    async def file(request: Request) -> Response:
        found = files.get(request.path_params["name"])
        return _answer(request, found) if found else JSONResponse({"error": "There is no such file."}, 404)

    return [Route("/", page), Route("/static/{name:path}", file)]


def _answer(request: Request, file: _File) -> Response:
    headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=file.kind)
    return Response(file.body, headers=headers, media_type=file.kind)
