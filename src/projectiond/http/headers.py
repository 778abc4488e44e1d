"""What every answer says to browsers and caches, and the form of JSON answers.

The daemon's answers are for programs.  A browser that is led to one shall run nothing, load nothing, show it in no
frame and keep no copy; and of a page elsewhere it shall let no script read it.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

JSON_TYPE: Final = "application/json"

_ENCODED: Final = [(name.lower().encode(), text.encode()) for name, text in SECURITY_HEADERS.items()]


def as_json(content: Any) -> bytes:  # noqa: ANN401 - whatever JSON knows
    """Write it in ASCII: control characters, direction marks and lone surrogates of events come escaped."""
    return json.dumps(content, ensure_ascii=True, allow_nan=False, indent=2).encode() + b"\n"


class Json(Response):
    """A JSON answer."""

    media_type = JSON_TYPE

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - whatever JSON knows
        """Write it."""
        return as_json(content)


class SecurityHeaders:
    """Adds the headers to every answer that does not bring one of its own, whoever makes it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in _ENCODED if pair[0] not in own)]
            await send(message)

        await self._app(scope, receive, send_with_headers)
