"""The space: a schema in which a projection is built anew, beside its live tables.

It holds the projection's tables, made by the projection's own ``schema`` with the space first in the search_path, and
the bookkeeping that a runner reads and writes: a session whose search_path begins with the space therefore runs the
ordinary runner.  A trigger on its checkpoint sees that nothing else is written, and ties it to the rebuild's row (see
``projectiond_replay_moved`` in schema.sql).

All of it comes into being in one transaction, the rebuild's row included, and goes in one; so after a crash there is
either a space that can be continued or none.  What a projection's ``schema`` does outside of the space is refused: it
would be done to the live tables.

Called by the builder, and by whoever replays for another reason: such a space belongs to no rebuild and has no row.
"""

import hashlib
import uuid
from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
from psycopg.sql import SQL, Composed, Identifier, Literal

from projectiond import logs, sql
from projectiond.errors import ConfigurationError, ConflictError
from projectiond.failure import describe, is_absence
from projectiond.plugins.definition import Definition
from projectiond.postgres.database import Connection, fetch_row
from projectiond.rebuild import statements
from projectiond.running.preparation import apply_schema_beside
from projectiond.stream.highwater import read_store_end

REBUILD_PREFIX: Final = "projectiond_rebuild_"

# PostgreSQL cuts longer identifiers off without a word, and two projections would share a space.
LONGEST_IDENTIFIER: Final = 63
_HASH_LENGTH: Final = 10

log = logs.get_logger()


@dataclass(frozen=True, slots=True)
class Space:
    """One that is there."""

    schema: str
    projection: str
    rebuild_id: uuid.UUID | None
    """The rebuild that it belongs to; None when it belongs to none."""
    fingerprint: str
    """Of what it was begun with."""


def space_name(projection: str, prefix: str = REBUILD_PREFIX) -> str:
    """Give the name of a projection's schema, cut to length where it has to be and unique nevertheless."""
    name = prefix + projection
    if len(name.encode()) <= LONGEST_IDENTIFIER:
        return name
    digest = hashlib.blake2b(projection.encode(), digest_size=_HASH_LENGTH // 2).hexdigest()
    kept = name.encode()[: LONGEST_IDENTIFIER - _HASH_LENGTH - 1].decode(errors="ignore")
    return f"{kept}_{digest}"


def find(db: Connection, schema: str) -> Space | None:
    """Give the space of this name, if there is one."""
    if not fetch_row(db, statements.IS_SPACE, {"schema": schema})[0]:
        return None
    projection, rebuild_id, fingerprint = db.execute(_in(schema, statements.READ_SPACE)).fetchall()[0]
    return Space(schema, projection, rebuild_id, fingerprint)


def is_current(db: Connection, space: Space) -> bool:
    """Say whether the runner of now finds all columns there; not, when an upgrade has added some since it was made."""
    return bool(fetch_row(db, statements.IS_CURRENT, {"schema": space.schema})[0])


def make_for_rebuild(db: Connection, definition: Definition, fingerprint: str) -> Space:
    """Make the space of a rebuild, instead of one that is there, together with the rebuild's row.

    Raises:
        ConfigurationError: A privilege is missing, or the projection's schema does not make its tables there.
        ConflictError: No rebuild is asked for any more.
    """
    name = definition.name
    space = Space(space_name(name), name, uuid.uuid4(), fingerprint)
    target = read_store_end(db)
    with db.transaction():
        _make(db, definition, space)
        # Last, for whoever wants to pause or call it off would have to wait.
        db.execute(statements.LOCK_STATUS, {"name": name})
        row = db.execute(statements.READ_REBUILD, {"name": name}).fetchone()
        if row is None or row[0] != "rebuilding" or row[2] == "in place":
            raise ConflictError(f'no rebuild of "{name}" beside its tables is asked for any more')
        db.execute(statements.MARK_REBUILD, {"name": name, "id": space.rebuild_id, "target": target})
    return space


def make(db: Connection, definition: Definition, schema: str) -> Space:
    """Make a space that belongs to no rebuild, in a schema of this name.

    Raises:
        ConfigurationError: As above.
    """
    space = Space(schema, definition.name, None, "")
    with db.transaction():
        _make(db, definition, space)
    return space


def drop(db: Connection, schema: str) -> None:
    """Drop a space with all that is in it; where the role could not make it again, only empty it.

    Raises:
        ConfigurationError: Something outside depends on what is in it, and would go with it.
    """
    with db.transaction():
        _refuse_dependents(db, schema)
        if fetch_row(db, statements.MAY_CREATE_SCHEMA)[0]:
            db.execute(_in(schema, statements.DROP_SCHEMA))
        else:
            _empty(db, schema)


def drop_orphans(db: Connection) -> None:
    """Drop the spaces whose rebuild is over, for whoever built there was killed."""
    for (schema,) in db.execute(statements.SPACES, {"prefix": REBUILD_PREFIX}).fetchall():
        _drop_if_orphan(db, schema)


def drop_orphan_of(db: Connection, projection: str) -> None:
    """Drop what is left of a projection's rebuild, if that is over."""
    _drop_if_orphan(db, space_name(projection))


def _drop_if_orphan(db: Connection, schema: str) -> None:
    """Drop a space if its rebuild is over; when it cannot be done, say so, for nobody else has to wait for it."""
    space: Space | None = None
    try:
        space = find(db, schema)
        if space is not None and space.rebuild_id is not None and _drop_orphan(db, space):
            log.info(logs.REBUILD_CANCELLED, projection=space.projection, space=schema)
    except (psycopg.Error, ConfigurationError) as error:
        if is_absence(error):
            raise
        text = str(error) if isinstance(error, ConfigurationError) else describe(error)
        log.warning(logs.REBUILD_FAILED, projection=None if space is None else space.projection, error=text)


def _drop_orphan(db: Connection, space: Space) -> bool:
    """Drop a space unless its rebuild is in progress, or somebody is at work in it; say whether it was done."""
    name = {"name": space.projection}
    if not fetch_row(db, statements.TRY_BUILDER, name)[0]:
        return False
    try:
        with db.transaction():
            db.execute(sql.session.SET_LOCK_TIMEOUT, {"timeout": "2s"})
            if fetch_row(db, statements.IS_MARKED, {**name, "id": space.rebuild_id})[0]:
                return False
            drop(db, space.schema)
    finally:
        db.execute(statements.RELEASE_BUILDER, name)
    return True


# --- making


def _make(db: Connection, definition: Definition, space: Space) -> None:
    _refuse_qualified(definition)
    _make_schema(db, space)
    for statement in statements.MAKE_BOOKKEEPING:
        db.execute(_in(space.schema, statement))
    name = {"name": definition.name}
    db.execute(_in(space.schema, statements.MAKE_CHECKPOINT), name)
    known = {**name, "rebuild_id": space.rebuild_id, "fingerprint": space.fingerprint}
    db.execute(_in(space.schema, statements.NOTE_SPACE), known)
    arguments = SQL("") if space.rebuild_id is None else Literal(str(space.rebuild_id))
    db.execute(SQL(statements.LINK).format(space=Identifier(space.schema), arguments=arguments))
    db.execute(sql.session.RESTORE_SEARCH_PATH, {"search_path": path_of(db, space.schema)})
    apply_schema_beside(db, definition)
    _refuse_strays(db, definition, space.schema)
    db.execute(sql.session.RESTORE_SEARCH_PATH, {"search_path": db.search_path})


def path_of(db: Connection, schema: str) -> str:
    """Give the search_path of sessions that work in the space."""
    return f"{Identifier(schema).as_string(db)}, {db.search_path}"


def _make_schema(db: Connection, space: Space) -> None:
    found = db.execute(statements.DESCRIBE_SCHEMA, {"schema": space.schema}).fetchone()
    if found is None:
        may_create, database, role = fetch_row(db, statements.MAY_CREATE_SCHEMA)
        if not may_create:
            schema = Identifier(space.schema).as_string(db)
            raise ConfigurationError(
                f'role {role} may not create the schema in which "{space.projection}" is to be built anew',
                hint=f"run GRANT CREATE ON DATABASE {database} TO {role}, or CREATE SCHEMA {schema} AUTHORIZATION "
                f'{role}, or rebuild it in place with "projectiond rebuild {space.projection} --in-place"',
            )
        db.execute(_in(space.schema, statements.CREATE_SCHEMA))
        return
    is_own, is_filled, is_space = found
    if not is_own:
        raise ConfigurationError(
            f'the schema "{space.schema}" belongs to another role',
            hint="drop it, or change its owner with ALTER SCHEMA … OWNER TO",
        )
    if is_space:
        _refuse_dependents(db, space.schema)
        _empty(db, space.schema)
    elif is_filled:
        raise ConfigurationError(
            f'the schema "{space.schema}" is in use: it holds what projectiond has not made',
            hint="name another, or drop what is in it",
        )


def _refuse_dependents(db: Connection, schema: str) -> None:
    dependents = [str(row[0]) for row in db.execute(statements.DEPENDENTS, {"schema": schema})]
    if dependents:
        raise ConfigurationError(
            f'the schema "{schema}" cannot be dropped: {", ".join(dependents)} would go, or lose a column, with it',
            hint="drop what depends on it, or move it to another schema",
        )


def _empty(db: Connection, schema: str) -> None:
    for kind, identity in db.execute(statements.CONTENTS, {"schema": schema}).fetchall():
        # Both come from the catalogue, the identity quoted.
        db.execute(f"DROP {kind} IF EXISTS {identity} CASCADE".encode())


def _refuse_qualified(definition: Definition) -> None:
    name = definition.name
    if not definition.tables:
        raise ConfigurationError(
            f'"{name}" cannot be rebuilt: it declares no tables, so nothing could be built anew',
            hint=f"set `tables = (...)` in {definition.source}",
        )
    qualified = [table for table in definition.tables if "." in table]
    if qualified:
        raise ConfigurationError(
            f'"{name}" cannot be rebuilt beside its tables: it names them with their schema ({", ".join(qualified)})',
            hint="take the schema off in `tables`, `schema` and handlers and set the role's search_path, or rebuild it "
            f'in place with "projectiond rebuild {name} --in-place"',
        )


def find_strays(db: Connection, definition: Definition, schema: str) -> list[str]:
    """Give the projection's tables that the search_path finds elsewhere than in the schema, or not at all."""
    tables = {Identifier(table).as_string(db): table for table in definition.tables}
    parameters = {"schema": schema, "tables": list(tables)}
    return [tables[quoted] for (quoted,) in db.execute(statements.STRAY_TABLES, parameters)]


def _refuse_strays(db: Connection, definition: Definition, schema: str) -> None:
    """See that the author's DDL has made the tables in the space, and has left all others alone."""
    strays = find_strays(db, definition, schema)
    in_place = f'rebuild it in place with "projectiond rebuild {definition.name} --in-place"'
    if strays:
        raise ConfigurationError(
            f'"{definition.name}" cannot be rebuilt beside its tables: its `schema` does not make {", ".join(strays)} '
            "in the first schema of the search_path",
            hint=f"write CREATE TABLE IF NOT EXISTS, without a schema's name, in {definition.source}, or {in_place}",
        )
    extensions = [str(row[0]) for row in db.execute(statements.EXTENSIONS, {"schema": schema})]
    if extensions:
        raise ConfigurationError(
            f'"{definition.name}" cannot be rebuilt beside its tables: its `schema` makes the extension '
            f"{', '.join(extensions)}, which would be dropped with the space",
            hint=f"run CREATE EXTENSION {extensions[0]} in the database, once",
        )
    touched = [str(row[0]) for row in db.execute(statements.TOUCHED_OUTSIDE, {"schema": schema})]
    if touched:
        raise ConfigurationError(
            f'"{definition.name}" cannot be rebuilt beside its tables: its `schema` changes {", ".join(touched)}',
            hint=f"take that out of `schema` in {definition.source}, or {in_place}",
        )


def _in(schema: str, statement: LiteralString) -> Composed:
    return SQL(statement).format(space=Identifier(schema))
