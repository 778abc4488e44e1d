"""A projection's limits: what its class or its table in the settings file says, else what the settings say.

Made by the worker when it starts a runner.
"""

from dataclasses import dataclass
from typing import Literal

from projectiond.plugins.definition import Definition
from projectiond.settings import Settings


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a runner does at once, what it does with a poison event, and whether it waits for the disk."""

    batch_size: int
    checkpoint_every: int
    max_attempts: int
    on_error: Literal["pause", "skip"]
    catchup_transaction_seconds: float
    on_change: Literal["warn", "rebuild", "pause"] = "warn"
    synchronous_commit: Literal["on", "off"] = "on"


def resolve_limits(definition: Definition, settings: Settings) -> Limits:
    """Give the limits of one projection; the registry has merged class and file already."""
    return Limits(
        batch_size=definition.batch_size or settings.batch_size,
        checkpoint_every=definition.checkpoint_every or settings.checkpoint_every,
        max_attempts=definition.max_attempts or settings.max_attempts,
        on_error=definition.on_error or settings.on_error,
        catchup_transaction_seconds=settings.catchup_transaction_seconds,
        on_change=definition.on_change or settings.on_change,
        synchronous_commit=definition.synchronous_commit or settings.synchronous_commit,
    )
