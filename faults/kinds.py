"""The kinds of faults: what each is called, how it is done, and how long projections may need to recover from it.

A kind is a function that disturbs the scene for so many seconds, puts everything right again that an operator would
have to, and returns; from then on projections have :attr:`Kind.bound_seconds`.  :attr:`Kind.told` says what is done,
:attr:`Kind.because` where the bound comes from.  docs/faults.md has the same table, and a test compares the two.

Faults of one :attr:`Kind.touches` are never done at the same time: one would undo the other.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from faults.scene import Scene

Fault = Callable[[Scene, random.Random, float], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault."""

    name: str
    touches: str
    told: str
    """What is done, in a sentence."""
    bound_seconds: float
    because: str
    inject: Fault
    lasts_seconds: tuple[float, float] = (0.5, 2.5)
    """At least and at most."""
    refuse: Callable[[Scene], str] = lambda _: ""
    """Says why it cannot be done here; nothing when it can."""


def kind(
    name: str,
    *,
    touches: str,
    bound_seconds: float,
    because: str,
    lasts_seconds: tuple[float, float] = (0.5, 2.5),
    refuse: Callable[[Scene], str] = lambda _: "",
) -> Callable[[Fault], Kind]:
    """Make a function a kind of fault; its docstring says what is done."""

    def made(inject: Fault) -> Kind:
        told = (inject.__doc__ or "").partition("\n")[0]
        return Kind(name, touches, told, bound_seconds, because, inject, lasts_seconds, refuse)

    return made
