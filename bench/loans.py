"""The other load: real events of loan applications, and the statements of two read models over them.

The log (BPI Challenge 2012, doi 10.4121/uuid:3926db30-f712-4394-aebc-75976070e91f) is not ours to ship.  It is taken
from where PROJECTIOND_BENCH_EVENTS or PROJECTIOND_TEST_EVENTS says, or from beside the checkout; without it, what needs
it is left out.  One JSON object a line, gzipped, in time order, with the columns of ``event_store`` that are not the
database's to fill.  There are 262,200 events of 24 types: what becomes of an application (A_…), of an offer (O_…), and
the work of people (W_…).

A loan application has a row with its status, amount and what was done to it; a type of event has one for each day.
"""

import gzip
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
from pydantic import BaseModel

VARIABLES: Final = ("PROJECTIOND_BENCH_EVENTS", "PROJECTIOND_TEST_EVENTS")

BESIDE: Final = Path(__file__).parents[2] / "shared" / "data" / "loan-applications.jsonl.gz"

TABLES: Final = ("loan_applications", "loan_activity")

EVENT_TYPES: Final = (
    "A_ACCEPTED",
    "A_ACTIVATED",
    "A_APPROVED",
    "A_CANCELLED",
    "A_DECLINED",
    "A_FINALIZED",
    "A_PARTLYSUBMITTED",
    "A_PREACCEPTED",
    "A_REGISTERED",
    "A_SUBMITTED",
    "O_ACCEPTED",
    "O_CANCELLED",
    "O_CREATED",
    "O_DECLINED",
    "O_SELECTED",
    "O_SENT",
    "O_SENT_BACK",
    "W_Afhandelen leads",
    "W_Beoordelen fraude",
    "W_Completeren aanvraag",
    "W_Nabellen incomplete dossiers",
    "W_Nabellen offertes",
    "W_Valideren aanvraag",
    "W_Wijzigen contractgegevens",
)


class LoanEvent(BaseModel):
    """Data of every event; the amount comes with the first."""

    transition: str
    case: str
    resource: str | None = None
    amount_req: int | None = None


READ_MODEL: LiteralString = """
CREATE TABLE IF NOT EXISTS loan_applications (
    application_id UUID PRIMARY KEY,
    status TEXT,
    amount BIGINT,
    offers INTEGER NOT NULL,
    work_steps INTEGER NOT NULL,
    events INTEGER NOT NULL,
    last_activity TIMESTAMPTZ
);
CREATE TABLE IF NOT EXISTS loan_activity (
    day DATE,
    event_type TEXT,
    events BIGINT NOT NULL,
    PRIMARY KEY (day, event_type)
);
"""

_MERGE_APPLICATION: LiteralString = """
ON CONFLICT (application_id) DO UPDATE
SET status = coalesce(excluded.status, kept.status),
    amount = coalesce(kept.amount, excluded.amount),
    offers = kept.offers + excluded.offers,
    work_steps = kept.work_steps + excluded.work_steps,
    events = kept.events + excluded.events,
    last_activity = excluded.last_activity
"""

_MERGE_ACTIVITY: LiteralString = """
ON CONFLICT (day, event_type) DO UPDATE
SET events = kept.events + excluded.events
"""

SUMMARISE: LiteralString = f"""
INSERT INTO loan_applications AS kept (application_id, status, amount, offers, work_steps, events, last_activity)
VALUES (%(application_id)s, %(status)s, %(amount)s, %(offers)s, %(work_steps)s, 1, %(last_activity)s)
{_MERGE_APPLICATION}"""

COUNT: LiteralString = f"""
INSERT INTO loan_activity AS kept (day, event_type, events)
VALUES (%(day)s, %(event_type)s, 1)
{_MERGE_ACTIVITY}"""

SUMMARISE_EVENTS: LiteralString = rf"""
INSERT INTO loan_applications AS kept (application_id, status, amount, offers, work_steps, events, last_activity)
SELECT
    aggregate_id,
    (array_agg(event_type ORDER BY sequence_number DESC) FILTER (WHERE starts_with(event_type, 'A_')))[1],
    max((event_data ->> 'amount_req')::bigint),
    count(*) FILTER (WHERE event_type = 'O_SENT'),
    count(*) FILTER (WHERE starts_with(event_type, 'W_')),
    count(*),
    (array_agg(created_at ORDER BY sequence_number DESC))[1]
FROM events
GROUP BY aggregate_id
{_MERGE_APPLICATION}"""

COUNT_EVENTS: LiteralString = f"""
INSERT INTO loan_activity AS kept (day, event_type, events)
SELECT (created_at AT TIME ZONE 'UTC')::date, event_type, count(*)
FROM events
GROUP BY 1, 2
{_MERGE_ACTIVITY}"""

_COPY: LiteralString = """
COPY event_store (aggregate_id, aggregate_type, event_type, event_data, version, created_at)
FROM STDIN
"""


def find_file() -> Path | None:
    """Give the file of real events, or None where there is none.

    Raises:
        RuntimeError: A variable names a file that is not there.
    """
    for variable in VARIABLES:
        if name := os.environ.get(variable):
            if not Path(name).is_file():
                raise RuntimeError(f"{variable} is {name}, which is not there; unset it, or name a file")
            return Path(name)
    return BESIDE if BESIDE.is_file() else None


def read_events(file: Path) -> Iterator[dict[str, Any]]:
    """Yield all events in time order."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def append(db: psycopg.Connection, events: Iterator[dict[str, Any]], count: int | None = None) -> int:
    """Append the next so many events, or all that are left, in one transaction; say how many these were."""
    appended = 0
    with db.cursor() as cursor, cursor.copy(_COPY) as copy:
        for event in islice(events, count):
            data = json.dumps(event["event_data"])
            copy.write_row(
                (event["aggregate_id"], event["aggregate_type"], event["event_type"], data, event["version"],
                 event["created_at"])
            )  # fmt: skip
            appended += 1
    return appended
