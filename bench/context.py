"""What every measurement gets: the server, how much to measure, and where to say how far it is."""

import sys
import time
from dataclasses import dataclass, field

from bench.server import Server


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    order_rounds: int
    order_events: int
    """In each round."""
    server_events: int
    """From the first on, for what is compared with the server alone; at least those of all rounds."""
    server_rounds: int
    loan_rounds: int
    loan_events: int
    loan_events_after: int | None
    """Those that the loop is spared; None for all that are left."""
    growth_events: int
    growth_events_by_event: int
    appends_when_idle: int
    appends_of_other_kinds: int
    appends_under_load: int
    fan_out_appends: int
    writer_rounds: int
    writer_settings: tuple[tuple[int, str, str], ...]
    """Connections, protocol (pgbench's -M), synchronous_commit."""
    append_rounds: int
    append_writers: tuple[int, ...]
    idle_seconds: float
    scrape_rounds: int
    scraped_events: int
    """To begin with."""
    scraped_latency_rounds: int
    scraped_appends: int
    """In each of them."""
    scraped_idle_seconds: float
    worker_rounds: int
    computed_events: int
    """In each round."""


FULL = Scale(
    order_rounds=5,
    order_events=20_000,
    server_events=100_000,
    server_rounds=3,
    loan_rounds=3,
    loan_events=8_000,
    loan_events_after=None,
    growth_events=2_000_000,
    growth_events_by_event=200_000,
    appends_when_idle=200,
    appends_of_other_kinds=30,
    appends_under_load=200,
    fan_out_appends=100,
    writer_rounds=7,
    writer_settings=(
        (8, "prepared", "off"),
        (32, "prepared", "off"),
        (8, "prepared", "on"),
        (32, "prepared", "on"),
    ),
    append_rounds=22,
    append_writers=(1, 8, 32),
    idle_seconds=20.0,
    scrape_rounds=11,
    scraped_events=200_000,
    scraped_latency_rounds=3,
    scraped_appends=15,
    scraped_idle_seconds=10.0,
    worker_rounds=5,
    computed_events=6_000,
)

QUICK = Scale(
    order_rounds=2,
    order_events=5_000,
    server_events=40_000,
    server_rounds=1,
    loan_rounds=1,
    loan_events=2_000,
    loan_events_after=10_000,
    growth_events=100_000,
    growth_events_by_event=20_000,
    appends_when_idle=30,
    appends_of_other_kinds=5,
    appends_under_load=30,
    fan_out_appends=15,
    writer_rounds=1,
    writer_settings=((8, "prepared", "off"),),
    append_rounds=4,
    append_writers=(8,),
    idle_seconds=4.0,
    scrape_rounds=2,
    scraped_events=200_000,
    scraped_latency_rounds=1,
    scraped_appends=5,
    scraped_idle_seconds=4.0,
    worker_rounds=1,
    computed_events=2_000,
)


@dataclass(frozen=True, slots=True)
class Context:
    """Given to each measurement."""

    server: Server
    scale: Scale
    _began: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Tell the person who waits what is going on."""
        sys.stderr.write(f"{self.seconds():4.0f} s  {text}\n")

    def seconds(self) -> float:
        """Give the time since the beginning."""
        return time.monotonic() - self._began
