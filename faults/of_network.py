"""Faults of the network between the daemons and the server."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from faults.kinds import kind
from faults.scene import Scene

# What ``database`` asks TCP for: both sides give up 10 s after what they had sent or asked, see CONFIGURE_SESSION.
KEEPALIVES_SECONDS: Final = 12.0


@contextmanager
def _mended(scene: Scene) -> Iterator[None]:
    try:
        yield
    finally:
        scene.proxy.slow_down(0.0)
        scene.proxy.mend()
        scene.tell("the network is whole again")


def _cut(scene: Scene, chance: random.Random, seconds: float) -> None:
    of_daemons, of_server = chance.choice(((True, True), (True, True), (True, False), (False, True)))
    who = "both sides" if of_daemons and of_server else "the daemons" if of_daemons else "the server"
    with _mended(scene):
        scene.tell(f"packets of {who} are lost for {seconds:.1f} s")
        scene.proxy.cut(of_daemons=of_daemons, of_server=of_server)
        scene.sleep(seconds)


@kind(
    "network-interrupted",
    touches="network",
    bound_seconds=12,
    because="what was sent is sent again by TCP, after pauses that have doubled meanwhile",
    lasts_seconds=(0.5, 5.0),
)
def interrupt_network(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Loses every packet, of both sides or of one, for less than anybody's patience."""
    _cut(scene, chance, seconds)


@kind(
    "network-cut",
    touches="network",
    bound_seconds=20,
    because="no reset tells of it: both ends notice by keepalives, within some 12 s; connecting then takes a few more",
    lasts_seconds=(KEEPALIVES_SECONDS, KEEPALIVES_SECONDS + 4.0),
)
def cut_network(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Loses every packet, of both sides or of one, until sessions have been given up."""
    _cut(scene, chance, seconds)


@kind(
    "network-slow",
    touches="network",
    bound_seconds=8,
    because="nothing is lost; each transaction takes several round trips more",
    lasts_seconds=(1.0, 4.0),
)
def slow_network(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Delivers every packet late, by 5 to 300 milliseconds."""
    delay = chance.choice((0.005, 0.05, 0.3))
    with _mended(scene):
        scene.tell(f"packets arrive {delay * 1000:.0f} ms late")
        scene.proxy.slow_down(delay)
        scene.sleep(seconds)


KINDS: Final = (interrupt_network, cut_network, slow_network)
