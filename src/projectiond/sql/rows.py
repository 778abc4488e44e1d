"""Statements of a RowProjection: its table, and how its rows are found."""

from typing import LiteralString

# For the rest of the transaction, before rows are looked for by their keys: a plan that was made while a table was tiny
# reads it from end to end, and is used until the table is analyzed, however large it has become meanwhile.
PREFER_INDEXES: LiteralString = "SET LOCAL enable_seqscan = off"

# Parameters: table (text, quoted where need be).  Rows: one (oid, kind, columns of the primary key in its order or
# null, whether that key is deferrable), or none when the search_path finds no such table.
ROW_TABLE: LiteralString = """
SELECT
    class.oid,
    class.relkind::text,
    key.columns,
    coalesce(key.is_deferrable, false)
FROM pg_class AS class
CROSS JOIN LATERAL (
    SELECT
        array_agg(attribute.attname::text ORDER BY part.place) AS columns,
        bool_or(con.condeferrable) AS is_deferrable
    FROM pg_constraint AS con
    CROSS JOIN LATERAL unnest(con.conkey) WITH ORDINALITY AS part (number, place)
    JOIN pg_attribute AS attribute ON attribute.attrelid = con.conrelid AND attribute.attnum = part.number
    WHERE con.conrelid = class.oid
        AND con.contype = 'p'
) AS key
WHERE class.oid = to_regclass(%(table)s)
"""

# Parameters: table (oid).  Rows: one for each column, in order: name, type as it was declared, whether NOT NULL,
# whether something fills it when an INSERT does not, whether nothing else may, whether its collation tells all
# different texts apart; and of its type, or the one that its domain stands for: schema and name, name of the type or of
# its elements ('enum' for enumerations, '' for what is not PostgreSQL's own), modifier, whether it is an array, an
# enumeration's labels.
ROW_COLUMNS: LiteralString = """
WITH RECURSIVE resolved AS (
    SELECT
        attribute.attnum,
        attribute.atttypid AS type,
        attribute.atttypmod AS modifier,
        attribute.attnotnull AS is_required,
        attribute.atthasdef OR attribute.attidentity <> '' AS has_default
    FROM pg_attribute AS attribute
    WHERE attribute.attrelid = %(table)s
        AND attribute.attnum > 0
        AND NOT attribute.attisdropped
    UNION ALL
    SELECT
        resolved.attnum,
        domain.typbasetype,
        CASE resolved.modifier WHEN -1 THEN domain.typtypmod ELSE resolved.modifier END,
        resolved.is_required OR domain.typnotnull,
        resolved.has_default OR domain.typdefault IS NOT NULL
    FROM resolved
    JOIN pg_type AS domain ON domain.oid = resolved.type
    WHERE domain.typtype = 'd'
)
SELECT
    attribute.attname::text,
    format_type(attribute.atttypid, attribute.atttypmod),
    resolved.is_required,
    resolved.has_default,
    attribute.attgenerated <> '' OR attribute.attidentity = 'a',
    coalesce(pg_collation.collisdeterministic, true),
    namespace.nspname::text,
    type.typname::text,
    CASE
        WHEN plain.typtype = 'e' THEN 'enum'
        WHEN plain.typnamespace = 'pg_catalog'::regnamespace AND plain.typtype = 'b' THEN plain.typname::text
        ELSE ''
    END,
    resolved.modifier,
    plain.oid <> type.oid,
    ARRAY(
        SELECT pg_enum.enumlabel::text
        FROM pg_enum
        WHERE pg_enum.enumtypid = plain.oid
        ORDER BY pg_enum.enumsortorder
    )
FROM resolved
JOIN pg_attribute AS attribute ON attribute.attrelid = %(table)s AND attribute.attnum = resolved.attnum
JOIN pg_type AS type ON type.oid = resolved.type AND type.typtype <> 'd'
JOIN pg_namespace AS namespace ON namespace.oid = type.typnamespace
JOIN pg_type AS plain ON plain.oid = CASE
    WHEN type.typcategory = 'A' AND type.typlen = -1 AND type.typelem <> 0 THEN type.typelem
    ELSE type.oid
END
LEFT JOIN pg_collation ON pg_collation.oid = attribute.attcollation
ORDER BY resolved.attnum
"""
