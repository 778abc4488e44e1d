"""What every measurement gets: the server, how much to measure, and where to say how far it is."""

import sys
import time
from dataclasses import dataclass, field

from bench.server import Server


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    catch_up_rounds: int
    events_per_round: int
    appends_when_idle: int
    appends_under_load: int
    writer_rounds: int
    writer_settings: tuple[tuple[int, str, str], ...]
    """Connections, protocol (pgbench's -M), synchronous_commit."""
    idle_seconds: float


FULL = Scale(
    catch_up_rounds=5,
    events_per_round=20_000,
    appends_when_idle=250,
    appends_under_load=200,
    writer_rounds=5,
    writer_settings=(
        (8, "prepared", "off"),
        (32, "prepared", "off"),
        (8, "simple", "off"),
        (32, "simple", "off"),
        (8, "prepared", "on"),
        (32, "prepared", "on"),
    ),
    idle_seconds=25.0,
)

QUICK = Scale(
    catch_up_rounds=2,
    events_per_round=2_000,
    appends_when_idle=40,
    appends_under_load=40,
    writer_rounds=2,
    writer_settings=((8, "prepared", "off"),),
    idle_seconds=5.0,
)


@dataclass(frozen=True, slots=True)
class Context:
    """Given to each measurement."""

    server: Server
    scale: Scale
    _began: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Tell the person who waits what is going on."""
        sys.stderr.write(f"{time.monotonic() - self._began:4.0f} s  {text}\n")
