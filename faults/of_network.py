"""Faults of the network between the daemons and the server."""

import random

from faults.kinds import kind
from faults.scene import Scene

# What ``database`` asks TCP for: nothing heard for 5 s, then three questions 3 s apart; 15 s without an answer.
KEEPALIVES_SECONDS = 15.0


@kind(
    "network-cut",
    touches="network",
    bound_seconds=20,
    because="no reset tells of it: both ends notice by keepalives, within some 15 s; connecting then takes a few more",
    lasts_seconds=(3.0, KEEPALIVES_SECONDS + 3.0),
)
def cut_network(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Loses every packet: of both sides, or of one."""
    of_daemons, of_server = chance.choice(((True, True), (True, True), (True, False), (False, True)))
    who = "both sides" if of_daemons and of_server else "the daemons" if of_daemons else "the server"
    scene.tell(f"packets of {who} are lost for {seconds:.1f} s")
    scene.proxy.cut(of_daemons=of_daemons, of_server=of_server)
    try:
        scene.sleep(seconds)
    finally:
        scene.proxy.mend()
        scene.tell("the network is whole again")


@kind(
    "network-slow",
    touches="network",
    bound_seconds=8,
    because="nothing is lost; each transaction takes several round trips more",
    lasts_seconds=(2.0, 6.0),
)
def slow_network(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Delivers every packet late, by 5 to 300 milliseconds."""
    delay = chance.choice((0.005, 0.05, 0.3))
    scene.tell(f"packets arrive {delay * 1000:.0f} ms late")
    scene.proxy.slow_down(delay)
    try:
        scene.sleep(seconds)
    finally:
        scene.proxy.slow_down(0.0)
        scene.tell("the network is fast again")
