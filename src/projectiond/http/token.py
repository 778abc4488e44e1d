"""The token: who may change something over HTTP, and from where.

A change is asked for by POST with JSON and ``Authorization: Bearer <token>``.  A page elsewhere can make a browser send
neither that header nor that type to us without asking first, which is never allowed; that it names its own origin is
refused on top.  Without the setting ``http_token`` nobody may change anything.
"""

import hmac
import json
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

from projectiond import logs
from projectiond.settings import Settings

SCHEME: Final = "bearer "
MOST_BODY_BYTES: Final = 4096

log = logs.get_logger()


class Token:
    """Knows the token."""

    def __init__(self, settings: Settings) -> None:
        self._token = None if settings.http_token is None else settings.http_token.get_secret_value().encode()
        self._repeats = logs.RateLimited(log)

    @property
    def is_set(self) -> bool:
        """Whether anybody may change anything."""
        return self._token is not None

    def demand(self, request: Request) -> None:
        """See that whoever asks has the token, and asks from a page of ours or from none.

        Raises:
            HTTPException: They do not; its detail is a sentence.
        """
        if self._token is None:
            raise HTTPException(403, "this needs a token, and http_token is not set")
        if not _is_same_origin(request):
            self._refuse(request, 403, "this may be asked from the daemon's own page only")
        header = request.headers.get("authorization", "")
        given = header[len(SCHEME) :].strip() if header.lower().startswith(SCHEME) else ""
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), self._token):
            self._refuse(request, 401, "the token is not the right one" if given else "this needs the token")

    async def demand_change(self, request: Request) -> dict[str, Any]:
        """The same of a request to change something; give its JSON object.

        Raises:
            HTTPException: It is not to be followed.
        """
        self.demand(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "this takes application/json")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BODY_BYTES:
                raise HTTPException(413, f"this takes {MOST_BODY_BYTES} bytes at most")
        try:
            shape = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            shape = None
        if not isinstance(shape, dict):
            raise HTTPException(400, "this takes a JSON object")
        return shape

    def _refuse(self, request: Request, status: int, why: str) -> None:
        client = request.client.host if request.client else ""
        self._repeats.log("warning", logs.HTTP_REFUSED, key=(client, why), client=client, error=why)
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None  # noqa: PLR2004 - Unauthorized
        raise HTTPException(status, why, headers)


def _is_same_origin(request: Request) -> bool:
    """Say whether a browser was led by a page of ours; what is no browser says nothing of it."""
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = request.headers.get("origin")
    # Only host and port: a proxy in front may have taken the encryption off.
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
