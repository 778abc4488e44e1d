"""All kinds of faults: the modules that have them, imported, and which of them can be done here.

Called by ``__main__`` and by the tests.
"""

from typing import Final

from faults import of_handlers, of_network, of_operators, of_processes, of_server
from faults.kinds import KINDS, Kind
from faults.scene import Scene

# Importing a module adds its kinds; in this order they are told.
_MODULES: Final = [module.__name__ for module in (of_processes, of_server, of_network, of_handlers, of_operators)]


def all_kinds() -> dict[str, Kind]:
    """Give all kinds by name."""
    return dict(sorted(KINDS.items(), key=lambda item: _MODULES.index(item[1].inject.__module__)))


def split(scene: Scene, names: list[str]) -> tuple[list[Kind], dict[str, str]]:
    """Give the kinds of these names that can be done here, and why the others cannot."""
    known = all_kinds()
    wanted = [known[name] for name in names or known]
    refused = {kind.name: reason for kind in wanted if (reason := kind.refuse(scene))}
    return [kind for kind in wanted if kind.name not in refused], refused
