"""A change: the daemon meets tables that other code, or another schema, has built.

Called by the runner once, before it applies its first event with the status running. Nothing is wrong with such tables
as such: the change may be one that alters none of their rows, and who deployed it knows. So `on_change` decides:

    warn      said in the log, and in `status`, `check` and `plan`; events are applied as ever
    rebuild   the status is set to rebuilding
    pause     the status is set to paused, with what has changed

Each is done once for one change, whichever worker comes first: an operator who calls the rebuild off, or resumes, has
the last word. While workers of the old and of the new code run side by side, both meet the other's tables: who finds
the tables that have just replaced its own only warns, or the two would rebuild in turns for ever.
"""

from collections.abc import Iterable
from typing import assert_never

from projectiond import checkpoint as checkpoints
from projectiond import logs, sql
from projectiond.builds.build import Build, lock_build, read_builds, record_build
from projectiond.plugins.definition import Definition
from projectiond.plugins.fingerprint import Difference
from projectiond.plugins.limits import Limits
from projectiond.postgres.database import Connection

log = logs.get_logger()


def meet_tables(db: Connection, definition: Definition, limits: Limits) -> bool:
    """Compare a projection with what built its tables, and do what is to be done about a difference.

    Args:
        db: In autocommit mode.
        definition: What is about to run.
        limits: Its policy.

    Returns:
        Whether its row has been changed, so that it has to be read again.
    """
    with db.transaction():
        build = lock_build(db, definition.name)
        if build is None or build.fingerprint is None:
            record_build(db, definition, "adopted")
            return False
        difference = build.difference_to(definition)
        if not difference:
            _note_sameness(db, definition, build)
            return False
        digest = definition.fingerprint.digest
        if db.execute(sql.builds.MEET_CHANGE, {"name": definition.name, "digest": digest}).rowcount == 0:
            return False
        return _act(db, definition, limits, build, difference)


def read_changes(db: Connection, definitions: Iterable[Definition]) -> list[str]:
    """Say of each projection whose tables were built by something else what differs, and where to go on from there."""
    builds = read_builds(db)
    return [
        f'the tables of {name} were built by something else ({difference}); see "projectiond plan {name}"'
        for name, definition in ((definition.name, definition) for definition in definitions)
        if name in builds and (difference := builds[name].difference_to(definition))
    ]


def _note_sameness(db: Connection, definition: Definition, build: Build) -> None:
    name, version = definition.name, definition.fingerprint.version
    # A change that was taken back is news again when it comes back.
    db.execute(sql.builds.MEET_CHANGE, {"name": name, "digest": None})
    # From now on the version stands for the code that is known to be the same.
    if build.fingerprint is not None and version is not None and build.fingerprint.version != version:
        db.execute(sql.builds.NAME_VERSION, {"name": name, "version": version})


def _act(db: Connection, definition: Definition, limits: Limits, build: Build, difference: Difference) -> bool:
    name = definition.name
    is_replaced = build.previous_digest == definition.fingerprint.digest
    policy = "warn" if is_replaced and limits.on_change == "rebuild" else limits.on_change
    is_changed = False
    match policy:
        case "warn":
            action = f'nothing yet: "projectiond plan {name}" says what a rebuild would take'
            if is_replaced:
                action = "nothing: its tables have just been rebuilt by other code, perhaps by another daemon's"
        case "rebuild":
            is_changed = db.execute(sql.steering.SET_STATUS, {"name": name, "status": "rebuilding"}).rowcount == 1
            action = "it is rebuilt"
        case "pause":
            reason = _sentence_of_pause(name, difference)
            is_changed = checkpoints.pause_for_fault(db, checkpoints.load(db, name), reason)
            action = "it is paused"
        case _:
            assert_never(policy)
    log.warning(logs.PROJECTION_CHANGED, projection=name, changed=str(difference), action=action)
    return is_changed


def _sentence_of_pause(name: str, difference: Difference) -> str:
    """Say why a projection is paused, and how it goes on."""
    return (
        f'the tables of "{name}" were built by something else ({difference}); run "projectiond rebuild {name}", or '
        f'"projectiond resume {name}" if the change alters none of their rows'
    )
