"""Statements of a trial, before it is rolled back."""

from typing import LiteralString

# Parameters: space, table.  Rows: one (column) for each column of its primary key, in the key's order.
KEY_OF_TABLE: LiteralString = """
SELECT attname
FROM pg_index
JOIN pg_class AS holder ON holder.oid = indrelid
CROSS JOIN unnest(indkey) WITH ORDINALITY AS part (number, place)
JOIN pg_attribute ON attrelid = indrelid AND attnum = part.number
WHERE holder.relnamespace = to_regnamespace(%(space)s)
    AND holder.relname = %(table)s
    AND indisprimary
ORDER BY part.place
"""

# What would be checked at the end of the transaction is checked now.
CHECK_CONSTRAINTS: LiteralString = "SET CONSTRAINTS ALL IMMEDIATE"
