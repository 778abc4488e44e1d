"""Whether a rebuilt table can give its rows to the live one, or has to take its place.

Rows are given (*merge*) when the live table has everything that the built one has: then whatever else hangs on the live
one (further indexes, constraints, triggers, privileges, views) stays where it is.  Else the tables change places
(*swap*), for what the author has changed in ``schema`` is to be found in the live table afterwards.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from projectiond.rebuild.catalogue import Column, Table
from projectiond.rebuild.tables import Pair


@dataclass(frozen=True, slots=True)
class Finish:
    """How a rebuild ends, and why so."""

    by: Literal["merge", "swap"]
    reason: str


def finish_by(pairs: Sequence[Pair]) -> Finish:
    """Decide for all tables of a projection together."""
    reasons = [reason for pair in pairs for reason in find_differences(pair)]
    if reasons:
        more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""  # noqa: PLR2004 - enough to recognise it by
        return Finish("swap", "; ".join(reasons[:3]) + more)
    return Finish("merge", "the live tables have the columns and keys that `schema` gives them")


def find_differences(pair: Pair) -> Iterator[str]:
    """Say, one by one, what the live table lacks or has otherwise."""
    live, built = pair.live, pair.built
    if live is None:
        yield f"{pair.declared} is new"
        return
    yield from _of_table(live, built)
    for name, column in built.by_name.items():
        if name not in live.by_name:
            yield f"{live}: column {name} is new"
        else:
            yield from _of_column(live, live.by_name[name], column)
    yield from (f"{live}: column {name} is no longer in `schema`" for name in live.by_name if name not in built.by_name)
    yield from _of_things(live, built)


def _of_table(live: Table, built: Table) -> Iterator[str]:
    if (live.kind, live.partition_key) != (built.kind, built.partition_key):
        yield f"{live} is {_partitioned(live)}, in `schema` it is {_partitioned(built)}"
    if live.persistence != built.persistence:
        yield f"{live} is {_logged(live)}, in `schema` it is {_logged(built)}"
    if live.key != built.key:
        yield f"{live} has {_key(live)}, in `schema` it has {_key(built)}"


def _of_column(live: Table, old: Column, new: Column) -> Iterator[str]:
    if (old.structure, old.collation) != (new.structure, new.collation):
        yield f"{live}: column {old.name} is {_typed(old)}, in `schema` {_typed(new)}"
    if old.is_required != new.is_required:
        yield f"{live}: column {old.name} is {'' if old.is_required else 'not '}NOT NULL, in `schema` otherwise"
    if (old.generated, old.identity, old.default) != (new.generated, new.identity, new.default):
        yield f"{live}: column {old.name} is filled {_filled(old)}, in `schema` {_filled(new)}"


def _of_things(live: Table, built: Table) -> Iterator[str]:
    """What a merge could not bring: live may have more of these, but not less."""
    constraints = {constraint.definition for constraint in live.constraints}
    for constraint in built.constraints:
        # The key has been looked at; it may be a deferrable one in one of the two.
        if constraint.kind != "p" and constraint.definition not in constraints:
            yield f"{live} lacks the constraint {constraint.name} {constraint.definition}"
    indexes = {index.definition for index in live.indexes}
    for index in built.indexes:
        if not index.is_of_constraint and index.definition not in indexes:
            yield f"{live} lacks the index {index.name} {index.definition}"
    for name, definition in built.triggers.items():
        if live.triggers.get(name) != definition:
            yield f"{live} {'has another' if name in live.triggers else 'lacks the'} trigger {name}"


def _partitioned(table: Table) -> str:
    return f"partitioned by {table.partition_key}" if table.kind == "p" else "not partitioned"


def _logged(table: Table) -> str:
    return {"p": "logged", "u": "unlogged", "t": "temporary"}[table.persistence]


def _key(table: Table) -> str:
    return f"the key ({', '.join(column.name for column in table.key)})" if table.key else "no primary key"


def _typed(column: Column) -> str:
    return column.type + (
        f" COLLATE {column.collation}" if column.collation not in {None, 'pg_catalog."default"'} else ""
    )


def _filled(column: Column) -> str:
    if column.generated:
        return f"always as {column.default}"
    if column.identity:
        return f"as identity {'always' if column.identity == 'a' else 'by default'}"
    return f"by default with {column.default}" if column.default is not None else "by whoever inserts"
