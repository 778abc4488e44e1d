"""What the figures were measured on: machine, versions, settings of the server.

Called by ``__main__``, which prints it above the figures and writes it beside them.
"""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

from bench.server import Server

_PACKAGES: Final = ("projectiond", "psycopg", "pydantic", "SQLAlchemy")


def describe(server: Server) -> dict[str, Any]:
    """Give everything that a reader of the figures has to know."""
    return {
        "machine": {
            "processor": _processor(),
            "cores": str(len(os.sched_getaffinity(0))),
            "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
            "system": f"{platform.system()} {platform.release()}",
            "load at the start": f"{os.getloadavg()[0]:.1f}",
        },
        "measured": time.strftime("%Y-%m-%d"),
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "server": server.settings(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    named = {key.strip(): value.strip() for key, value in facts.items()}
    model = named.get("model name", platform.machine())
    return f"{model} (model {named['model']})" if "model" in named else model
