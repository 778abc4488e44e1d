"""``python -m faults [SECONDS] [--seed N] [--server DIR] …``: disturb a running projectiond, and see that it is right.

Run by ``make faults``.  It starts a PostgreSQL and two daemons of its own, ends every process that it started, and
removes its data unless ``--keep`` names a directory for it.  The exit code is 1 when an event was lost or repeated,
when a read model is not what its events say, or when projections needed longer than docs/faults.md allows.
"""

import argparse
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from faults.catalogue import all_kinds, split
from faults.report import Report, tell_failure
from faults.rounds import await_begin, plan_round, play
from faults.scene import Scene, Story
from faults.server import DISK_MEGABYTES, Disk, running_server
from faults.writers import Writers
from tests.support.scratch import remove_scratch_directory, scratch_directory
from tests.support.servers import binaries

DEFAULT_SECONDS: Final = 600.0

# Logs, and what handlers may write.
DAEMONS_DISK_MEGABYTES: Final = 48


def main(arguments: Sequence[str]) -> int:
    """Play rounds until the time is over; 1 when anything was wrong."""
    options = _parse(arguments)
    # Whoever ends this ends what it has started, too: Python unwinds at an exception, and not at the signal.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    story = Story(is_told=options.verbose)
    try:
        with _scene(options, story) as scene:
            report = _run(options, scene, story)
    finally:
        remove_scratch_directory()
    print(report.line())
    return 1 if report.failures() else 0


def _run(options: argparse.Namespace, scene: Scene, story: Story) -> Report:
    deadline = time.monotonic() + options.seconds
    kinds, left_out = split(scene, options.only)
    with scene.session() as db:
        version = f"{db.info.server_version // 10000}"
    report = Report(options.seed, version, left_out, options.patience)
    for name, why in left_out.items():
        scene.tell(f"left out: {name}: {why}")
    for daemon in scene.daemons:
        daemon.start()
    if problems := await_begin(scene):
        raise SystemExit(f"faults: the daemons do not begin: {'; '.join(problems)}")
    writers = Writers(scene.server, scene.pooler, options.seed)
    try:
        number = options.first
        while kinds and time.monotonic() < deadline and len(report.outcomes) < options.rounds:
            told = len(story.lines)
            outcome = play(scene, writers, options.seed, plan_round(options.seed, number, kinds))
            report.outcomes.append(outcome)
            story.tell(f"up to date after {outcome.stall_seconds:.1f} s; {outcome.verdict}")
            if outcome in report.failures():
                again = _again(options, number)
                print(tell_failure(outcome, options.patience, again, story.lines[told:]), flush=True)
                if not options.go_on:
                    break
            number += 1
    finally:
        writers.end()
    return report


@contextmanager
def _scene(options: argparse.Namespace, story: Story) -> Iterator[Scene]:
    """Set everything up, and leave nothing of it behind but what is to be kept."""
    directory = Path(tempfile.mkdtemp(prefix="faults-", dir=scratch_directory()))
    directory.chmod(0o755)
    disks = Disk(directory / "s", DISK_MEGABYTES), Disk(directory / "daemons", DAEMONS_DISK_MEGABYTES)
    try:
        with running_server(_binaries(options.server), disks[0].directory) as server:
            scene = Scene(options.seed, server, *disks, directory, story)
            try:
                yield scene
            finally:
                scene.close()
    finally:
        if options.keep:
            _keep(directory, options.keep, story)
        for disk in disks:
            disk.unmount()
        shutil.rmtree(directory, ignore_errors=True)


def _keep(directory: Path, target: Path, story: Story) -> None:
    with suppress(OSError):
        shutil.copytree(directory, target, symlinks=True, ignore=shutil.ignore_patterns("*.s"), dirs_exist_ok=True)
        (target / "story.txt").write_text("\n".join(story.lines) + "\n")


def _binaries(server: Path | None) -> Path:
    if server is None:
        return binaries("embedded")
    for directory in (server / "bin", server):
        if (directory / "postgres").exists():
            return directory
    raise SystemExit(f"faults: there is no postgres in {server}; name an installation such as /usr/lib/postgresql/15")


def _again(options: argparse.Namespace, number: int) -> str:
    arguments = [f"{options.seconds:g}", "--seed", f"{options.seed}", "--first", f"{number}", "--rounds", "1"]
    for name in options.only:
        arguments += ["--only", name]
    if options.server:
        arguments += ["--server", f"{options.server}"]
    return f"make faults ARGS={shlex.quote(' '.join(arguments))}"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description="Disturb a running projectiond.")
    parser.add_argument(
        "seconds", nargs="?", type=float, default=DEFAULT_SECONDS, help="no round begins later (default: %(default)g)"
    )
    parser.add_argument("--seed", type=int, help="what is done, and when (default: another each time)")
    parser.add_argument(
        "--server", type=Path, metavar="DIR", help="an installation of PostgreSQL; else the embedded one"
    )
    parser.add_argument("--only", action="append", choices=list(all_kinds()), default=[], metavar="KIND")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first round")
    parser.add_argument("--rounds", type=int, default=sys.maxsize, metavar="N", help="no more rounds than this")
    parser.add_argument("--patience", type=float, default=1.0, metavar="FACTOR", help="multiplies every bound")
    parser.add_argument("--go-on", action="store_true", help="play on after a failure")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="copy data directory, logs and story there at the end")
    parser.add_argument("--verbose", action="store_true", help="tell the story while it happens")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = time.time_ns() // 1_000_000 % 1_000_000
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
