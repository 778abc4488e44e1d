"""All kinds of faults, of whatever module, and which of them can be done here.

Called by ``__main__`` and by the tests.
"""

from faults import of_handlers, of_network, of_operators, of_processes, of_server
from faults.kinds import Kind
from faults.scene import Scene


def all_kinds() -> dict[str, Kind]:
    """Give all kinds by name."""
    modules = (of_processes, of_server, of_network, of_handlers, of_operators)
    return {kind.name: kind for module in modules for kind in module.KINDS}


def split(scene: Scene, names: list[str]) -> tuple[list[Kind], dict[str, str]]:
    """Give the kinds of these names that can be done here, and why the others cannot."""
    known = all_kinds()
    wanted = [known[name] for name in names or known]
    refused = {kind.name: reason for kind in wanted if (reason := kind.refuse(scene))}
    return [kind for kind in wanted if kind.name not in refused], refused
