"""The live tables made equal to the built ones, by changing only the rows that differ.

Called with writers held off (it sees to that itself); readers see the old rows until the caller commits.

**One statement for all tables.**  It finds the differing rows of each; deletes, updates, inserts, in this order.
Foreign keys are checked when it ends, with all tables in their new state: so it matters neither which table refers to
which, nor whether they do so in a circle.  Values of further unique constraints are checked row by row.  One that is
freed by a row that goes is free in time; one that moves from a row that stays to another that stays is not, unless its
constraint is deferrable.  Then the rows in which such a value changes are deleted and inserted anew.  That would be no
mere change to whoever refers to them with ``ON DELETE CASCADE`` and the like: it is refused where tables of others do;
where the projection's own do, rows that went along are inserted again.

**What fires on the live tables fires as usual**, and may change more rows: a trigger that keeps a sum in another table
of the projection, say, adds to a sum that was right.  So where there is any such thing, the tables are compared
again and what differs is changed again, as long as that helps.  What a trigger insists on is left to it, and counted.
"""

from collections.abc import Sequence
from typing import Final, LiteralString

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Composable, Composed, Identifier

from projectiond.errors import ConfigurationError
from projectiond.failure import describe, is_transient
from projectiond.postgres.database import Connection
from projectiond.rebuild.catalogue import trusted
from projectiond.rebuild.compare import count_differences
from projectiond.rebuild.matching import Match, reading
from projectiond.rebuild.tables import Pair, TableChange, hold_writers

# The second round takes back what triggers did to rows that were right; a third what they did upon that.
MAX_ROUNDS: Final = 3

# Of a table: rows changed, added, removed.
Counts = tuple[int, int, int]

# As _REFERRING gives them.
Referring = tuple[str, str, bool, str, str, str]

# By which a foreign key answers a DELETE or UPDATE with a change of the referring row: CASCADE, SET NULL, SET DEFAULT.
_ACTIONS: Final = frozenset("cnd")

# Parameters: tables (oid[]).  Rows: (referring table, referred table, whether the referring one is none of these,
# constraint, what happens to it on DELETE, on UPDATE) of each foreign key to these tables.
_REFERRING: LiteralString = """
SELECT
    con.conrelid::regclass::text,
    con.confrelid::regclass::text,
    con.conrelid <> ALL (%(tables)s::oid[]),
    con.conname::text,
    con.confdeltype::text,
    con.confupdtype::text
FROM pg_constraint AS con
WHERE con.contype = 'f'
    AND con.confrelid = ANY (%(tables)s::oid[])
ORDER BY 1, 4
"""

# Parameters: live, built (qualified and quoted).  Never down: numbers that were given out are not given again.
_MOVE_SEQUENCE: LiteralString = """
SELECT pg_catalog.setval({live}::regclass, built.last_value, built.is_called)
FROM {live_name} AS live, {built_name} AS built, pg_sequence AS kept
WHERE kept.seqrelid = {live}::regclass
    AND sign(kept.seqincrement) * (built.last_value - live.last_value) >= 0
    AND (built.last_value <> live.last_value OR (built.is_called AND NOT live.is_called))
"""


def merge(db: Connection, pairs: Sequence[Pair]) -> tuple[TableChange, ...]:
    """Give the live tables the rows of the built ones.

    Args:
        db: Inside the caller's transaction; what goes wrong leaves it as it was.
        pairs: For which :func:`~projectiond.rebuild.shape.finish_by` says merge.

    Raises:
        TablesBusyError: Somebody else is writing the live tables.
        ConfigurationError: The live tables refuse the rows.
    """
    hold_writers(db, pairs)
    matches = [Match(pair) for pair in pairs]
    try:
        with db.transaction():
            changes = reading(db, lambda: _merge(db, matches))
    except psycopg.DatabaseError as error:
        if is_transient(error):
            raise
        raise ConfigurationError(
            f"the live tables refuse the rebuilt rows: {describe(error)}",
            hint="mend or drop the constraint or trigger that is in the way, or rebuild with --in-place",
        ) from error
    return changes


def _merge(db: Connection, matches: Sequence[Match]) -> tuple[TableChange, ...]:
    counted = _change(db, matches)
    left = [0] * len(matches)
    if _has_side_effects(db, matches):
        left = _repeat(db, matches)
    for match in matches:
        _move_sequences(db, match)
    return tuple(
        TableChange(match.declared, _count_rows(db, match), *counts, kept=kept)
        for match, counts, kept in zip(matches, counted, left, strict=True)
    )


def _change(db: Connection, matches: Sequence[Match]) -> list[Counts]:
    """Change what differs; give what was to be changed, added and removed of each table."""
    try:
        with db.transaction():
            return _run(db, matches, is_in_place=True)
    except (errors.UniqueViolation, errors.ExclusionViolation) as error:
        referring = _read_referring(db, matches)
        _refuse_if_forbidden(referring, error)
        if not any(on_delete in _ACTIONS for *_, on_delete, _ in referring):
            return _run(db, matches, is_in_place=False)
    # What follows a DELETE is done at the end of its statement, also to rows that have only just come.  So these go by
    # themselves, and whatever went with them is inserted with the others.
    counted = [_counts(count_differences(db, match)) for match in matches]
    db.execute(_deletion(matches))
    _run(db, matches, is_in_place=True)
    return counted


def _counts(change: TableChange) -> Counts:
    return change.changed, change.added, change.removed


def _run(db: Connection, matches: Sequence[Match], *, is_in_place: bool) -> list[Counts]:
    row = db.execute(_statement(matches, is_in_place=is_in_place)).fetchone() or ()
    # Whatever was put off until COMMIT is checked, and done, here.
    db.execute("SET CONSTRAINTS ALL IMMEDIATE")
    return [(row[at], row[at + 1], row[at + 2]) for at in range(0, len(row), 3)]


def _repeat(db: Connection, matches: Sequence[Match]) -> list[int]:
    """Compare and change again while that brings the tables closer; give how many rows still differ."""
    left, before = _differing(db, matches), None
    for _ in range(MAX_ROUNDS - 1):
        # The first time there may be more than was to be changed at first, for who knows what a trigger does.
        if not any(left) or (before is not None and sum(left) >= before):
            break
        before = sum(left)
        _change(db, matches)
        left = _differing(db, matches)
    return left


def _differing(db: Connection, matches: Sequence[Match]) -> list[int]:
    return [sum(_counts(count_differences(db, match))) for match in matches]


def _statement(matches: Sequence[Match], *, is_in_place: bool) -> Composed:
    parts: list[Composable] = []
    results: list[Composable] = []
    for number, match in enumerate(matches):
        names = _names(number)
        parts += _parts(match, names, is_in_place=is_in_place)
        results += [
            SQL("(SELECT count(*) FROM {} WHERE kind = {})").format(names["different"], SQL(kind))
            for kind in ("'changed'", "'added'", "'removed'")
        ]
    return SQL("WITH {} SELECT {}").format(SQL(", ").join(parts), SQL(", ").join(results))


def _deletion(matches: Sequence[Match]) -> Composed:
    parts = [
        part for number, match in enumerate(matches) for part in _parts(match, _names(number), is_in_place=False)[:2]
    ]
    return SQL("WITH {} SELECT").format(SQL(", ").join(parts))


def _names(number: int) -> dict[str, Identifier]:
    return {name: Identifier(f"{name}_{number}") for name in ("different", "removed", "changed", "added")}


def _parts(match: Match, names: dict[str, Identifier], *, is_in_place: bool) -> list[Composable]:
    """Give the parts of the statement for one table.

    Each step counts the rows of the step before it, for only that makes the server do one after the other.
    """
    live = match.live
    values = {column.name: Identifier(f"c{at}") for at, column in enumerate(match.columns)}
    moved = _moved_columns(match, is_in_place=is_in_place)
    is_moved = match.differ(moved) if moved else SQL("false")
    parts: list[Composable] = [
        SQL(
            "{name} AS MATERIALIZED (SELECT {kind} AS kind, l.place, l.part, "
            "l.place IS NOT NULL AND b.is_there AND {is_moved} AS is_moved{values} FROM {joined} WHERE {is_different})"
        ).format(
            name=names["different"],
            kind=match.kind,
            is_moved=is_moved,
            values=SQL("").join(
                SQL(", {} AS {}").format(match.value("b", column.name), values[column.name]) for column in match.columns
            ),
            joined=match.joined,
            is_different=match.is_different,
        ),
        SQL(
            "{name} AS (DELETE FROM {live} AS t USING {different} AS d "
            "WHERE t.ctid = d.place AND t.tableoid = d.part AND (d.kind = 'removed' OR d.is_moved) RETURNING 1)"
        ).format(name=names["removed"], live=live.relation, different=names["different"]),
    ]
    last = names["removed"]
    settable = [column.name for column in match.columns if column.is_written and column.identity != "a"]
    if settable and live.key:
        parts.append(
            SQL(
                "{name} AS (UPDATE {live} AS t SET {values} FROM {different} AS d WHERE t.ctid = d.place "
                "AND t.tableoid = d.part AND d.kind = 'changed' AND NOT d.is_moved "
                "AND (SELECT count(*) FROM {last}) >= 0 RETURNING 1)"
            ).format(
                name=names["changed"],
                live=live.relation,
                values=SQL(", ").join(SQL("{} = d.{}").format(Identifier(name), values[name]) for name in settable),
                different=names["different"],
                last=last,
            )
        )
        last = names["changed"]
    written = [column.name for column in match.columns if column.is_written]
    parts.append(
        SQL(
            "{name} AS (INSERT INTO {live} {columns} OVERRIDING SYSTEM VALUE SELECT {values} FROM {different} AS d "
            "WHERE (d.kind = 'added' OR d.is_moved) AND (SELECT count(*) FROM {last}) >= 0 RETURNING 1)"
        ).format(
            name=names["added"],
            live=live.identifier,
            columns=SQL("({})").format(SQL(", ").join(map(Identifier, written))) if written else SQL(""),
            values=SQL(", ").join(values[name] for name in written),
            different=names["different"],
            last=last,
        )
    )
    return parts


def _moved_columns(match: Match, *, is_in_place: bool) -> list[str]:
    """Name the columns that no UPDATE can change, of those that may differ between rows of the same key."""
    if not match.live.key:
        return []
    names = {column.name for column in match.columns if column.identity == "a"}
    if not is_in_place:
        for index in match.live.indexes:
            if index.is_checked_at_once and not index.is_primary:
                # An expression, or a condition, may depend on any column.
                names.update(match.live.by_name if index.columns is None else index.columns)
    return [column.name for column in match.columns if column.name in names]


def _has_side_effects(db: Connection, matches: Sequence[Match]) -> bool:
    return any(match.live.triggers for match in matches) or any(
        {on_delete, on_update} & _ACTIONS for *_, on_delete, on_update in _read_referring(db, matches)
    )


def _refuse_if_forbidden(found: Sequence[Referring], error: psycopg.Error) -> None:
    for referring, referred, is_foreign, constraint, on_delete, _ in found:
        if on_delete == "r" or (is_foreign and on_delete in _ACTIONS):
            raise ConfigurationError(
                f"in {referred} unique values move from row to row ({error.diag.constraint_name}), so rows would have "
                f"to be deleted and inserted anew, which {constraint} of {referring} forbids or answers with a change",
                hint=f"make {error.diag.constraint_name} DEFERRABLE, or rebuild with --in-place",
            ) from error


def _read_referring(db: Connection, matches: Sequence[Match]) -> list[Referring]:
    return db.execute(_REFERRING, {"tables": [match.live.oid for match in matches]}).fetchall()


def _move_sequences(db: Connection, match: Match) -> None:
    for column in match.live.columns:
        built = match.built.by_name[column.name].sequence
        if column.sequence is not None and built is not None:
            names = {"live_name": trusted(column.sequence), "built_name": trusted(built)}
            db.execute(SQL(_MOVE_SEQUENCE).format(live=column.sequence, **names))


def _count_rows(db: Connection, match: Match) -> int:
    row = db.execute(SQL("SELECT count(*) FROM {}").format(match.live.relation)).fetchone()
    return 0 if row is None else int(row[0])
