"""The command line: ``projectiond COMMAND``.

    main.py       arguments in, exit code out; every error becomes one sentence on stderr
    target.py     which settings and which database a command works on
    names.py      names of projections: known, or the nearest
    output.py     tables and lines, for people and for pipes
    daemon.py     run
    database.py   init, check
    status.py     status
    steering.py   pause, resume, rebuild
    waiting.py    wait, catchup, and the progress that they show
    scaffold.py   new
    demo.py       demo

Exit codes, of every command: 0 done, 1 a fault that the message names, 2 usage, 3 timed out.
"""

from projectiond.cli.main import main

__all__ = ["main"]
