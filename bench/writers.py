"""What the writers pay: appends a second without a trigger, with the doorbell, and with a plain NOTIFY trigger.

Called by ``__main__``.  Four databases of one server, alike but for what listens; pgbench appends single events, each
in a transaction of its own, to one after the other, so that neighbours can be compared::

    none        no trigger, no daemon
    bell        the doorbell's trigger, nobody asleep: the trigger's own cost
    watched     … and a daemon whose projection is paused: it only looks how far the store is settled
    projected   … and the daemon applies what it can
    notify      a trigger that notifies at every append, and one session that listens

Every run begins with an empty table.  A run of eight writers on two cores is up to a third faster or slower than the
one before, for no reason that repeats; so a round has several short runs of each variant, there and back, and what is
compared is their mean.  A daemon works on the same two cores as the writers and the server; what it
takes there shows in ``watched`` and ``projected``, while ``bell`` and ``notify`` are the costs that no further core
takes away.
"""

import statistics
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Final, LiteralString

import psycopg

from bench import orders, pgbench
from bench.context import Context
from bench.daemon import Daemon, running_daemon
from bench.report import Figure, at_least, median_figure

VARIANTS: Final = ("none", "bell", "watched", "projected", "notify")

FOR_COMPARISON: Final = ("projected", "notify")
"""These stand beside the goals, and take part in one turn of every third round only."""

TURNS: Final = 4
"""Runs of each variant in a round; an even number, for half of them are on the way back."""

SECONDS: Final = 0.35
"""Of one run: long enough for thousands of appends, and short enough that neighbours meet the same machine."""

_NO_TRIGGER: LiteralString = "DROP TRIGGER projectiond_ring_doorbell ON event_store"

_PLAIN_NOTIFY: LiteralString = """
CREATE FUNCTION notify_always() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('events', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_always AFTER INSERT ON event_store FOR EACH STATEMENT EXECUTE FUNCTION notify_always()
"""

_SAID: Final = {
    "bell": "doorbell's trigger",
    "watched": "… and a daemon, projection paused",
    "projected": "… and a daemon that projects",
    "notify": "plain NOTIFY trigger",
}

_EXPECTED: Final = {"bell": at_least(90), "watched": at_least(90)}

PLUGIN: Final = "orders_by_event.py"
PROJECTION: Final = "orders_by_event"


def measure(bench: Context) -> list[Figure]:
    """Measure all variants at every number of connections, protocol and durability."""
    figures: list[Figure] = []
    with _stores(bench) as (addresses, daemon):
        for connections, protocol, synchronous_commit in bench.scale.writer_settings:
            command = pgbench.Command(addresses["none"], connections, 1, protocol, synchronous_commit)
            # Not counted: it warms up, and says how many appends make a short run.
            rate = _run(bench, command, "none", daemon)
            short = replace(command, transactions=max(1, int(SECONDS * rate / connections)))
            rounds: list[dict[str, float]] = []
            for number in range(bench.scale.writer_rounds):
                rates: dict[str, list[float]] = {}
                for variant in in_turn(number):
                    run = _run(bench, replace(short, dsn=addresses[variant]), variant, daemon)
                    rates.setdefault(variant, []).append(run)
                rounds.append({variant: statistics.fmean(runs) for variant, runs in rates.items()})
            name = f"{connections} writers, {protocol}, synchronous_commit {synchronous_commit}"
            figures += _figures(name, rounds)
            bench.say(
                f"{name}: " + ", ".join(f"{figure.value:,.0f} {figure.unit}" for figure in figures[-len(VARIANTS) :])
            )
    return figures


def in_turn(number: int) -> list[str]:
    """Give the runs of a round in order: the variants there and back, several times."""
    with_goals = [variant for variant in VARIANTS if variant not in FOR_COMPARISON]
    runs = [variant for turn in range(TURNS) for variant in (with_goals if turn % 2 == 0 else with_goals[::-1])]
    return [*runs, *FOR_COMPARISON] if number % 3 == 0 else runs


def _run(bench: Context, command: pgbench.Command, variant: str, daemon: Daemon) -> float:
    with psycopg.connect(command.dsn, autocommit=True) as db:
        db.execute("TRUNCATE event_store")
        if variant in {"watched", "projected"}:
            daemon.set_status("running", PROJECTION)
            _catch_up(db, daemon)
            if variant == "watched":
                daemon.set_status("paused", PROJECTION)
            daemon.wait_until_asleep()
    return command.run(bench.server.binaries)


def _catch_up(db: psycopg.Connection, daemon: Daemon) -> None:
    """Leave nothing of the last run to be done: its events are gone, and what is left is one of now."""
    orders.append_orders(db, 0, 1)
    row = db.execute("SELECT max(sequence_number) FROM event_store").fetchone()
    head = int(row[0]) if row else 0
    daemon.wait_for(head, PROJECTION)
    db.execute("TRUNCATE event_store, by_event_order_totals, by_event_customer_totals")


def _figures(group: str, rounds: list[dict[str, float]]) -> list[Figure]:
    shares = {
        variant: [100 * rates[variant] / rates["none"] for rates in rounds if variant in rates]
        for variant in VARIANTS[1:]
    }
    return [
        median_figure(group, "no trigger", "appends/s", [rates["none"] for rates in rounds]),
        *(median_figure(group, _SAID[variant], "%", shares[variant], _EXPECTED.get(variant)) for variant in shares),
    ]


@contextmanager
def _stores(bench: Context) -> Iterator[tuple[dict[str, str], Daemon]]:
    """Give the databases by variant, and the daemon of two of them."""
    none, bell, watched, notify = (bench.server.create_store(f"writers_{n}") for n in ("none", "bell", "on", "notify"))
    with ExitStack() as stack:
        with psycopg.connect(none, autocommit=True) as db:
            db.execute(_NO_TRIGGER)
        with psycopg.connect(notify, autocommit=True) as db:
            db.execute(_NO_TRIGGER)
            db.execute(_PLAIN_NOTIFY)
        stack.enter_context(_listening(notify))
        daemon = stack.enter_context(running_daemon(watched, [PLUGIN], [PROJECTION]))
        yield {"none": none, "bell": bell, "watched": watched, "projected": watched, "notify": notify}, daemon


@contextmanager
def _listening(dsn: str) -> Iterator[None]:
    """Have a session that hears every notification, as its client would."""
    ending = threading.Event()

    def listen() -> None:
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute("LISTEN events")
            while not ending.is_set():
                for _ in db.notifies(timeout=0.2):
                    pass

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield
    finally:
        ending.set()
        listener.join()
