"""The page: the dashboard's files, as they lie in the package, read once.

Nothing is put into them on the way: all that is shown comes by the stream, as data.  They load nothing from elsewhere,
and the browser is told to let them: no inline code, no inline style, no text that becomes markup (trusted types).
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

MEDIA_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

PAGE: Final = "index.html"

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


class _PageRoute(Route):
    """Only for who wants HTML; programs get the list of endpoints at the same address."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Look at the Accept header too."""
        accept = next((value for name, value in scope.get("headers", ()) if name == b"accept"), b"")
        return super().matches(scope) if b"text/html" in accept else (Match.NONE, {})


class Page:
    """Gives the files."""

    def __init__(self) -> None:
        folder = files("projectiond.http") / "static"
        self._files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    def routes(self) -> Sequence[BaseRoute]:
        """Give the page's own addresses."""
        return [_PageRoute("/", self._index), Route("/static/{name}", self._file)]

    async def _index(self, request: Request) -> Response:
        return self._give(request, PAGE)

    async def _file(self, request: Request) -> Response:
        return self._give(request, request.path_params["name"])

    def _give(self, request: Request, name: str) -> Response:
        media_type = MEDIA_TYPES.get(name.rpartition(".")[2])
        content = self._files.get(name)
        if content is None or media_type is None:
            return Response("there is no such file\n", 404, media_type="text/plain")
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept", "Content-Security-Policy": POLICY}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)
