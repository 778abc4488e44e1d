"""The details of one projection that the shared reading does not have: dead letters, rebuilds, what built its tables.

Read when somebody looks at that projection, and kept for a moment for all who do.
"""

import time
from collections import OrderedDict
from dataclasses import asdict
from typing import Any, Final

from projectiond import sql
from projectiond.failure import printable
from projectiond.http.desk import Desk
from projectiond.http.history import History
from projectiond.operating import dead_letters
from projectiond.operating.dead_letters import DeadLetter
from projectiond.postgres.database import Connection

KEPT_SECONDS: Final = 1.0
MOST_KEPT: Final = 64
MOST_LETTERS: Final = 50


class Details:
    """Reads, and keeps."""

    def __init__(self, desk: Desk, history: History) -> None:
        self._desk = desk
        self._history = history
        self._kept: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()

    async def get(self, name: str) -> dict[str, Any]:
        """Give them.

        Raises:
            DatabaseUnavailableError: It does not answer.
        """
        read_at, shape = self._kept.get(name, (0.0, None))
        if shape is None or time.monotonic() - read_at > KEPT_SECONDS:
            shape = await self._desk.ask(lambda db: _read(db, name))
            self._kept[name] = time.monotonic(), shape
            self._kept.move_to_end(name)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        errors = reversed(self._history.course(name).errors)
        return {**shape, "errors": [{"at": round(seen.at), "text": printable(seen.text)} for seen in errors]}

    def forget(self, name: str) -> None:
        """Read them anew the next time: something was changed."""
        self._kept.pop(name, None)


def _read(db: Connection, name: str) -> dict[str, Any]:
    letters = dead_letters.read_letters(db, name, most=MOST_LETTERS + 1)
    rebuilds = db.execute(sql.builds.READ_REBUILD_HISTORY, {"name": name}).fetchall()
    build = db.execute(sql.builds.READ_BUILD_FACTS, {"name": name}).fetchone()
    return {
        "name": name,
        "letters": [_letter_shape(letter) for letter in letters[:MOST_LETTERS]],
        "has_more_letters": len(letters) > MOST_LETTERS,
        "rebuilds": [
            {
                "started_at": started_at.timestamp(),
                "finished_at": finished_at.timestamp(),
                "position": position,
                "method": method,
                "tables": _tables_shape(tables),
            }
            for started_at, finished_at, position, method, tables in rebuilds
        ],
        "build": build
        and {
            "built_at": build[0].timestamp(),
            "built_by": build[1],
            "version": build[2] and printable(build[2]),
            "is_changed": build[3],
            "events_per_second": build[4],
        },
    }


def _letter_shape(letter: DeadLetter) -> dict[str, Any]:
    texts = {"event_type", "handler", "error"}
    return {
        **{field: printable(text) for field, text in asdict(letter).items() if field in texts},
        "sequence_number": letter.sequence_number,
        "event_id": str(letter.event_id),
        "aggregate_id": str(letter.aggregate_id),
        "attempts": letter.attempts,
        "failed_at": letter.failed_at.timestamp(),
        "state": letter.state,
    }


def _tables_shape(tables: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - what stands in a JSON column
    """Give what the rebuild's history says of tables, whatever it has counted."""
    return [
        {key: printable(value) if isinstance(value, str) else value for key, value in table.items()}
        for table in (tables if isinstance(tables, list) else [])
        if isinstance(table, dict)
    ]
