"""What the server alone needs for the same statements: no protocol and no Python in the way.

Used by ``catchup_orders``, as the measure of what a kind adds to the cost of its statements.  Each way has a schema
with tables of its own, and does what the kind's statements do, reading the events and moving a checkpoint included:

    event   a procedure: for each event, the handlers' very statements
    batch   a procedure: for each batch, two writes of arrays that were added up beforehand
    row     a procedure: for each batch, rows are loaded by key, and written as they were made beforehand
    sql     the two statements over all events, sent by psycopg, in one transaction

What is added up, or made, beforehand is the client's work; the clock starts after it.
"""

import re
import time
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from bench import alone_sql, order_sets, orders

WAYS: Final = ("event", "batch", "row", "sql")

# Events read at once, as in config/production.toml; and about as many in a transaction as the daemon has far behind.
_BATCH: LiteralString = "500"
_TRANSACTION: LiteralString = "5000"

_PARAMETERS: Final = {
    "order_id": "event.aggregate_id",
    "customer_id": "event.event_data ->> 'customer_id'",
    "currency": "event.event_data ->> 'currency'",
    "quantity": "(event.event_data ->> 'quantity')::int",
    "carrier": "event.event_data ->> 'carrier'",
}

_ITEM_CENTS: LiteralString = (
    "(event.event_data ->> 'quantity')::bigint * (event.event_data ->> 'unit_price_cents')::bigint"
)
_PAID_CENTS: LiteralString = "(event.event_data ->> 'amount_cents')::bigint"


class ServerAlone:
    """The four ways, in one database."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def prepare(self, db: psycopg.Connection) -> None:
        """Make schemas and tables, and what the client would have made of the events that are there."""
        for way in WAYS:
            schema = sql.Identifier(schema_of(way))
            db.execute(sql.SQL("CREATE SCHEMA {0}; SET search_path = {0}, public").format(schema))
            db.execute(orders.READ_MODEL)
            if way in {"batch", "row"}:
                db.execute(_stage(way))
            if way in procedures():
                db.execute(procedures()[way])
        db.execute("RESET search_path")

    def run(self, way: str, head: int) -> float:
        """Empty its tables, then apply all events up to this one; give the seconds."""
        with psycopg.connect(f"{self._dsn}&options=-csearch_path%3D{schema_of(way)}%2Cpublic") as db:
            db.execute("TRUNCATE order_totals, customer_totals")
            # A plan made while the tables were empty would read them whole for ever.
            db.execute("SET enable_seqscan = off")
            db.commit()
            db.autocommit = way != "sql"
            began = time.perf_counter()
            if way == "sql":
                for statement in (order_sets.SUM_ORDERS, order_sets.SUM_CUSTOMERS):
                    db.execute(alone_sql.EVENTS + statement, {"head": head})
                db.commit()
            else:
                db.execute("CALL apply_all(%s)", (head,))
            return time.perf_counter() - began


def schema_of(way: str) -> str:
    """Give the schema of its tables."""
    return f"alone_{way}"


def procedures() -> dict[str, LiteralString]:
    """Give the text of the procedures."""
    return {"event": _by_event(), "batch": _by_batch("batch"), "row": _by_batch("row")}


def _by_event() -> LiteralString:
    return _filled(
        alone_sql.BY_EVENT,
        add_item=_of_event(orders.ADD_ITEM, _ITEM_CENTS),
        place=_of_event(orders.PLACE),
        pay=_of_event(orders.PAY, _PAID_CENTS),
        credit_customer=_of_event(orders.CREDIT_CUSTOMER, _PAID_CENTS),
        ship=_of_event(orders.SHIP),
    )


def _by_batch(way: str) -> LiteralString:
    write: LiteralString = alone_sql.LOAD_AND_WRITE_ROWS
    if way == "batch":
        write = f"{_of_stage(order_sets.WRITE_ORDERS)};\n{_of_stage(order_sets.WRITE_CUSTOMERS, 'payer_')};"
    return _filled(alone_sql.BY_BATCH, write=write)


def _stage(way: str) -> LiteralString:
    rows = alone_sql.ROWS_ARE_CHANGES if way == "batch" else alone_sql.ROWS_ARE_SUMS
    columns = {"order_columns": order_sets.ORDER_COLUMNS, "customer_columns": order_sets.CUSTOMER_COLUMNS}
    return _filled(alone_sql.STAGE, rows=rows, **columns)


def _filled(text: LiteralString, **parts: LiteralString) -> LiteralString:
    """Put statements and sizes in; the parts may hold placeholders themselves."""
    parts |= {"read": alone_sql.READ, "move": alone_sql.MOVE}
    for name, part in (*parts.items(), ("batch", _BATCH), ("transaction", _TRANSACTION)):
        text = text.replace(f"{{{name}}}", part)
    return text


def _of_event(statement: LiteralString, cents: LiteralString = "") -> LiteralString:
    """Put the event's values where the handler's parameters are."""
    for name, value in (*_PARAMETERS.items(), ("cents", cents)):
        statement = statement.replace(f"%({name})s", value)
    return statement


def _of_stage(statement: LiteralString, prefix: LiteralString = "") -> LiteralString:
    """Put the arrays of a batch where the parameters are."""
    return re.sub(r"%\((\w+)\)b", rf"stage.{prefix}\1", statement)
