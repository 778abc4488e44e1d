"""What the read models say: taken as one picture, drawn on a terminal or told in lines.

Called by ``show`` a few times a second.  Plain SELECTs, as an application's pages would send them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from projectiond.demo.stream import OrderStream
from projectiond.operating.overview import Overview, read_overview
from projectiond.postgres.database import Connection

ORDERS: LiteralString = """
SELECT customer, status, item_count, total_cents, to_char(updated_at, 'HH24:MI:SS')
FROM order_summary
ORDER BY updated_at DESC, order_id
LIMIT 8
"""

DAYS: LiteralString = """
SELECT day::text, orders_placed, orders_cancelled, payments, revenue_cents
FROM daily_sales
ORDER BY day DESC
LIMIT 3
"""

ACTIVITIES: LiteralString = """
SELECT customer, activity, to_char(happened_at, 'HH24:MI:SS')
FROM customer_activity
ORDER BY sequence_number DESC
LIMIT 5
"""

# Narrower terminals do without the times and some of the sums.
WIDE: Final = 110

# Fixed, so that no column moves while its contents change; a column that is not named here takes what is left.
_WIDTHS: Final = {
    "status": 10,
    "position": 10,
    "lag": 7,
    "events applied": 14,
    "items": 5,
    "total": 9,
    "changed": 8,
    "day": 10,
    "orders": 6,
    "cancelled": 9,
    "paid": 6,
    "when": 8,
}
_LEAST_WIDTH: Final = 8

_STATUSES: Final = {"placed": "white", "paid": "green", "shipped": "blue", "cancelled": "red"}


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything at one moment."""

    overview: Overview
    orders: Sequence[tuple[Any, ...]]
    days: Sequence[tuple[Any, ...]]
    activities: Sequence[tuple[Any, ...]]
    latency_p50: float | None
    latency_p99: float | None

    @property
    def has_begun(self) -> bool:
        """Whether the daemon is at work, and has taken every projection in hand."""
        return self.overview.live_workers > 0 and all(state.status for state in self.overview.projections)

    @property
    def is_behind(self) -> bool:
        """Whether a projection has not yet all that is there."""
        return any(state.lag for state in self.overview.projections)


def take_picture(db: Connection, names: Sequence[str], stream: OrderStream) -> Picture:
    """Read everything; a table that the daemon has not made yet counts as empty."""
    return Picture(
        overview=read_overview(db, names),
        orders=_read(db, ORDERS),
        days=_read(db, DAYS),
        activities=_read(db, ACTIVITIES),
        latency_p50=stream.latency_milliseconds(50),
        latency_p99=stream.latency_milliseconds(99),
    )


def draw(picture: Picture, heading: str, footing: str, width: int) -> RenderableType:
    """Give it for a terminal of this width."""
    is_wide = width >= WIDE
    columns = Table.grid(padding=(0, 1), expand=True)
    columns.add_column(ratio=3)
    columns.add_column(ratio=2)
    columns.add_row(
        Panel(_orders(picture, is_wide=is_wide), title="order_summary: latest orders", title_align="left"),
        Group(
            Panel(_days(picture, is_wide=is_wide), title="daily_sales", title_align="left"),
            Panel(_activities(picture, is_wide=is_wide), title="customer_activity", title_align="left"),
        ),
    )
    return Group(
        Text(heading, style="bold"),
        Text(describe_latency(picture)),
        Panel(_projections(picture), title="projections", title_align="left"),
        columns,
        Text(footing, style="dim"),
    )


def line(picture: Picture, seconds: float) -> str:
    """Give it as one line."""
    states = ", ".join(
        f"{state.name} {state.status or 'not begun'} at {state.position or 0}"
        + (f" (lag {state.lag})" if state.lag else "")
        for state in picture.overview.projections
    )
    return f"{seconds:4.0f} s: {picture.overview.head} events; {states}; {describe_latency(picture)}"


def describe_latency(picture: Picture) -> str:
    """Say how soon an event is to be read."""
    if picture.latency_p50 is None or picture.latency_p99 is None:
        return "from commit to visible in order_summary: not measured yet"
    return (
        f"from commit to visible in order_summary: p50 {picture.latency_p50:.1f} ms, p99 {picture.latency_p99:.1f} ms"
    )


def _read(db: Connection, statement: LiteralString) -> Sequence[tuple[Any, ...]]:
    try:
        return db.execute(statement).fetchall()
    except psycopg.errors.UndefinedTable:
        return []


def _projections(picture: Picture) -> Table:
    table = _table("projection", "status", "<position", "<lag", "<events applied")
    for state in picture.overview.projections:
        table.add_row(
            Text(state.name),
            Text(state.status or "not begun", style="yellow" if state.status == "paused" else "green"),
            str(state.position or 0),
            str(state.lag),
            f"{state.events_processed or 0:,}",
        )
    return table


def _orders(picture: Picture, *, is_wide: bool) -> Table:
    table = _table("customer", "status", "<items", "<total", *(["changed"] if is_wide else []))
    for customer, status, items, cents, changed in picture.orders:
        cells: list[str | Text] = [
            Text(customer),
            Text(status, style=_STATUSES.get(status, "")),
            str(items),
            _euros(cents),
        ]
        table.add_row(*cells, *([changed] if is_wide else []))
    return table


def _days(picture: Picture, *, is_wide: bool) -> Table:
    table = _table("day", "<orders", *(["<cancelled", "<paid"] if is_wide else []), "<revenue")
    for day, placed, cancelled, payments, cents in picture.days:
        table.add_row(day, str(placed), *([str(cancelled), str(payments)] if is_wide else []), _euros(cents))
    return table


def _activities(picture: Picture, *, is_wide: bool) -> Table:
    table = _table("customer", "activity", *(["when"] if is_wide else []))
    for customer, activity, when in picture.activities:
        table.add_row(Text(customer), Text(activity), *([when] if is_wide else []))
    return table


def _table(*titles: str) -> Table:
    """Make a table; a title that begins with < belongs to numbers."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    for marked in titles:
        title = marked.lstrip("<")
        width = _WIDTHS.get(title)
        table.add_column(
            title,
            justify="right" if marked.startswith("<") else "left",
            no_wrap=True,
            width=width,
            ratio=None if width else 1,
            min_width=_LEAST_WIDTH,
        )
    return table


def _euros(cents: int) -> str:
    return f"{cents / 100:,.2f}"
