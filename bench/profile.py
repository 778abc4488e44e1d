"""``python -m bench.profile KIND``: where the worker's processor time goes while a kind of projection catches up.

For docs/performance.md; no part of ``make bench``, since it needs py-spy (``pip install py-spy``, in any environment
whose ``bin`` is on the PATH).  The runner's thread is sampled while it holds the interpreter's lock, so that neither
waiting for the server nor waiting for a processor counts: what is left is the work of Python and of libraries called by
it.
Each sample belongs to the first line of ``SHARES`` that one of its frames matches.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psycopg

from bench import orders
from bench.catchup_orders import ENTRANTS
from bench.daemon import Daemon, running_daemon
from bench.race import settle
from bench.server import running_server

EVENTS: Final = {"event": 200_000, "batch": 600_000, "row": 600_000}
SECONDS: Final = 4
SAMPLES_A_SECOND: Final = 250

# In each stack of the thread that is asked about.
RUNNER: Final = "projectiond/running/runner.py"

SHARES: Final = (
    ("asking for events, and making them of rows", ("projectiond/stream/",)),
    ("decoding and validating their data", ("pydantic/", "json/", "Event.data", "Event._decoded", "Event.typed")),
    ("converting parameters", ("PostgresQuery", "psycopg/types/", "Transformer")),
    ("loading rows", ("RowByKey.load", "RowTable.load")),
    ("writing rows", ("RowTable.write", "RowTable.settle")),
    ("handing statements to psycopg, taking answers", ("psycopg/", "projectiond/postgres/")),
    ("the projection's own code", ("(orders_by_",)),
    ("calling it", ("projectiond/kinds/", "projectiond/plugins/definition.py", "projectiond/event.py")),
    ("the runner", ("projectiond/",)),
)


def main(kind: str) -> None:
    """Profile one kind, and print the shares.

    Raises:
        SystemExit: py-spy is not there.
    """
    if shutil.which("py-spy") is None:
        raise SystemExit("py-spy is not on the PATH; install it with: pip install py-spy")
    names = ENTRANTS[kind].projections
    with running_server() as server, tempfile.TemporaryDirectory() as directory:
        dsn = server.create_store("profile")
        plugins = [f"orders_by_{kind}.py"]
        with psycopg.connect(dsn, autocommit=True) as db, running_daemon(dsn, plugins, names, "paused") as daemon:
            orders.append_orders(db, 0, EVENTS[kind])
            settle(db)
            daemon.wait_until_asleep()
            processor, began = daemon.cpu_seconds(), time.perf_counter()
            daemon.set_status("running", names[0])
            stacks = _sample(daemon, Path(directory) / "stacks")
            daemon.wait_for(EVENTS[kind], names[0])
            seconds = time.perf_counter() - began
            microseconds = 1e6 * (daemon.cpu_seconds() - processor) / EVENTS[kind]
    print(f"{names[0]}: {EVENTS[kind] / seconds:,.0f} events/s, {microseconds:.1f} µs of processor time an event")
    for name, share in share_out(stacks):
        print(f"{100 * share:5.1f} %  {name}")


def share_out(stacks: Iterable[str]) -> list[tuple[str, float]]:
    """Sum up samples of the runner's thread, the largest share first.

    Args:
        stacks: Lines of "frame;frame;frame count", as py-spy writes them.
    """
    samples: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        if RUNNER in stack and "Runner._wait" not in stack:
            samples[_name(stack)] += int(count)
    return [(name, count / samples.total()) for name, count in samples.most_common()]


def _name(stack: str) -> str:
    return next((name for name, marks in SHARES if any(mark in stack for mark in marks)), "something else")


def _sample(daemon: Daemon, output: Path) -> list[str]:
    worker = daemon.processes()[-1].pid
    rate, seconds = f"--rate={SAMPLES_A_SECOND}", f"--duration={SECONDS}"
    options = ["--gil", "--threads", "--format=raw", rate, seconds, f"--output={output}", f"--pid={worker}"]
    subprocess.run(["py-spy", "record", *options], check=True, capture_output=True)  # noqa: S607 - found on the PATH
    return output.read_text().splitlines()


if __name__ == "__main__":
    main(sys.argv[1])
