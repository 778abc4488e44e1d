"""The routes: what can be asked for, and what is answered.  docs/http.md is their manual.

Each answer is put together from the crew, which is in memory, and from the shared reading, which may be old and then
says so.  None of them changes anything.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from projectiond import __version__, logs
from projectiond.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    ProjectiondError,
    ProjectionPausedError,
    WaitTimeoutError,
)
from projectiond.failure import describe
from projectiond.http import metrics
from projectiond.http.crew import Crew
from projectiond.http.departure import answer_or_departure
from projectiond.http.exposition import CONTENT_TYPE
from projectiond.http.headers import JSON_TYPE, Json, SecurityHeaders, as_json
from projectiond.http.health import Health
from projectiond.http.kept import Kept
from projectiond.http.names import NAME
from projectiond.http.readings import Reading, Readings
from projectiond.http.shapes import projection_shape, projections_shape, shape_of_fault
from projectiond.http.waiters import MOST_SECONDS, TooManyWaitersError, Waiters
from projectiond.waiting.wait import DEFAULT_TIMEOUT_SECONDS

NEWEST: Final = "v1"
API: Final = f"/api/{NEWEST}"

# How long the metrics and the list of projections are given again while the reading is the same: as long as it is.
KEPT_SECONDS: Final = 1.0

LARGEST_NUMBER: Final = 2**63 - 1

# The first that fits; the order matters, for some are kinds of others.
_STATUS_OF: Final[tuple[tuple[type[ProjectiondError], int], ...]] = (
    (TooManyWaitersError, 503),
    (DatabaseUnavailableError, 503),
    (ConfigurationError, 404),
    (ProjectionPausedError, 409),
    (WaitTimeoutError, 504),
)

log = logs.get_logger()


class Routes:
    """Answers requests; made once for each start of the server."""

    def __init__(
        self,
        crew: Callable[[], Crew],
        health: Health,
        readings: Readings,
        waiters: Waiters,
        more: Sequence[BaseRoute] = (),
    ) -> None:
        self._crew = crew
        self._health = health
        self._readings = readings
        self._waiters = waiters
        self._more = more
        self._metrics = Kept(KEPT_SECONDS, CONTENT_TYPE)
        self._projections = Kept(KEPT_SECONDS, JSON_TYPE)
        self._repeats = logs.RateLimited(log)

    def application(self) -> ASGIApp:
        """Put the application together."""
        routes: list[BaseRoute] = [
            *self._more,
            Route("/", self.index),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
            Route(f"{API}/projections", self.projections),
            Route(f"{API}/projections/{NAME}/wait", self.wait),
            Route(f"{API}/projections/{NAME}", self.projection),
            Route("/api/projections", self.newest),
            Route(f"/api/projections/{NAME}", self.newest),
        ]
        # Around it, not inside: what is answered to an exception has the headers too.
        return SecurityHeaders(
            Starlette(routes=routes, exception_handlers={HTTPException: self._refuse, Exception: self._fail})
        )

    # --- probes and metrics

    async def index(self, _: Request) -> Response:
        """Say what there is."""
        endpoints = ["/healthz", "/readyz", "/metrics", f"{API}/projections"]
        endpoints += [f"{API}/projections/{{name}}", f"{API}/projections/{{name}}/wait?sequence=N&timeout=S"]
        return Json({"name": "projectiond", "version": __version__, "endpoints": endpoints})

    async def healthz(self, _: Request) -> Response:
        """Say whether everything advances that should."""
        verdict = self._health.verdict
        status = "failing" if verdict.faults else "draining" if self._crew().is_draining else "ok"
        shape: dict[str, Any] = {"status": status, "faults": [shape_of_fault(fault) for fault in verdict.faults]}
        if verdict.excused:
            shape["excused"] = [shape_of_fault(fault) for fault in verdict.excused]
            shape["excuse"] = verdict.excuse
        return Json(shape, 503 if verdict.faults else 200)

    async def readyz(self, _: Request) -> Response:
        """Say whether the daemon does its work."""
        crew, reading = self._crew(), await self._readings.get(with_schema=True)
        checks = {name: {"ok": not fault, "fault": fault} for name, fault in _unready(crew, reading).items()}
        is_ready = all(check["ok"] for check in checks.values())
        return Json({"status": "ready" if is_ready else "not ready", "checks": checks}, 200 if is_ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Give the metrics."""
        reading = await self._readings.get()

        def write() -> bytes:
            is_well = self._health.verdict.is_well
            return metrics.expose(metrics.Sources(self._crew(), reading, is_well, len(self._waiters)))

        return self._metrics.answer(request, reading.version(), write)

    # --- the API

    async def projections(self, request: Request) -> Response:
        """Say where everything stands."""
        reading = await self._readings.get()

        def write() -> bytes:
            return as_json(projections_shape(self._crew(), reading, time.monotonic()))

        return self._projections.answer(request, reading.version(), write)

    async def projection(self, request: Request) -> Response:
        """Say where one projection stands."""
        name = request.path_params["name"]
        reading = await self._readings.get()
        shape = projection_shape(self._crew(), reading, time.monotonic(), name)
        if shape is not None:
            return Json(shape)
        if reading.overview is None:
            return _error(503, reading.error, "try again when the database answers")
        return _error(404, f'unknown projection "{name}"', f"see {API}/projections")

    async def wait(self, request: Request) -> Response:
        """Stay until a projection has applied everything up to a number."""
        name = request.path_params["name"]
        try:
            number, timeout_seconds = _asked(request.query_params)
        except ValueError as error:
            return _error(400, str(error), "ask for wait?sequence=N&timeout=S")
        began = time.monotonic()
        try:
            outcome = await answer_or_departure(request, self._waiters.wait(name, number, timeout_seconds))
        except TooManyWaitersError as error:
            return _error(503, error.message, error.hint, {"Retry-After": "1"})
        if outcome is None:
            # Nobody is there to read it.
            return Response(status_code=499)
        shape: dict[str, Any] = {
            "projection": name,
            "sequence": number,
            "position": outcome.position,
            "waited_seconds": round(time.monotonic() - began, 4),
        }
        if outcome.error is None:
            return Json(shape)
        if outcome.position is not None:
            shape["lag"] = max(0, number - outcome.position)
        status = next((status for kind, status in _STATUS_OF if isinstance(outcome.error, kind)), 500)
        return Json({**shape, "error": outcome.error.message, "hint": outcome.error.hint}, status)

    async def newest(self, request: Request) -> Response:
        """Lead to the newest version of the API."""
        rest = request.scope["raw_path"].decode().removeprefix("/api/projections")
        query = f"?{request.url.query}" if request.url.query else ""
        # Relative, so that it holds below a path of a proxy's too, and does not lead to another host.
        up = "../" * rest.count("/")
        return RedirectResponse(f"{up}{NEWEST}/projections{rest}{query}", status_code=307)

    # --- what goes wrong

    async def _refuse(self, _: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        return _error(error.status_code, error.detail.lower(), "see / for what there is", error.headers)

    async def _fail(self, request: Request, error: Exception) -> Response:
        text = describe(error)
        self._repeats.log("error", logs.HTTP_FAILED, key=text, path=request.url.path, error=text)
        return _error(500, "an error of projectiond itself", "its log says more")


def _error(status: int, error: str, hint: str, headers: Mapping[str, str] | None = None) -> Response:
    return Json({"error": error, "hint": hint}, status, headers=headers)


def _unready(crew: Crew, reading: Reading) -> dict[str, str]:
    """Give, for each thing that is needed, what is wrong with it, or nothing."""
    names = crew.names()
    idle = [str(member.number) for member in crew.members if not member.is_ready]
    found = {
        "configuration": "" if names else "no worker has loaded a projection yet",
        "database": reading.error,
        "schema": "it has not been looked at yet"
        if reading.schema_faults is None
        else "; ".join(reading.schema_faults),
        "workers": f"not at work: {', '.join(idle)}" if idle else "",
        "leases": "they are not known",
    }
    if reading.overview is not None:
        leased = {state.name for state in reading.overview.projections if state.has_runner}
        alone = sorted(names - leased)
        found["leases"] = f"no worker runs {', '.join(alone)}" if alone else ""
    if crew.is_draining:
        found["workers"] = "the daemon drains"
    return found


def _asked(query: Mapping[str, str]) -> tuple[int, float]:
    """Read the query of ``wait``."""
    if unknown := sorted(set(query) - {"sequence", "timeout"}):
        raise ValueError(f"unknown parameter {', '.join(unknown)}")
    text = query.get("sequence", "")
    # Not int() alone, which takes spaces, signs, underscores and other scripts' digits.
    if not (text.isascii() and text.isdigit() and len(text) < len(str(LARGEST_NUMBER)) + 1):
        raise ValueError("sequence must be a sequence number")
    number = int(text)
    if number > LARGEST_NUMBER:
        raise ValueError("sequence must be a sequence number")
    try:
        timeout_seconds = float(query.get("timeout", DEFAULT_TIMEOUT_SECONDS))
    except ValueError:
        timeout_seconds = math.nan
    if not 0 <= timeout_seconds <= MOST_SECONDS:
        raise ValueError(f"timeout must be a number of seconds from 0 to {MOST_SECONDS:g}")
    return number, timeout_seconds
