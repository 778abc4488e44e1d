"""A table as the catalogue has it: columns, key, constraints, indexes, triggers.

Read for two tables that are to be compared.  Texts are relative to the table's own schema, so that
``nextval('orders_id_seq')`` of one reads as that of the other; and types that somebody made are spelt out, so that an
enumeration is the same as another with the same name and labels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import LiteralString

import psycopg
from psycopg import sql

from projectiond.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Column:
    """A column; texts are relative to the schema of its table, but for ``type``, which can be used anywhere."""

    name: str
    type: str
    type_oid: int
    structure: str
    """The type with everything spelt out that its name stands for: equal where values mean the same."""

    collation: str | None
    is_required: bool
    generated: str
    identity: str
    default: str | None
    sequence: str | None
    """The sequence that belongs to it, qualified and quoted."""

    @property
    def is_written(self) -> bool:
        """Whether an INSERT gives it a value."""
        return not self.generated

    @property
    def is_stored(self) -> bool:
        """Whether rows hold it."""
        return self.generated != "v"


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint but NOT NULL, which belongs to the column."""

    name: str
    kind: str
    columns: tuple[str, ...]
    definition: str
    references: int
    """The table that a foreign key points to, or 0."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index; that of a constraint has the constraint's name."""

    name: str
    definition: str
    columns: tuple[str, ...] | None
    """None where it holds expressions, or a part of the rows."""

    is_primary: bool
    is_checked_at_once: bool
    """Whether two rows may not share a value even within one statement."""

    is_of_constraint: bool


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column of the primary key, with the operator that its index takes for equality."""

    name: str
    operator: tuple[str, str]


@dataclass(frozen=True)
class Table:
    """A table, as it stands in the catalogue."""

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    owner: str
    columns: tuple[Column, ...]
    key: tuple[KeyColumn, ...]
    """Of the primary key; none where there is none that rows could be told apart by."""

    constraints: tuple[Constraint, ...]
    indexes: tuple[Index, ...]
    triggers: dict[str, str]
    """Definitions, by name; those of constraints left out."""

    partition_key: str | None
    is_inherited: bool
    has_rules: bool

    @property
    def identifier(self) -> sql.Identifier:
        """Its qualified name, for SQL."""
        return sql.Identifier(self.schema, self.name)

    @property
    def relation(self) -> sql.Composable:
        """What stands for its own rows in a statement: not those of tables that inherit from it."""
        only = sql.SQL("" if self.kind == "p" else "ONLY ")
        return sql.SQL("{}{}").format(only, self.identifier)

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """Its columns."""
        return {column.name: column for column in self.columns}

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


# Parameters: schema, name.  Rows: one (oid, kind, persistence, owner, partition key, is inherited, has rules), or none.
_TABLE: LiteralString = """
SELECT
    class.oid,
    class.relkind::text,
    class.relpersistence::text,
    pg_get_userbyid(class.relowner)::text,
    pg_get_partkeydef(class.oid),
    EXISTS (SELECT FROM pg_inherits WHERE inhrelid = class.oid OR (inhparent = class.oid AND class.relkind = 'r')),
    EXISTS (SELECT FROM pg_rewrite WHERE ev_class = class.oid)
FROM pg_class AS class
JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE namespace.nspname = %(schema)s
    AND class.relname = %(name)s
    AND class.relkind IN ('r', 'p')
"""

# Parameters: table (oid).  Rows: one for each column, in order.
_COLUMNS: LiteralString = """
SELECT
    attribute.attname::text,
    attribute.atttypid,
    attribute.atttypmod,
    CASE WHEN rule.oid IS NOT NULL THEN
        quote_ident(rule_schema.nspname) || '.' || quote_ident(rule.collname)
    END,
    attribute.attnotnull,
    attribute.attgenerated::text,
    attribute.attidentity::text,
    pg_get_expr(def.adbin, def.adrelid),
    (
        SELECT quote_ident(namespace.nspname) || '.' || quote_ident(sequence.relname)
        FROM pg_depend AS owned
        JOIN pg_class AS sequence ON sequence.oid = owned.objid AND sequence.relkind = 'S'
        JOIN pg_namespace AS namespace ON namespace.oid = sequence.relnamespace
        WHERE owned.classid = 'pg_class'::regclass
            AND owned.refclassid = 'pg_class'::regclass
            AND owned.refobjid = attribute.attrelid
            AND owned.refobjsubid = attribute.attnum
            AND owned.deptype IN ('a', 'i')
        ORDER BY sequence.oid
        LIMIT 1
    )
FROM pg_attribute AS attribute
LEFT JOIN pg_attrdef AS def ON def.adrelid = attribute.attrelid AND def.adnum = attribute.attnum
LEFT JOIN pg_collation AS rule ON rule.oid = attribute.attcollation
LEFT JOIN pg_namespace AS rule_schema ON rule_schema.oid = rule.collnamespace
WHERE attribute.attrelid = %(table)s
    AND attribute.attnum > 0
    AND NOT attribute.attisdropped
ORDER BY attribute.attnum
"""

# Parameters: table (oid).  A key WITHOUT OVERLAPS has an index of another kind, and tells no row by equality.
_KEY: LiteralString = """
SELECT
    attribute.attname::text,
    operator_schema.nspname::text,
    operator.oprname::text
FROM pg_index AS index
JOIN pg_class AS index_class ON index_class.oid = index.indexrelid
JOIN pg_am AS method ON method.oid = index_class.relam AND method.amname = 'btree'
CROSS JOIN LATERAL unnest(index.indkey::int2[], index.indclass::oid[])
    WITH ORDINALITY AS part (number, class, place)
JOIN pg_attribute AS attribute ON attribute.attrelid = index.indrelid AND attribute.attnum = part.number
JOIN pg_opclass AS opclass ON opclass.oid = part.class
JOIN pg_amop AS member ON member.amopfamily = opclass.opcfamily
    AND member.amoplefttype = opclass.opcintype
    AND member.amoprighttype = opclass.opcintype
    AND member.amopstrategy = 3
JOIN pg_operator AS operator ON operator.oid = member.amopopr
JOIN pg_namespace AS operator_schema ON operator_schema.oid = operator.oprnamespace
WHERE index.indrelid = %(table)s
    AND index.indisprimary
    AND part.place <= index.indnkeyatts
ORDER BY part.place
"""

# Parameters: table (oid).
_CONSTRAINTS: LiteralString = """
SELECT
    con.conname::text,
    con.contype::text,
    ARRAY(
        SELECT attribute.attname::text
        FROM unnest(con.conkey) WITH ORDINALITY AS part (number, place)
        JOIN pg_attribute AS attribute ON attribute.attrelid = con.conrelid AND attribute.attnum = part.number
        ORDER BY part.place
    ),
    pg_get_constraintdef(con.oid, true),
    con.confrelid
FROM pg_constraint AS con
WHERE con.conrelid = %(table)s
    AND con.contype IN ('p', 'u', 'c', 'f', 'x')
ORDER BY con.conname
"""

# Parameters: table (oid).  The definition begins behind the names.
_INDEXES: LiteralString = """
SELECT
    class.relname::text,
    CASE WHEN index.indisunique THEN 'UNIQUE ' ELSE '' END
        || 'USING '
        || split_part(pg_get_indexdef(index.indexrelid, 0, true), quote_ident(owner.relname) || ' USING ', 2),
    CASE WHEN index.indexprs IS NULL AND index.indpred IS NULL THEN
        ARRAY(
            SELECT attribute.attname::text
            FROM unnest(index.indkey::int2[]) AS number
            JOIN pg_attribute AS attribute ON attribute.attrelid = index.indrelid AND attribute.attnum = number
        )
    END,
    index.indisprimary,
    (index.indisunique OR index.indisexclusion) AND index.indimmediate,
    EXISTS (SELECT FROM pg_constraint AS con WHERE con.conindid = index.indexrelid AND con.contype IN ('p', 'u', 'x'))
FROM pg_index AS index
JOIN pg_class AS class ON class.oid = index.indexrelid
JOIN pg_class AS owner ON owner.oid = index.indrelid
WHERE index.indrelid = %(table)s
    AND index.indisvalid
ORDER BY class.relname
"""

# Parameters: table (oid).
_TRIGGERS: LiteralString = """
SELECT tgname::text, pg_get_triggerdef(oid, true)
FROM pg_trigger
WHERE tgrelid = %(table)s
    AND NOT tgisinternal
    AND tgenabled <> 'D'
"""

# Parameters: type (oid).  Rows: one (schema, name, whether it is PostgreSQL's own, kind, element, base type, its
# modifier, NOT NULL, checks, labels, attributes as (name, type, modifier), subtype of a range).
_TYPE: LiteralString = """
SELECT
    namespace.nspname::text,
    type.typname::text,
    namespace.nspname = 'pg_catalog',
    type.typtype::text,
    CASE WHEN type.typcategory = 'A' AND type.typlen = -1 THEN type.typelem ELSE 0 END,
    type.typbasetype,
    type.typtypmod,
    type.typnotnull,
    ARRAY(
        SELECT pg_get_constraintdef(con.oid, true)
        FROM pg_constraint AS con
        WHERE con.contypid = type.oid AND con.contype = 'c'
        ORDER BY 1
    ),
    ARRAY(SELECT label.enumlabel::text FROM pg_enum AS label WHERE label.enumtypid = type.oid ORDER BY enumsortorder),
    ARRAY(
        SELECT jsonb_build_array(attribute.attname, attribute.atttypid::bigint, attribute.atttypmod)
        FROM pg_attribute AS attribute
        WHERE attribute.attrelid = type.typrelid AND attribute.attnum > 0 AND NOT attribute.attisdropped
        ORDER BY attribute.attnum
    ),
    (SELECT rngsubtype FROM pg_range WHERE rngtypid = type.oid)
FROM pg_type AS type
JOIN pg_namespace AS namespace ON namespace.oid = type.typnamespace
WHERE type.oid = %(type)s
"""


def read_table(db: Connection, schema: str, name: str, *, beside: str | None = None) -> Table | None:
    """Read one table.

    Args:
        db: Whatever its search path.
        schema: Where it is.
        name: Its plain name.
        beside: Another schema to leave out of the texts: that of the table which this one is compared with.
    """
    row = db.execute(_TABLE, {"schema": schema, "name": name}).fetchone()
    if row is None:
        return None
    oid, kind, persistence, owner, partition_key, is_inherited, has_rules = row
    table = {"table": oid}
    structures: dict[int, str] = {}
    with names_relative_to(db, schema, *([beside] if beside else [])):
        columns = db.execute(_COLUMNS, table).fetchall()
        constraints = db.execute(_CONSTRAINTS, table).fetchall()
        indexes = db.execute(_INDEXES, table).fetchall()
        triggers = db.execute(_TRIGGERS, table).fetchall()
        spelt = {(type_, modifier): _spell(db, type_, modifier, structures) for _, type_, modifier, *_ in columns}
    with names_relative_to(db):
        types = {key: _name_type(db, *key) for key in spelt}
    return Table(
        oid,
        schema,
        name,
        kind,
        persistence,
        owner,
        tuple(
            Column(column, types[type_, modifier], type_, spelt[type_, modifier], *rest)
            for column, type_, modifier, *rest in columns
        ),
        tuple(KeyColumn(column, (where, operator)) for column, where, operator in db.execute(_KEY, table).fetchall()),
        tuple(Constraint(con, kind_, tuple(of), text, target) for con, kind_, of, text, target in constraints),
        tuple(Index(index, text, None if of is None else tuple(of), *rest) for index, text, of, *rest in indexes),
        dict(triggers),
        partition_key,
        is_inherited,
        has_rules,
    )


@contextmanager
def names_relative_to(db: Connection, *schemas: str) -> Iterator[None]:
    """Let the server leave these schemas out where it prints names, and no others."""
    before = show(db, "search_path")
    path = sql.SQL(", ").join(map(sql.Identifier, (*schemas, "pg_catalog"))).as_string(db)
    set_local(db, "search_path", path)
    yield
    # Not after an error: then the transaction, or the caller's savepoint, takes the setting back.
    set_local(db, "search_path", before)


def trusted(text: str) -> sql.SQL:
    """Give a text that the server printed as a part of SQL: an operator, a type, a definition."""
    return sql.SQL(text)


def show(db: Connection, setting: str) -> str:
    """Read a setting."""
    row = db.execute("SELECT current_setting(%s)", [setting]).fetchone()
    return "" if row is None else str(row[0])


def set_local(db: Connection, setting: str, value: str) -> None:
    """Change a setting for the rest of the transaction."""
    db.execute("SELECT set_config(%s, %s, true)", [setting, value])


def _name_type(db: Connection, type_: int, modifier: int) -> str:
    row = db.execute("SELECT format_type(%s::oid, %s)", [type_, modifier]).fetchone()
    return "" if row is None else str(row[0])


def _spell(db: Connection, type_: int, modifier: int, known: dict[int, str]) -> str:
    """Give a type's own name and, where it is somebody's, what it consists of."""
    if type_ not in known:
        # A type may hold arrays of itself only through a table's row; stop there.
        known[type_] = f"type {type_}"
        known[type_] = _spell_anew(db, type_, known)
    return f"{known[type_]} {modifier}"


def _spell_anew(db: Connection, type_: int, known: dict[int, str]) -> str:
    row = db.execute(_TYPE, {"type": type_}).fetchone()
    if row is None:
        raise psycopg.InternalError(f"type {type_} is gone")
    schema, name, is_own, kind, element, base, base_modifier, is_required, checks, labels, attributes, subtype = row
    if is_own:
        return str(name)
    if element:
        return f"{_spell(db, element, -1, known)}[]"
    attributes_spelt = [f"{of} {_spell(db, int(its), modifier, known)}" for of, its, modifier in attributes]
    base_spelt = _spell(db, base, base_modifier, known) if base else ""
    subtype_spelt = _spell(db, subtype, -1, known) if subtype else ""
    if kind == "b":
        # An extension's: what it does is nowhere to be read, so it has to be the very same.
        return f"{schema}.{name}"
    return f"{name} {kind} {labels} {base_spelt} {is_required} {checks} {attributes_spelt} {subtype_spelt}"
