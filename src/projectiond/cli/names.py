"""Names of projections on the command line: known to the plugins or to the database, or the nearest is named.

Called by every command that takes names, before anything is changed.  Loading plugins runs their code; what they
print goes to stderr, so that it cannot spoil a result.
"""

import contextlib
import sys
from collections.abc import Iterable, Mapping

from projectiond import sql
from projectiond.errors import ConfigurationError
from projectiond.plugins.definition import Definition
from projectiond.plugins.registry import Registry, load_projections
from projectiond.postgres.database import Connection
from projectiond.settings import Settings
from projectiond.settings_faults import sentence_of_unknown


def load_plugins(settings: Settings) -> Registry:
    """Load the plugins that the settings name."""
    with contextlib.redirect_stdout(sys.stderr):
        return load_projections(settings.projections, settings.projection)


def find_names(db: Connection, settings: Settings, asked: Iterable[str]) -> Mapping[str, Definition | None]:
    """Check names; give each with its definition, None for one that only the database knows.

    Raises:
        ConfigurationError: A name is known to nobody; a sentence for each.
    """
    registry = load_plugins(settings)
    defined = {definition.name: definition for definition in registry.definitions}
    rows = [str(name) for name, _, _ in db.execute(sql.checkpoint.READ_STATUSES)]
    known = sorted({*defined, *rows})
    faults = [_unknown(name, known, has_faults=bool(registry.faults)) for name in asked if name not in known]
    if faults:
        raise ConfigurationError("\n".join(faults))
    return {name: defined.get(name) for name in asked}


def find_definition(settings: Settings, name: str) -> Definition:
    """Give a projection of the plugins.

    Raises:
        ConfigurationError: There is none of that name, or a plugin is faulty.
    """
    registry = load_plugins(settings)
    defined = {definition.name: definition for definition in registry.definitions}
    if name in defined:
        return defined[name]
    if registry.faults:
        raise ConfigurationError("\n".join(str(fault) for fault in registry.faults))
    raise ConfigurationError(sentence_of_unknown("projection", name, known=sorted(defined)))


def _unknown(name: str, known: list[str], *, has_faults: bool) -> str:
    if not known:
        sentence = f'unknown projection "{name}": there are none; "projectiond new {name}" writes one'
    else:
        sentence = sentence_of_unknown("projection", name, known=known)
    if has_faults:
        sentence += '; some plugins could not be loaded, see "projectiond check"'
    return sentence
