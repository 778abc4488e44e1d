"""PostgreSQL's own load generator as the writers, so that no Python stands in their way.

Used by ``bench.writers`` at full speed and by ``bench.latency`` at a given rate.  Each transaction appends one event of
a new order.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SCRIPT: Final = Path(__file__).with_name("append.sql")

_THROUGHPUT: Final = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Command:
    """One run of pgbench."""

    dsn: str
    connections: int
    seconds: int = 1
    protocol: str = "prepared"
    synchronous_commit: str = "on"
    rate: int | None = None
    transactions: int | None = None
    """Of each connection, instead of the seconds: for less than one."""

    def arguments(self, binaries: Path) -> list[str]:
        """Give the command line."""
        options = [
            "--no-vacuum",
            f"--file={SCRIPT}",
            f"--client={self.connections}",
            f"--jobs={min(self.connections, 2)}",
            f"--time={self.seconds}" if self.transactions is None else f"--transactions={self.transactions}",
            f"--protocol={self.protocol}",
        ]
        if self.rate is not None:
            options.append(f"--rate={self.rate}")
        return [str(binaries / "pgbench"), *options, self.dsn]

    def environment(self) -> dict[str, str]:
        """Give its environment, with the sessions' settings."""
        return {**os.environ, "PGOPTIONS": f"-c synchronous_commit={self.synchronous_commit}"}

    def run(self, binaries: Path) -> float:
        """Run it to its end; give the transactions per second, connecting left out.

        Raises:
            RuntimeError: pgbench failed, with its words.
        """
        done = subprocess.run(
            self.arguments(binaries),
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=self.seconds + 60,
        )
        found = _THROUGHPUT.search(done.stdout)
        if done.returncode or found is None:
            raise RuntimeError(f"pgbench ended with code {done.returncode}: {done.stderr[-1000:]}")
        return float(found[1])
