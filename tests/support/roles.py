"""Roles of a test's own, and its database as such a role sees it."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql
from psycopg.conninfo import make_conninfo

from projectiond.postgres.privileges import grants
from tests.support.postgres import Database, Server

# Asked for where the server asks for one.
PASSWORD = "lowly"


@dataclass
class OfRole:
    """A server whose connection strings are those of a role."""

    server: Server
    role: str

    def dsn(self, database: str = "postgres") -> str:
        return make_conninfo(self.server.dsn(database), user=self.role, password=PASSWORD)


@contextlib.contextmanager
def granted_role(database: Database, schema: str = "") -> Iterator[Database]:
    """Make a role by what `projectiond grants` prints, and give the database as that role sees it."""
    role = f"daemon_{uuid.uuid4().hex[:12]}"
    owner = database.connect()
    owner.execute(grants(owner, role, schema).encode())
    owner.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(PASSWORD)))
    as_role = Database(OfRole(database.server, role), database.name)
    try:
        yield as_role
    finally:
        as_role.close()
        owner.execute(
            sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {}").format(
                sql.Literal(role)
            )
        )
        owner.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.Identifier(role)))
