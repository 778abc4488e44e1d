"""The command ``health``: for whoever probes by running a command, as Docker's HEALTHCHECK does.

It asks the daemon of this machine over HTTP and believes it: what fails ``/healthz`` is decided there, and a database
that is away is no fault.  Nothing of the database is read here, so the answer comes at once.
"""

import http.client
import json
from typing import Any, Final

import typer

from projectiond.cli.output import tell
from projectiond.cli.target import Options
from projectiond.errors import ConfigurationError, ProjectiondError
from projectiond.failure import describe, printable
from projectiond.settings import load_settings

# Below what a probe allows as a rule; a daemon answers within milliseconds.
PATIENCE_SECONDS: Final = 4.0

# Faults of every projection fit in; whatever else listens there is not read to its end.
MOST_BYTES: Final = 1_000_000

# An address to listen on that is none to connect to, and the one that leads there from this machine.
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it is looked up, not listened on


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(health)


def health(context: typer.Context) -> None:
    """Ask the daemon of this machine whether it is well.

    Asks /healthz where the settings say that the daemon listens (http_host, http_port), so it needs the daemon's own
    settings. It fails where a restart may help: nobody answers within 4 seconds, or something does not advance that
    should. A database that is away is no such thing.

    Example: projectiond health --config config/production.toml

    Exit codes: 0 it is well, or waits for its database, or drains; 1 it is not, or nobody answers.
    """
    options: Options = context.obj
    settings = load_settings(options.config_file)
    if not settings.http_port:
        raise ConfigurationError("http_port is 0, so there is nobody to ask", hint="set it to the port of the daemon")
    host = _LOOPBACK.get(settings.http_host, settings.http_host)
    status, shape = _ask(host, settings.http_port)
    if status == http.client.OK:
        excuse = f": {printable(str(shape['excuse']))}" if shape.get("excuse") else ""
        tell(f"{printable(str(shape['status']))}{excuse}")
        return
    faults = [f"{_name(fault)}: {fault['reason']} ({fault['seconds']:.0f} s)" for fault in shape["faults"]]
    raise ProjectiondError(printable(", ".join(faults)), hint="its log says more")


def _ask(host: str, port: int) -> tuple[int, dict[str, Any]]:
    """Ask; give the status and what it says."""
    where = f"{host} port {port}"
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        shape = json.loads(answer.read(MOST_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise ProjectiondError(
            f"no daemon answers at {where}: {describe(error)}", hint="is it running, and with these settings?"
        ) from error
    except ValueError as error:
        raise _stranger(where) from error
    finally:
        connection.close()
    if not isinstance(shape, dict) or "status" not in shape or "faults" not in shape:
        raise _stranger(where)
    return answer.status, shape


def _stranger(where: str) -> ConfigurationError:
    return ConfigurationError(f"what answers at {where} is no projectiond", hint="look at http_host and http_port")


def _name(fault: dict[str, Any]) -> str:
    return f"worker {fault['name']}" if fault["kind"] == "worker" else str(fault["name"] or fault["kind"])
