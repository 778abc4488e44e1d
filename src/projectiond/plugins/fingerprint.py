"""The fingerprint of a projection: what its tables are made of, so that another version of it is noticed.

Made by the registry when a plugin is loaded, kept in `projection_builds` when the tables are built, and compared when a
daemon meets those tables again. It has three parts, kept apart so that a difference can be named:

    code      a digest for each method, function and constant that the handlers reach (`reach`)
    schema    a digest of the DDL
    options   the kind, the tables, which method handles which event type, the SQL of a SqlProjection

What only decides how fast things go, or what becomes of an event that fails, is not in it. Of the code everything
counts that could change what is written, nothing that cannot: no comments, formatting, docstrings, order of methods.
A `version` that the author gives stands for the code: while it stays, the code is taken to do the same.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from projectiond.plugins.digest import digest_of, digest_of_sql
from projectiond.plugins.members import OWN, SHARED
from projectiond.plugins.reach import read_reach
from projectiond.projection import BaseProjection, BatchProjection, Projection, RowProjection, SqlProjection

# Of how parts are found and digested. Fingerprints of two formats cannot be compared.
FORMAT: Final = 1

# Attributes that are compared as options, or do not count. The class of the rows is code.
_OPTIONS: Final = frozenset({*SHARED, *OWN}) - {"row"}

# What the daemon calls beside the handlers, or reads the rows' class from.
_METHODS: Final[Mapping[type[BaseProjection], tuple[str, ...]]] = {
    Projection: (),
    BatchProjection: ("apply",),
    RowProjection: ("key", "row"),
    SqlProjection: (),
}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a projection is made of."""

    code: Mapping[str, str] | None
    """By the part's name; None where the source cannot be read."""

    schema: str
    options: Mapping[str, Any]
    version: str | None = None

    @property
    def digest(self) -> str:
        """All of it in one short text."""
        return digest_of(repr(sorted(self.as_object().items())) + repr(self.version))

    def as_object(self) -> dict[str, Any]:
        """Give it for JSON, without the version."""
        code = None if self.code is None else dict(sorted(self.code.items()))
        return {"format": FORMAT, "code": code, "schema": self.schema, "options": dict(self.options)}

    @classmethod
    def from_object(cls, kept: Mapping[str, Any], version: str | None) -> Self | None:
        """Return what `as_object` gave; None when it was given by another format."""
        if kept.get("format") != FORMAT:
            return None
        return cls(code=kept["code"], schema=kept["schema"], options=kept["options"], version=version)


@dataclass(frozen=True, slots=True)
class Difference:
    """In what two fingerprints differ; false when in nothing."""

    parts: tuple[str, ...] = ()
    """One sentence each: "placed changed", "schema changed"."""
    is_schema_same: bool = True

    def __bool__(self) -> bool:
        return bool(self.parts)

    def __str__(self) -> str:
        shown = ", ".join(self.parts[:MOST_SHOWN])
        more = len(self.parts) - MOST_SHOWN
        return shown + (f" and {more} more" if more > 0 else "") + (", schema unchanged" if self.is_schema_same else "")


# A rewrite of a projection changes everything; a list of it all says no more than its beginning.
MOST_SHOWN: Final = 6


def take_fingerprint(
    cls: type[BaseProjection],
    *,
    tables: Sequence[str],
    schema: str,
    event_types: Sequence[str] | None,
    handlers: Mapping[str, Sequence[str]],
    version: str | None = None,
) -> Fingerprint:
    """Read a class that has been found to be in order.

    Args:
        cls: The projection; its source is read, and nothing of it is run.
        tables: Its tables.
        schema: Its DDL.
        event_types: The types that it reads; None for all.
        handlers: By event type, the names of the methods that handle it, in the order in which they are called.
        version: What its author calls it.
    """
    kind = next(kind for kind in _METHODS if issubclass(cls, kind))
    methods = {name for names in handlers.values() for name in names}
    options: dict[str, Any] = {"kind": kind.__name__, "tables": sorted(tables)}
    if handlers:
        options["handlers"] = {event_type: list(handlers[event_type]) for event_type in sorted(handlers)}
    else:
        options["event_types"] = ["*"] if event_types is None else sorted(event_types)
    if issubclass(cls, SqlProjection):
        statements = (cls.sql,) if isinstance(cls.sql, str) else cls.sql
        options["sql"] = [digest_of_sql(statement) for statement in statements]
    return Fingerprint(
        code=read_reach(cls, sorted({*methods, *_METHODS[kind]}), _OPTIONS),
        schema=digest_of_sql(schema),
        options=options,
        version=version,
    )


def compare(built: Fingerprint, now: Fingerprint) -> Difference:
    """Say in what a projection differs from what built its tables."""
    parts = [*_compare_code(built, now), *_compare_options(built.options, now.options)]
    is_schema_same = built.schema == now.schema
    if not is_schema_same:
        parts.append("schema changed")
    return Difference(tuple(parts), is_schema_same)


def _compare_code(built: Fingerprint, now: Fingerprint) -> Sequence[str]:
    if built.version is not None and now.version is not None:
        return () if built.version == now.version else (f"version {built.version} is now {now.version}",)
    before, after = built.code, now.code
    # Without source nothing can be said. What was only moved to another class or module does the same as before.
    if before is None or after is None or Counter(before.values()) == Counter(after.values()):
        return ()
    names = sorted({*before, *after})
    return [f"{name} {_change(name, before, after)}" for name in names if before.get(name) != after.get(name)]


def _compare_options(before: Mapping[str, Any], after: Mapping[str, Any]) -> Sequence[str]:
    if before.get("kind") != after.get("kind"):
        return (f"a {before.get('kind')} is now a {after.get('kind')}",)
    sentences = []
    types_before, types_after = _event_types(before), _event_types(after)
    if types_before != types_after:
        taken = [f"now reads {name}" for name in sorted(types_after - types_before)]
        sentences += [*taken, *(f"no longer reads {name}" for name in sorted(types_before - types_after))]
    elif before.get("handlers") != after.get("handlers"):
        sentences.append("other methods handle the same events")
    if before.get("tables") != after.get("tables"):
        sentences.append(f"tables {', '.join(before['tables'])} are now {', '.join(after['tables']) or 'none'}")
    if before.get("sql") != after.get("sql"):
        sentences.append("sql changed")
    return sentences


def _event_types(options: Mapping[str, Any]) -> set[str]:
    return {*options.get("event_types", ()), *options.get("handlers", ())}


def _change(name: str, before: Collection[str], after: Collection[str]) -> str:
    if name not in before:
        return "is new"
    return "changed" if name in after else "is gone"
