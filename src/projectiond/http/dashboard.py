"""The dashboard: its parts put together, and the addresses that they answer at.  docs/dashboard.md is its manual.

::

    crew ──every 5 s──▶ history ──┐
    readings ─────────────────────┴─▶ board ──once a second, if somebody looks──▶ stream ──▶ page
    desk (one connection) ──▶ details, actions        desk (another) ──once a minute──▶ figures
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from projectiond.errors import ProjectiondError
from projectiond.http.actions import DECISIONS, STEERING, Actions
from projectiond.http.crew import Crew
from projectiond.http.desk import Desk
from projectiond.http.details import Details
from projectiond.http.figures import Figures
from projectiond.http.headers import Json
from projectiond.http.health import Health
from projectiond.http.history import SAMPLE_SECONDS, History
from projectiond.http.names import NAME, NUMBER
from projectiond.http.page import Page
from projectiond.http.readings import Readings
from projectiond.http.stream import Stream
from projectiond.http.token import Token
from projectiond.settings import Settings

# Not of the API: what is below it serves the page, and changes with it.
PREFIX: Final = "/dashboard"

# Of what somebody waits for in front of a screen.
TIMEOUT_SECONDS: Final = 3


class Dashboard:
    """Everything of it."""

    def __init__(self, settings: Settings, crew: Callable[[], Crew], health: Health, readings: Readings) -> None:
        self._crew = crew
        self._health = health
        self._readings = readings
        self._token = Token(settings)
        self._history = History()
        self._desk = Desk(settings, "http-desk", timeout_seconds=TIMEOUT_SECONDS)
        self._figures = Figures(settings)
        self._page = Page()

    def routes(self) -> Sequence[BaseRoute]:
        """Give its routes, for one event loop."""
        stream = Stream(self._crew, self._health, self._readings, self._history, is_steerable=self._token.is_set)
        self._details = Details(self._desk, self._history)
        actions = Actions(self._crew, self._desk, self._details, self._token)
        projection = f"{PREFIX}/projections/{NAME}"
        letter = f"{projection}/dead-letters/{NUMBER}"
        return [
            *self._page.routes(),
            Route(f"{PREFIX}/stream", stream.open),
            Route(f"{PREFIX}/store", self._store),
            Route(f"{projection}/details", self._projection),
            Route(letter, actions.letter),
            *(Route(f"{letter}/{action}", actions.decide, methods=["POST"]) for action in DECISIONS),
            *(Route(f"{projection}/{action}", actions.steer, methods=["POST"]) for action in STEERING),
        ]

    async def keep_history(self) -> None:
        """Take samples until cancelled."""
        while True:
            reading = self._readings.current()
            self._history.note_errors(reading)
            self._history.sample(self._crew(), reading, time.monotonic())
            await asyncio.sleep(SAMPLE_SECONDS)

    def stop(self) -> None:
        """End the threads, unless they hang."""
        self._desk.stop()
        self._figures.stop()

    async def _store(self, _: Request) -> Response:
        return Json(await self._figures.get())

    async def _projection(self, request: Request) -> Response:
        try:
            return Json(await self._details.get(request.path_params["name"]))
        except ProjectiondError as error:
            return Json({"error": error.message, "hint": error.hint}, 503)
