"""The four kinds of projection: how events, or a range of them, become changes of a read model.

    kind     what every kind is, and how the author's code is called
    event    Projection: event by event
    batch    BatchProjection: many events at once
    row      RowProjection: rows loaded, changed in memory, written back     (row_table: the table's side of it)
    relation SqlProjection: statements over the relation `events`

The applier calls them inside the transaction that also moves the checkpoint.
"""

from projectiond.kinds.batch import WholeBatch
from projectiond.kinds.event import EventByEvent
from projectiond.kinds.kind import AuthorCode, Kind
from projectiond.kinds.relation import InSql, RangeReader
from projectiond.kinds.row import RowByKey
from projectiond.plugins.definition import Definition
from projectiond.plugins.limits import Limits
from projectiond.projection import BatchProjection, RowProjection, SqlProjection
from projectiond.stream.reader import EventReader, Reader, Recent

__all__ = ["make_kind", "make_reader"]


def make_kind(definition: Definition, author: AuthorCode) -> Kind:
    """Make what applies this projection's events."""
    match definition.projection:
        case BatchProjection():
            return WholeBatch(definition, author)
        case RowProjection():
            return RowByKey(definition, author)
        case SqlProjection():
            return InSql(definition, author)
        case _:
            return EventByEvent(definition, author)


def make_reader(definition: Definition, limits: Limits, recent: Recent) -> Reader:
    """Make what reads this projection's events, or counts them where they stay on the server."""
    if isinstance(definition.projection, SqlProjection):
        return RangeReader(definition.event_types, recent)
    return EventReader(
        definition.event_types, limits.batch_size, recent, is_replay=lambda: definition.projection.is_rebuilding
    )
