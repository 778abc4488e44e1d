"""Hosts: by which names the daemon may be asked.

A page elsewhere can have its own name lead to 127.0.0.1 once the browser has loaded it (DNS rebinding).  To the browser
it is then of the daemon's origin, and may read whatever is shown without a token.  The header Host still has that name.
So a name is answered only if nobody else can own it: an address, a name without a dot, the one that is listened on, and
those of the setting ``http_allowed_hosts``.
"""

import ipaddress
import re
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from projectiond import logs
from projectiond.failure import printable
from projectiond.http.headers import SECURITY_HEADERS, Json
from projectiond.settings import Settings

ANY: Final = "*"

_HOST: Final = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")

log = logs.get_logger()


class KnownHosts:
    """Refuses requests that were sent to another name."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._names = {name.strip().lower() for name in settings.http_allowed_hosts.split(",")}
        self._names.add(settings.http_host.lower())
        self._repeats = logs.RateLimited(log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        host = Headers(scope=scope).get("host", "")
        if self._is_known(host):
            await self._app(scope, receive, send)
            return
        name = printable(host.rpartition(":")[0] or host)
        error = f'this daemon is not known as "{name}"'
        self._repeats.log("warning", logs.HTTP_REFUSED, key="host", error=error)
        hint = "name it in the setting http_allowed_hosts, if it is"
        refusal = Json({"error": error, "hint": hint}, 421, SECURITY_HEADERS)
        await refusal(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1].removesuffix(".")
        return "." not in name or _is_address(name) or name in self._names or ANY in self._names


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
