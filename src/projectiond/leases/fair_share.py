"""Fair shares: how many leases each worker may hold, so that all get the same answer without asking each other.

Called by ``lease`` with what one look at the locks has shown; pure.  Three rules:

* *Equal.*  Shares add up to the number of leases and differ by one at most.  What cannot be divided stays with those
  who hold most already, so that the fewest leases move.
* *Free leases are for whoever is there.*  Each takes them up to its share among all workers that are present.
* *What runs is moved only for whoever stays.*  A worker gives leases back to others only once these are *established*,
  that is, have been there for a while.  So a worker that is started and dies each second takes nothing from anybody.
  One that is not established itself gives back at once: it has held nothing for long.  Hence workers that start
  together are even from the first moment on.

While nobody comes or goes all are established, the two shares are one, and nothing moves.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shares:
    """How many leases a worker may hold."""

    taking: int
    """It takes free ones until it has so many."""
    keeping: int
    """It gives back what it has beyond this; never less than ``taking``."""


def shares(worker: int, held: Mapping[int, int], established: Collection[int], count: int) -> Shares:
    """Give a worker's shares.

    Args:
        worker: Which of them.
        held: How many leases each live worker holds now.
        established: Those of them that have been there for a while.
        count: How many leases there are.
    """
    taking = fair_share(worker, held, count)
    if worker not in established:
        return Shares(taking, taking)
    among_established = {peer: number for peer, number in held.items() if peer in established}
    return Shares(taking, max(taking, fair_share(worker, among_established, count)))


def fair_share(worker: int, held: Mapping[int, int], count: int) -> int:
    """Give an equal share of all leases; of two that differ by one the larger is for whoever holds more."""
    whole, rest = divmod(count, len(held))
    # Whoever holds more than any share does not come before one that has given back already: it would have to again.
    by_holdings = sorted(held, key=lambda peer: (-min(held[peer], whole + 1), peer))
    return whole + (by_holdings.index(worker) < rest)
