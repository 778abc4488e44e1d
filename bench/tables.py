"""Tables of a read model: one set for each that keeps it, and whether two sets are equal.

The same statements run for everybody, so tables that belong to different projections of one daemon get a prefix, and
those of programs with a connection of their own a schema.
"""

from collections.abc import Sequence
from typing import Final, LiteralString

import psycopg
from psycopg import sql

# Rows that only one of two tables has; both have a primary key, so none is there twice.
_DIFFERENCES: LiteralString = """
SELECT
    (SELECT count(*) FROM ((SELECT * FROM {0} EXCEPT SELECT * FROM {1})
        UNION ALL (SELECT * FROM {1} EXCEPT SELECT * FROM {0})) AS difference),
    (SELECT count(*) FROM {0})
"""

_TABLES: Final = ("order_totals", "customer_totals", "loan_applications", "loan_activity")


def prefixed(statement: LiteralString, prefix: LiteralString) -> LiteralString:
    """Give the statement, or the name, with a prefix before the names of all tables of read models."""
    for table in _TABLES:
        statement = statement.replace(table, f"{prefix}_{table}")
    return statement


def require_equal(db: psycopg.Connection, tables: Sequence[str], reference: str, *others: str) -> None:
    """See that read models are equal.

    Args:
        db: Any connection.
        tables: The read model's tables.
        reference: The one that the others are compared with: its prefix, or its schema and a dot.
        others: The others, in the same way.

    Raises:
        RuntimeError: One is not, so that no figure is worth anything; or all are empty.
    """
    for table in tables:
        for other in others:
            statement = sql.SQL(_DIFFERENCES).format(_named(reference, table), _named(other, table))
            differences, count = db.execute(statement).fetchone() or (0, 0)
            if differences or not count:
                raise RuntimeError(f"{table} of {other} and of {reference} differ in {differences} of {count} rows")


def _named(owner: str, table: str) -> sql.Identifier:
    schema, is_schema, _ = owner.partition(".")
    return sql.Identifier(schema, table) if is_schema else sql.Identifier(f"{owner}_{table}")
