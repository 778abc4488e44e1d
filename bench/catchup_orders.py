"""Catching up with synthetic orders: every kind of projection against two loops, and against the server alone.

Called by ``__main__``.  First the race of ``race``, over rounds of new events.  Then every kind starts over, in
turns with the server that has nobody to wait for (``server_alone``), over all events at once: what a kind adds to the
cost of its statements.  All read models have to be equal, else the figures are worth nothing.
"""

from contextlib import ExitStack
from typing import Final

import psycopg

from bench import orders
from bench.context import Context
from bench.daemon import running_daemon
from bench.race import HAND_WRITTEN, PSYCOPG, Entrant, Race, prepare_loops, settle, store_head
from bench.report import Figure, at_least, at_most, median_figure
from bench.server_alone import ServerAlone, schema_of
from bench.tables import require_equal

DATABASE: Final = "catch_up_orders"
GROUP: Final = "catch-up, synthetic orders"

ENTRANTS: Final = {
    "event": Entrant("Projection", "by_event", ("orders_by_event",), at_least(5)),
    "batch": Entrant("BatchProjection", "by_batch", ("orders_by_batch",)),
    "row": Entrant("RowProjection", "by_row", ("orders_by_row", "customers_by_row"), at_least(12)),
    "sql": Entrant("SqlProjection", "by_sql", ("orders_by_sql",), at_least(40)),
}

_EXPECTED: Final = {"sql": at_most(1.5)}


def measure(bench: Context) -> list[Figure]:
    """Measure the race, and what each kind adds to its statements."""
    dsn = bench.server.create_store(DATABASE)
    plugins = [f"orders_by_{way}.py" for way in ENTRANTS]
    names = [name for entrant in ENTRANTS.values() for name in entrant.projections]
    with ExitStack() as stack:
        db = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        prepare_loops(db, orders.READ_MODEL)
        daemon = stack.enter_context(running_daemon(dsn, plugins, names, "paused"))
        race = Race(bench, dsn, db, daemon, "orders", list(ENTRANTS.values()))
        count = bench.scale.order_events
        for number in range(bench.scale.order_rounds):
            orders.append_orders(db, number * count, count)
            race.run_round(count)
        prefixes = [entrant.prefix for entrant in ENTRANTS.values()]
        require_equal(db, orders.TABLES, f"{HAND_WRITTEN}.", f"{PSYCOPG}.", *prefixes)
        appended = count * bench.scale.order_rounds
        orders.append_orders(db, appended, bench.scale.server_events - appended)
        settle(db)
        beside = _beside_server(race)
        require_equal(db, orders.TABLES, *prefixes, *(f"{schema_of(way)}." for way in ENTRANTS))
    return [*race.figures(GROUP), *beside]


def _beside_server(race: Race) -> list[Figure]:
    """Measure each kind from the first event on, in turns with the server alone."""
    alone = ServerAlone(race.dsn)
    alone.prepare(race.db)
    head = store_head(race.db)
    figures = []
    for way, entrant in ENTRANTS.items():
        own, servers = [], []
        for _ in range(race.bench.scale.server_rounds):
            own.append(race.start_over(entrant, orders.TABLES))
            race.db.execute("CHECKPOINT")
            servers.append(alone.run(way, head))
        folds = [seconds / least for seconds, least in zip(own, servers, strict=True)]
        group = f"all {head:,} events at once"
        figures += [
            median_figure(group, entrant.label, "events/s", [head / seconds for seconds in own]),
            median_figure(
                group, f"{entrant.label}: the server alone", "events/s", [head / seconds for seconds in servers]
            ),
            median_figure(group, f"{entrant.label}: time ÷ the server's alone", "fold", folds, _EXPECTED.get(way)),
        ]
        race.bench.say(f"{entrant.label}: {min(folds):.2f} times what the server alone needs")
    return figures
