"""Inspection: is the database as the daemon needs it?

Called by ``projectiond check`` and at start-up.  Read-only, and of the catalogues alone: its cost does not depend on
how many events there are.  Every fault is named at once, each with what to do about it.
"""

from collections.abc import Mapping
from typing import Final, LiteralString

import psycopg
from psycopg.rows import TupleRow

from projectiond.postgres.privileges import TABLES, hidden_schemas, missing_privileges

_INIT: Final = 'run "projectiond init"'

_DOORBELL_TRIGGER: Final = "projectiond_ring_doorbell"
_TRIGGERS: Final[Mapping[str, str]] = {
    _DOORBELL_TRIGGER: "event_store",
    "projectiond_status_changed": "projection_checkpoints",
}

# Rows: one (is_standby, search_path).
_SESSION: LiteralString = """
SELECT
    pg_is_in_recovery(),
    current_setting('search_path')
"""

# Parameters: tables (text[]). Rows: one (table) for each that the search_path does not find.
_MISSING_TABLES: LiteralString = """
SELECT name
FROM unnest(%(tables)s::text[]) WITH ORDINALITY AS wanted (name, place)
WHERE to_regclass(name) IS NULL
ORDER BY place
"""

# Rows: (fault) of event_store as a relation; none when it is an ordinary or partitioned, logged table.
_STORE_FAULTS: LiteralString = """
SELECT CASE
    WHEN relkind NOT IN ('r', 'p')
        THEN 'event_store is not a table: give that name to the table that events are inserted into'
    ELSE 'event_store loses its events when the server crashes: run ALTER TABLE event_store SET LOGGED'
END
FROM pg_class
WHERE oid = to_regclass('event_store')
    AND (relkind NOT IN ('r', 'p') OR relpersistence <> 'p')
"""

# Rows: (table, column) for each missing one, of the tables that are there.
_MISSING_COLUMNS: LiteralString = """
SELECT wanted.t, wanted.c
FROM (VALUES
    ('event_store', 'event_id'),
    ('event_store', 'aggregate_id'),
    ('event_store', 'aggregate_type'),
    ('event_store', 'event_type'),
    ('event_store', 'event_data'),
    ('event_store', 'metadata'),
    ('event_store', 'version'),
    ('event_store', 'sequence_number'),
    ('event_store', 'created_at'),
    ('projection_checkpoints', 'projection_name'),
    ('projection_checkpoints', 'last_sequence_number'),
    ('projection_checkpoints', 'last_event_id'),
    ('projection_checkpoints', 'last_processed_at'),
    ('projection_checkpoints', 'events_processed'),
    ('projection_checkpoints', 'status'),
    ('projection_checkpoints', 'error_message'),
    ('projection_dead_letters', 'retry_requested_at'),
    ('projection_dead_letters', 'retry_begun_at')
) AS wanted (t, c)
WHERE to_regclass(wanted.t) IS NOT NULL
    AND NOT EXISTS (
        SELECT
        FROM pg_attribute
        WHERE attrelid = to_regclass(wanted.t)
            AND attname = wanted.c
            AND NOT attisdropped
    )
"""

# Rows: one (draws_numbers, is_nullable, sequence, cache, only_grows, whether it and the table may be read), or none
# without the column; sequence is null where the column owns none.
_SEQUENCE: LiteralString = """
SELECT
    col.atthasdef OR col.attidentity <> '',
    NOT col.attnotnull,
    own.seqrelid::regclass::text,
    own.seqcache,
    own.seqincrement > 0 AND NOT own.seqcycle,
    has_sequence_privilege(own.seqrelid, 'SELECT') AND has_table_privilege(col.attrelid, 'SELECT')
FROM pg_attribute AS col
LEFT JOIN pg_sequence AS own
    ON own.seqrelid = pg_get_serial_sequence('event_store', col.attname::text)::regclass
WHERE col.attrelid = to_regclass('event_store')
    AND col.attname = 'sequence_number'
"""

# Rows: one (is_unique), or none without the table. A partitioned table cannot have one: any index does.
_SEQUENCE_NUMBER_IS_UNIQUE: LiteralString = """
SELECT EXISTS (
    SELECT
    FROM pg_index AS i
    JOIN pg_attribute AS col
        ON col.attrelid = i.indrelid
        AND col.attnum = (i.indkey::int2[])[0]
    WHERE i.indrelid = store.oid
        AND col.attname = 'sequence_number'
        AND i.indisvalid
        AND i.indpred IS NULL
        AND (store.relkind = 'p' OR (i.indisunique AND i.indimmediate AND i.indnkeyatts = 1))
)
FROM pg_class AS store
WHERE store.oid = to_regclass('event_store')
"""

# Parameters: sequence. Rows: one (largest, last_drawn); last_drawn is null when the sequence was never used.
_STRAY_NUMBER: LiteralString = """
SELECT
    (SELECT max(sequence_number) FROM event_store),
    pg_sequence_last_value(%(sequence)s::regclass)
"""

# Rows: (table, column) for each that holds timestamps without a time zone.
_NAIVE_TIMESTAMPS: LiteralString = """
SELECT attrelid::regclass::text, attname::text
FROM pg_attribute
WHERE attrelid IN (to_regclass('event_store'), to_regclass('projection_checkpoints'))
    AND attname IN ('created_at', 'last_processed_at')
    AND atttypid = 'timestamp'::regtype
ORDER BY attnum
"""

# Rows: one (is_checked), or none without the column.
_STATUS_IS_CHECKED: LiteralString = """
SELECT col.attnotnull AND EXISTS (
    SELECT
    FROM pg_constraint
    WHERE conrelid = col.attrelid
        AND conname = 'projection_status_known'
        AND contype = 'c'
)
FROM pg_attribute AS col
WHERE col.attrelid = to_regclass('projection_checkpoints')
    AND col.attname = 'status'
"""

# Parameters: table, trigger. Rows: one (is_missing, is_disabled), or none without the table.
_TRIGGER: LiteralString = """
SELECT
    found.oid IS NULL,
    found.tgenabled NOT IN ('O', 'A')
FROM pg_class AS its_table
LEFT JOIN pg_trigger AS found
    ON found.tgrelid = its_table.oid
    AND found.tgname = %(trigger)s
WHERE its_table.oid = to_regclass(%(table)s)
"""

# Rows: one (is_copied): the store is filled by logical replication, in an order that is not the numbers'.
_STORE_IS_COPIED: LiteralString = """
SELECT EXISTS (
    SELECT
    FROM pg_subscription_rel
    WHERE srrelid = to_regclass('event_store')
)
"""

# Rows: one (function) for each that is missing: those that end every transaction of the daemon and of its rebuilds, and
# the one that applications read their writes by.
_MISSING_FUNCTIONS: LiteralString = """
SELECT split_part(signature, '(', 1)
FROM (VALUES
    ('projectiond_require_moved(boolean)'),
    ('projectiond_replay_moved()'),
    ('projectiond_wait_for(text, bigint, interval)')
) AS wanted (signature)
WHERE to_regprocedure(signature) IS NULL
"""


def inspect_schema(conn: psycopg.Connection[TupleRow], *, needs_doorbell: bool = True) -> list[str]:
    """Name every fault of the database that would keep the daemon from doing its work; change nothing.

    Args:
        conn: connected as the daemon's role.
        needs_doorbell: whether the trigger that wakes the daemon belongs to its work; not when it polls.

    Returns:
        One sentence for each fault, with what to do about it; empty when all is well.
    """
    ((is_standby, search_path),) = conn.execute(_SESSION)
    faults = ["this server is a standby: connect to the primary"] if is_standby else []
    if hidden := hidden_schemas(conn):
        return faults + hidden  # what is in there cannot be looked at
    missing = conn.execute(_MISSING_TABLES, {"tables": list(TABLES)}).fetchall()
    faults += [f"table {name} is not in the search_path ({search_path}): {_INIT}" for (name,) in missing]
    faults += [fault for (fault,) in conn.execute(_STORE_FAULTS)]
    ((is_copied,),) = conn.execute(_STORE_IS_COPIED)
    if is_copied:
        faults.append("event_store is filled by a subscription, out of order: connect to the publisher")
    columns = conn.execute(_MISSING_COLUMNS).fetchall()
    faults += [f"column {table}.{name} is missing: add it as in schema.sql" for table, name in columns]
    faults += _sequence_faults(conn)
    if (row := conn.execute(_STATUS_IS_CHECKED).fetchone()) and not row[0]:
        faults.append(f"projection_checkpoints.status takes any value: {_INIT}")
    naive = conn.execute(_NAIVE_TIMESTAMPS).fetchall()
    faults += [f"{table}.{name} has no time zone: {_INIT}" for table, name in naive]
    for trigger, table in _TRIGGERS.items():
        if needs_doorbell or trigger != _DOORBELL_TRIGGER:
            faults += _trigger_faults(conn, trigger, table)
    functions = conn.execute(_MISSING_FUNCTIONS).fetchall()
    faults += [f"function {name} is not in the search_path ({search_path}): {_INIT}" for (name,) in functions]
    faults += missing_privileges(conn)
    return faults


def _sequence_faults(conn: psycopg.Connection[TupleRow]) -> list[str]:
    column = "event_store.sequence_number"
    faults = []
    if (row := conn.execute(_SEQUENCE).fetchone()) is not None:
        draws_numbers, is_nullable, sequence, cache, only_grows, is_readable = row
        if not draws_numbers:
            faults.append(f"{column} has no default: {_INIT}")
        elif sequence is None:
            faults.append(f"{column} has no sequence of its own: {_INIT}")
        if is_nullable:
            faults.append(f"{column} may be NULL: {_INIT}")
        if sequence is not None and cache > 1:
            faults.append(
                f"sequence {sequence} has CACHE {cache}, so late numbers could be lost: "
                f"run ALTER SEQUENCE {sequence} CACHE 1, then end the sessions that hold cached numbers"
            )
        if sequence is not None and not only_grows:
            faults.append(
                f"sequence {sequence} counts downwards or cycles: run ALTER SEQUENCE {sequence} INCREMENT BY 1 NO CYCLE"
            )
        if sequence is not None and is_readable:
            faults += _stray_number(conn, sequence)
    if (row := conn.execute(_SEQUENCE_NUMBER_IS_UNIQUE).fetchone()) and not row[0]:
        faults.append(f"{column} is not unique: {_INIT}")
    return faults


def _stray_number(conn: psycopg.Connection[TupleRow], sequence: str) -> list[str]:
    ((largest, last_drawn),) = conn.execute(_STRAY_NUMBER, {"sequence": sequence})
    if largest is None or last_drawn is None or largest <= last_drawn:
        return []
    fault = (
        f"event_store has number {largest}, but its sequence has drawn {last_drawn} at most, so the daemon waits "
        f"there: let the column's default draw all numbers, and {_INIT}"
    )
    return [fault]


def _trigger_faults(conn: psycopg.Connection[TupleRow], trigger: str, table: str) -> list[str]:
    row = conn.execute(_TRIGGER, {"trigger": trigger, "table": table}).fetchone()
    if row is None:  # the table is missing, which has been said
        return []
    is_missing, is_disabled = row
    if is_missing:
        return [f"trigger {trigger} on {table} is missing: {_INIT}"]
    if is_disabled:
        return [f"trigger {trigger} on {table} is disabled: {_INIT}"]
    return []
