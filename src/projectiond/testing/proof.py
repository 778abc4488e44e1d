"""The proof that a projection is safe: the same events give the same rows, whatever happens on the way.

A daemon is killed and started again, rolls transactions back, cuts batches where it likes, and rebuilds.  Each of these
is done here to the events of a test, from empty tables, and the rows are compared with those of the first time:

* *again*: a new instance of the projection, cuts as they were;
* *one by one*: each event in a transaction of its own;
* *lost*: each batch is applied and rolled back just before its commit, twice, and then applied (after a loss the runner
  may take less at once, so what depends on where batches end has to be found before);
* *restarted*: cut anywhere, each batch by a new instance.

Each finds one kind of mistake that those before it do not, so the first one that fails says best what is wrong.
"""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from projectiond.errors import ProjectiondError
from projectiond.testing.blame import of_author
from projectiond.testing.stage import Stage
from projectiond.testing.tables import Snapshot, find_differences

# Some milliseconds each: a test of many events is not to take many times as long for its proof.
MAX_SINGLES: Final = 40
MAX_CUTS: Final = 5
LOSSES: Final = 2


class UnsafeProjectionError(AssertionError):
    """The rows depend on more than the events: after a crash or a rebuild they would be others."""


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to apply the events again."""

    what: str
    """How it was done, as the rest of a sentence that begins with "when"."""

    usual_causes: str
    run: Callable[[], None]


def prove(
    stage: Stage,
    cuts: Sequence[int],
    numbers: Sequence[int],
    expected: Snapshot,
    read: Callable[[], Snapshot],
    ignored: Collection[str],
) -> None:
    """Apply all events again, in each of the ways.

    Args:
        stage: At the last event.
        cuts: Where the events were cut the first time.
        numbers: Of all events.
        expected: The rows that there were.
        read: Reads them.
        ignored: Columns that may differ.

    Raises:
        UnsafeProjectionError: The rows are others in one of the ways; the message says which, and the usual reason.
    """
    __tracebackhide__ = True
    for way in _ways(stage, cuts, numbers):
        cause: BaseException | None = None
        try:
            stage.rebuild()
            way.run()
            lines = list(find_differences(expected, read(), ignored, ("at first", "now")))
        except ProjectiondError as error:
            lines, cause = [error.message], of_author(error.__cause__)
        if lines:
            raise UnsafeProjectionError(_story(stage, way, lines)) from cause
    if ignored:
        # Leave what there was; the columns that are not compared, too.
        stage.rebuild()
        _apply(stage, cuts)


def _ways(stage: Stage, cuts: Sequence[int], numbers: Sequence[int]) -> Sequence[_Way]:
    # The same in each run of a test: what fails once fails again.
    chance = random.Random(len(numbers))  # noqa: S311 - nothing is secret here
    return (
        _Way(
            "they are applied once more, to empty tables",
            "a value that is not the events': now() or current_date, a random value or id, a sequence or an identity "
            "column. Take it from the event (created_at, event_id, sequence_number). Or values kept in a variable of a "
            "module or a class",
            lambda: _apply(stage, cuts),
        ),
        _Way(
            "they are applied one by one",
            "a result for each batch where it should be one for each row: `= excluded.n` where it should be "
            "`= kept.n + excluded.n`. A batch may end anywhere, so add to what is there",
            lambda: _apply(stage, [*numbers[:MAX_SINGLES], *numbers[-1:]]),
        ),
        _Way(
            "each batch is rolled back just before its commit, as by a crash, and applied again",
            "something that a rollback does not take back: values kept in Python, in `self` or in a module's variable, "
            "or statements through a connection other than `db`. Keep everything in the tables. Numbers of a sequence "
            "or an identity column are not taken back either",
            lambda: _apply(stage, cuts, losses=LOSSES),
        ),
        _Way(
            "they are cut into other batches, and the daemon is restarted between them",
            "values kept in Python from one batch to the next, which a new process does not have; or a result for each "
            "batch where it should be one for each row. Keep everything in the tables, and add to what is there",
            lambda: _restart_between(stage, _random_cuts(chance, numbers)),
        ),
    )


def _apply(stage: Stage, cuts: Sequence[int], losses: int = 0) -> None:
    for cut in cuts:
        stage.apply(cut, losses=losses)


def _restart_between(stage: Stage, cuts: Sequence[int]) -> None:
    for cut in cuts:
        stage.restart()
        stage.apply(cut)


def _random_cuts(chance: random.Random, numbers: Sequence[int]) -> Sequence[int]:
    inner = numbers[:-1]
    return [*sorted(chance.sample(inner, min(len(inner), MAX_CUTS))), *numbers[-1:]]


def _story(stage: Stage, way: _Way, lines: Sequence[str]) -> str:
    name = type(stage.definition.projection).__name__
    told = "".join(f"\n  {line}" for line in lines)
    return (
        f"{name} ({stage.definition.source}) gives other rows from the same events when {way.what}:{told}\n"
        f"The usual reason: {way.usual_causes}."
    )
