"""Short questions to a database that many tests ask."""

import uuid
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

Connection = psycopg.Connection[TupleRow]


def value(conn: Connection, query: LiteralString, *parameters: object) -> Any:  # noqa: ANN401 -- any SQL type
    """Return the first column of the only row."""
    (row,) = conn.execute(query, parameters or None)
    return row[0]


def heard(listener: Connection, channel: LiteralString) -> list[str]:
    """Return the payloads notified so far to a listening connection, on all its channels.

    Notifications arrive in the order of the commits that sent them, so it sends one of its own to `channel` and
    takes what came before: "nothing was notified" needs no waiting.
    """
    end = uuid.uuid4().hex
    listener.execute("SELECT pg_notify(%s, %s)", (channel, end))
    payloads: list[str] = []
    for notification in listener.notifies(timeout=10):
        if notification.payload == end:
            return payloads
        payloads.append(notification.payload)
    raise AssertionError(f"the notification of our own did not arrive; before it: {payloads}")


def become_new_role(conn: Connection) -> sql.Identifier:
    """Make a role without any privileges, go on as that role, and return its name."""
    role = sql.Identifier(f"role_{uuid.uuid4().hex}")
    conn.execute(sql.SQL("CREATE ROLE {role}; SET ROLE {role}").format(role=role))
    return role
