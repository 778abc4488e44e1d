# ruff: noqa: INP001 - a directory of plugins, no package
"""Loan applications as rows in memory: two projections, one of them with a key that is not the aggregate."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

from bench import loans
from bench.loans import LoanEvent
from bench.tables import prefixed
from projectiond import Event, RowProjection, handles


@dataclass(slots=True)
class Application:
    """A row of the applications."""

    application_id: UUID
    status: str | None = None
    amount: int | None = None
    offers: int = 0
    work_steps: int = 0
    events: int = 0
    last_activity: datetime | None = None


@dataclass(slots=True)
class Activity:
    """A row of the events by day and type."""

    day: date
    event_type: str
    events: int = 0


class LoansByRow(RowProjection):
    """Keeps applications."""

    row = Application
    tables = (prefixed("loan_applications", "by_row"),)
    schema = prefixed(loans.READ_MODEL, "by_row")

    @handles("*")
    def happened(self, row: Application, event: Event[LoanEvent]) -> None:
        """Note what was done."""
        if event.event_type.startswith("A_"):
            row.status = event.event_type
        if row.amount is None:
            row.amount = event.data.amount_req
        row.offers += event.event_type == "O_SENT"
        row.work_steps += event.event_type.startswith("W_")
        row.events += 1
        row.last_activity = event.created_at


class LoanActivityByRow(RowProjection):
    """Keeps the events by day and type."""

    row = Activity
    tables = (prefixed("loan_activity", "by_row"),)
    schema = prefixed(loans.READ_MODEL, "by_row")

    def key(self, event: Event) -> tuple[date, str]:
        """A day begins at midnight of Greenwich."""
        return event.created_at.astimezone(UTC).date(), event.event_type

    @handles("*")
    def happened(self, row: Activity, event: Event) -> None:  # noqa: ARG002 - the key says it all
        """Count it."""
        row.events += 1
