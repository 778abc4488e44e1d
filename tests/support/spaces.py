"""A live schema and a space side by side, for tests of what ends a rebuild.

sides = Sides(database)
sides.both("CREATE TABLE orders (id int PRIMARY KEY)")
sides.live("INSERT INTO orders VALUES (1)")
sides.built("INSERT INTO orders VALUES (2)")
changes = sides.merge("orders")
"""

from collections.abc import Sequence
from typing import Any

from projectiond.postgres.database import Connection, connect
from projectiond.rebuild.merge import merge
from projectiond.rebuild.tables import Pair, TableChange, pair_tables
from tests.support.postgres import Database

SPACE = "projectiond_rebuild_orders"


class Sides:
    """Both schemas over one connection."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.db: Connection = connect(database.dsn, role="test", statement_timeout_seconds=30)
        self.db.execute(f"CREATE SCHEMA {SPACE}")

    def close(self) -> None:
        """Close the connection."""
        self.db.close()

    def live(self, statements: str) -> None:
        """Run statements for the live tables."""
        self.db.execute(statements.encode())

    def built(self, statements: str) -> None:
        """Run statements for the tables in the space, as a replay does."""
        with self.db.transaction():
            self.db.execute(f"SET LOCAL search_path = {SPACE}, public")
            self.db.execute(statements.encode())
            self.db.execute("SET LOCAL search_path TO DEFAULT")

    def both(self, statements: str) -> None:
        """Run statements for each."""
        self.live(statements)
        self.built(statements)

    def pairs(self, *tables: str) -> tuple[Pair, ...]:
        """Find tables on both sides."""
        return pair_tables(self.db, tables, SPACE)

    def merge(self, *tables: str) -> tuple[TableChange, ...]:
        """Merge in a transaction, and commit."""
        with self.db.transaction():
            return merge(self.db, self.pairs(*tables))

    def rows(self, table: str, columns: str = "*", schema: str = "public") -> Sequence[Any]:
        """Give a table's rows, as a sorted list."""
        return sorted(self.db.execute(f"SELECT {columns} FROM {schema}.{table}".encode()).fetchall(), key=repr)
