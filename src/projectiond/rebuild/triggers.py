"""Triggers whose function stays where it is in a swap.

Projections like to share one: ``touch()`` that stamps a row, made by the ``schema`` of each with CREATE OR REPLACE.
The one in the space is the same as the live one, so it need not take its place; which would be impossible while other
tables use it.  The triggers of the new tables are made again instead, for the live function.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import LiteralString

from psycopg.sql import SQL, Identifier

from projectiond.postgres.database import Connection
from projectiond.rebuild.catalogue import names_relative_to, trusted

# Parameters: space, home.  Rows: (oid) of each trigger function of the space that has a twin at home.
_TWINS: LiteralString = """
SELECT own.oid
FROM pg_proc AS own
JOIN pg_proc AS twin ON twin.proname = own.proname
    AND twin.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(home)s)
    AND twin.prosrc = own.prosrc
    AND twin.prolang = own.prolang
    AND twin.prosecdef = own.prosecdef
    AND twin.proconfig IS NOT DISTINCT FROM own.proconfig
WHERE own.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(space)s)
    AND own.prorettype = 'trigger'::regtype
    AND twin.prorettype = own.prorettype
    AND own.pronargs = 0
    AND twin.pronargs = 0
"""

# Parameters: functions (oid[]).  Rows: (table, trigger, its definition) of those that they serve.
_TRIGGERS: LiteralString = """
SELECT class.relname::text, trigger.tgname::text, pg_get_triggerdef(trigger.oid, true)
FROM pg_trigger AS trigger
JOIN pg_class AS class ON class.oid = trigger.tgrelid
WHERE trigger.tgfoid = ANY (%(functions)s::oid[])
    AND trigger.tgparentid = 0
ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Trigger:
    """One that is to be made again."""

    table: str
    name: str
    definition: str


def find_twins(db: Connection, space: str, home: str) -> set[int]:
    """Give the trigger functions of a space that are the same as those at home."""
    return {row[0] for row in db.execute(_TWINS, {"space": space, "home": home})}


def read_triggers(db: Connection, functions: Collection[int], space: str, home: str) -> list[Trigger]:
    """Give the triggers that these functions serve, in texts that fit wherever the tables will be."""
    with names_relative_to(db, space, home):
        return [Trigger(*row) for row in db.execute(_TRIGGERS, {"functions": list(functions)})]


def make_again(db: Connection, triggers: Collection[Trigger], home: str) -> None:
    """Make triggers for the functions at home, once the tables are there."""
    for trigger in triggers:
        db.execute(SQL("DROP TRIGGER {} ON {}").format(Identifier(trigger.name), Identifier(home, trigger.table)))
        with names_relative_to(db, home):
            db.execute(trusted(trigger.definition))
