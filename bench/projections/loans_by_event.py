# ruff: noqa: INP001 - a directory of plugins, no package
"""Loan applications event by event, with the very statements of the loop."""

from datetime import UTC

from bench import loans
from bench.loans import LoanEvent
from bench.tables import prefixed
from projectiond import Connection, Event, Projection, handles

SUMMARISE = prefixed(loans.SUMMARISE, "by_event")
COUNT = prefixed(loans.COUNT, "by_event")


class LoansByEvent(Projection):
    """Keeps applications, and events by day and type."""

    tables = (prefixed("loan_applications", "by_event"), prefixed("loan_activity", "by_event"))
    schema = prefixed(loans.READ_MODEL, "by_event")

    @handles("*")
    def happened(self, event: Event[LoanEvent], db: Connection) -> None:
        """Note what was done, and count it."""
        summary = {
            "application_id": event.aggregate_id,
            "status": event.event_type if event.event_type.startswith("A_") else None,
            "amount": event.data.amount_req,
            "offers": int(event.event_type == "O_SENT"),
            "work_steps": int(event.event_type.startswith("W_")),
            "last_activity": event.created_at,
        }
        db.execute(SUMMARISE, summary)
        db.execute(COUNT, {"day": event.created_at.astimezone(UTC).date(), "event_type": event.event_type})
