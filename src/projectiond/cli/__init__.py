"""The command line: ``projectiond COMMAND``.

    application.py  arguments in, exit code out; every error becomes one sentence on stderr
    target.py       which settings and which database a command works on
    names.py        names of projections: known, or the nearest
    output.py       tables and lines, for people and for pipes
    progress.py     how far it is, for commands that wait
    daemon.py       run
    health.py       health
    database.py     init, check
    grants.py       grants
    status.py       status
    picture.py      how the overview is shown
    statistics.py   stats
    steering.py     pause, resume, rebuild
    waiting.py      wait, and the watching of rebuild --wait
    pursuit.py      catchup
    scaffold.py     new
    demo.py         demo

Exit codes, of every command: 0 done, 1 a fault that the message names, 2 usage, 3 timed out.
"""

from projectiond.cli.application import main

__all__ = ["main"]
