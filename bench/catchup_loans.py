"""Catching up with real events, of loan applications: the hand-written loop against three kinds of projection.

Called by ``__main__``; left out, with a word, where the events are not (``loans`` says where they are looked for).
The loop is given a part of them, in rounds; then the kinds go on to the end of the log.
"""

from contextlib import ExitStack
from typing import Final

import psycopg

from bench import loans
from bench.context import Context
from bench.daemon import running_daemon
from bench.race import HAND_WRITTEN, Entrant, Race, prepare_loops, settle
from bench.report import Figure
from bench.tables import require_equal

DATABASE: Final = "catch_up_loans"
GROUP: Final = "catch-up, real loan applications"

ENTRANTS: Final = {
    "event": Entrant("Projection", "by_event", ("loans_by_event",)),
    "row": Entrant("RowProjection", "by_row", ("loans_by_row", "loan_activity_by_row")),
    "sql": Entrant("SqlProjection", "by_sql", ("loans_by_sql",)),
}


def measure(bench: Context) -> list[Figure]:
    """Measure the race, and then the kinds alone."""
    file = loans.find_file()
    if file is None:
        bench.say(f"loan applications are left out: {' or '.join(loans.VARIABLES)} may name the file of their events")
        return []
    dsn = bench.server.create_store(DATABASE)
    plugins = [f"loans_by_{way}.py" for way in ENTRANTS]
    names = [name for entrant in ENTRANTS.values() for name in entrant.projections]
    with ExitStack() as stack:
        db = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        prepare_loops(db, loans.READ_MODEL, [HAND_WRITTEN])
        daemon = stack.enter_context(running_daemon(dsn, plugins, names, "paused"))
        race = Race(bench, dsn, db, daemon, "loans", list(ENTRANTS.values()), [HAND_WRITTEN])
        events = loans.read_events(file)
        for _ in range(bench.scale.loan_rounds):
            race.run_round(loans.append(db, events, bench.scale.loan_events))
        prefixes = [entrant.prefix for entrant in ENTRANTS.values()]
        require_equal(db, loans.TABLES, f"{HAND_WRITTEN}.", *prefixes)
        rest = loans.append(db, events, bench.scale.loan_events_after)
        settle(db)
        figures = [
            Figure(GROUP, f"{entrant.label}, the other {rest:,} events", rest / race.catch_up(entrant), "events/s")
            for entrant in ENTRANTS.values()
        ]
        # Nobody else has gone so far.
        require_equal(db, loans.TABLES, *prefixes)
    return [*race.figures(GROUP), *figures]
