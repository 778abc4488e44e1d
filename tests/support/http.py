"""Asking the HTTP application within the test's process, and what it is made of without a daemon."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from projectiond.http.crew import Crew, Member
from projectiond.http.health import Health
from projectiond.http.hosts import KnownHosts
from projectiond.http.readings import Reading
from projectiond.http.routes import Routes
from projectiond.http.vigil import Fault, Vigil
from projectiond.http.waiters import Outcome
from projectiond.leases.roster import LiveWorker
from projectiond.operating.overview import Overview, ProjectionState
from projectiond.processes.recorder import Page, Recorder, create_recorder_file
from projectiond.settings import Settings


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def state_of(name: str = "orders", **values: Any) -> ProjectionState:  # noqa: ANN401 -- whatever the class takes
    """Make the state of a projection that is caught up."""
    plain: dict[str, Any] = {
        "status": "running",
        "position": 41,
        "lag": 0,
        "events_processed": 41,
        "last_processed_at": datetime(2026, 1, 2, tzinfo=UTC),
        "seconds_since_processed": 5.0,
        "error_message": None,
        "rebuild_target": None,
        "dead_letters": 0,
        "has_runner": True,
        "is_deployed": True,
    }
    return ProjectionState(name=name, **(plain | values))


def reading_of(
    *states: ProjectionState,
    roster: Sequence[LiveWorker] = (),
    **values: Any,  # noqa: ANN401 -- whatever the class takes
) -> Reading:
    """Make a reading that has just succeeded."""
    overview = Overview(head=41, live_workers=1, hold=None, projections=states, roster=roster)
    plain: dict[str, Any] = {"overview": overview, "read_at": 0.0, "error": "", "schema_faults": ()}
    return Reading(**(plain | values))


def page_of(*names: str, work: Callable[[Recorder], object] = lambda _: None) -> Page:
    """Make the page of a worker that can run these projections and has done this work."""
    descriptor = create_recorder_file()
    recorder = Recorder(descriptor)
    os.close(descriptor)
    for index, name in enumerate(names):
        recorder.slot(index, name)
    recorder.beat(is_ready=True)
    work(recorder)
    page = recorder.read_page()
    recorder.close()
    return page


def crew_of(page: Page | None, **values: Any) -> Crew:  # noqa: ANN401 -- whatever the class takes
    """Make the crew of one worker; its process is the test's own."""
    member = Member(1, os.getpid(), page, 0.0, None)
    return Crew(members=(member,), **values)


@dataclass
class FakeVigil(Vigil):
    """A vigil with the test's own faults."""

    found: list[Fault] = field(default_factory=list)

    def observe(self, crew: Crew, now: float) -> None:
        del crew, now

    def faults(self, crew: Crew, now: float) -> list[Fault]:
        del crew, now
        return self.found


@dataclass
class FakeReadings:
    """Readings that the test makes."""

    reading: Reading
    asked: int = 0

    async def get(self, *, with_schema: bool = False, is_live: bool = False) -> Reading:
        del with_schema, is_live
        self.asked += 1
        return self.reading

    def fresh_seconds(self) -> float:
        return 0.0


@dataclass
class FakeWaiters:
    """Waits that come to what the test says."""

    outcome: Outcome | Exception = field(default_factory=lambda: Outcome(41, None))
    asked: list[tuple[str, int, float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.asked)

    async def wait(self, projection: str, sequence_number: int, timeout_seconds: float) -> Outcome:
        self.asked.append((projection, sequence_number, timeout_seconds))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@dataclass
class Site:
    """The application over all of these."""

    crew: Crew = field(default_factory=lambda: crew_of(page_of("orders")))
    vigil: FakeVigil = field(default_factory=FakeVigil)
    readings: FakeReadings = field(default_factory=lambda: FakeReadings(reading_of(state_of())))
    waiters: FakeWaiters = field(default_factory=FakeWaiters)
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        self.health = Health(lambda: self.crew, self.vigil, self.readings)  # type: ignore[arg-type]
        self.routes = Routes(lambda: self.crew, self.health, self.readings, self.waiters)  # type: ignore[arg-type]

    def ask(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Ask it, right after a verdict."""

        async def ask() -> httpx.Response:
            await self.health.judge()
            transport = httpx.ASGITransport(
                KnownHosts(self.routes.application(), self.settings), raise_app_exceptions=False
            )
            async with httpx.AsyncClient(transport=transport, base_url="http://daemon") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(ask())
