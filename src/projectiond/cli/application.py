"""Arguments in, exit code out.

Every error that a command raises ends here and becomes one sentence on stderr, ``projectiond: what is wrong; what to
do next`` (a line for each fault where there are several).  No traceback, unless ``--debug`` asks for it: an operator
at night needs the sentence, and a traceback may show a password.
"""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import psycopg
import typer
from psycopg import errors

import projectiond
from projectiond.cli import (
    daemon,
    database,
    demo,
    grants,
    health,
    letters,
    newest,
    plan,
    pursuit,
    scaffold,
    statistics,
    status,
    steering,
    trial,
    verification,
    waiting,
)
from projectiond.cli.target import Options, say
from projectiond.errors import ProjectiondError, WaitTimeoutError
from projectiond.failure import describe, printable

DONE: Final = 0
FAULT: Final = 1
USAGE: Final = 2
TIMED_OUT: Final = 3

# What a shell gives a process that was interrupted, and so does typer; our contract knows 0 to 3.
INTERRUPTED: Final = 130

# Of these options it does not matter whether they stand before or after the command's name.
_FLAGS: Final = ("--debug",)
_WITH_VALUE: Final = ("--config",)

app = typer.Typer(
    name="projectiond",
    help=(
        "Keep read models up to date from a PostgreSQL event store.\n\n"
        "A first look: projectiond demo. A first projection: projectiond new NAME, then projectiond run. "
        "Against your own database: set DATABASE_URL, then projectiond init, projectiond check, projectiond run."
    ),
    epilog=(
        "--config and --debug may also stand behind the command. "
        "Exit codes: 0 done, 1 a fault that the message names, 2 wrong usage, 3 timed out."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
for group in (
    daemon,
    health,
    database,
    grants,
    status,
    statistics,
    plan,
    steering,
    letters,
    newest,
    waiting,
    pursuit,
    verification,
    trial,
    scaffold,
    demo,
):
    group.add_commands(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; give its exit code."""
    words = _globals_first(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in words[: _end_of_options(words)]
    try:
        if arguments is None:
            _listen_to_signals()
        code = app(args=words, prog_name="projectiond", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        return _reader_is_gone()
    except Exception as error:  # noqa: BLE001 - whatever it is, the operator gets one sentence
        return _report(error, is_debug=is_debug)
    if code == INTERRUPTED:
        say("interrupted")
        # The daemon has only looked so far: it is stopped in order.
        return DONE if _command_of(words) == "run" else FAULT
    return code if isinstance(code, int) else DONE


def _listen_to_signals() -> None:
    """Be interrupted by SIGTERM: ended by default, a command would leave the embedded server running.

    The first process of a container has no default, and would miss what comes before this; so the image starts with
    SIGTERM blocked, which keeps it until now.  The daemon has its own way, once it has begun.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _show_version(asked: bool) -> None:  # noqa: FBT001 - typer's signature of a callback
    if asked:
        print(f"projectiond {projectiond.__version__}")  # noqa: T201 - the command's result
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The settings file (TOML); else PROJECTIOND_CONFIG names it, or there is none."
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, and the log of every step.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    del version
    context.obj = Options(config_file=config, is_debug=debug)


def _globals_first(words: Sequence[str]) -> list[str]:
    """Move the global options in front of the command, wherever they stand."""
    end = _end_of_options(words)
    moved: list[str] = []
    left: list[str] = []
    rest = iter(words[:end])
    for word in rest:
        if word in _FLAGS or word.startswith(tuple(f"{name}=" for name in _WITH_VALUE)):
            moved.append(word)
        elif word in _WITH_VALUE:
            moved += [word, *([value] if (value := next(rest, None)) is not None else [])]
        else:
            left.append(word)
    return [*moved, *left, *words[end:]]


def _command_of(words: Sequence[str]) -> str:
    """Give the first word that is none of the global options, which stand in front."""
    rest = iter(words)
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return ""


def _end_of_options(words: Sequence[str]) -> int:
    return words.index("--") if "--" in words else len(words)


def _report(error: Exception, *, is_debug: bool) -> int:
    """Say what is wrong; give the exit code."""
    if is_debug:
        traceback.print_exception(error)
    # What typer raises for a wrong usage; its base class has another home in each version of typer.
    usage = getattr(error, "format_message", None)
    if usage is not None:
        return _report_usage(str(usage()), getattr(error, "ctx", None), int(getattr(error, "exit_code", USAGE)))
    for line in _sentence(error).splitlines():
        say(line)
    return TIMED_OUT if isinstance(error, WaitTimeoutError) else FAULT


def _report_usage(message: str, context: typer.Context | None, code: int) -> int:
    if not message or "\n" in message:
        # Nothing was asked for, so the help is the answer; typer has printed it, or it is the message.
        print(message, end="")  # noqa: T201
        return code
    path = "projectiond" if context is None else context.command_path
    text = message.rstrip(".")
    say(f'{text[:1].lower()}{text[1:]}; see "{path} --help"')
    return code


def _sentence(error: Exception) -> str:
    match error:
        case ProjectiondError():
            return str(error)
        case psycopg.Error():
            return _sentence_of_database(error)
        case OSError():
            return f"{error.strerror or error}: {error.filename}" if error.filename else printable(str(error))
        case _:
            return f"an error of projectiond itself: {describe(error)}; run it again with --debug to see where"


def _sentence_of_database(error: psycopg.Error) -> str:
    match error:
        case errors.UndefinedTable() | errors.UndefinedColumn() | errors.UndefinedFunction():
            return f'the database lacks something of projectiond ({_word_of(error)}); run "projectiond init"'
        case errors.InsufficientPrivilege():
            return f'{_word_of(error)}; run "projectiond check" with this role, it names every GRANT'
        case errors.QueryCanceled() | errors.LockNotAvailable():
            return f"the database gave up: {_word_of(error)}; try again, or raise statement_timeout_seconds"
        case psycopg.OperationalError():
            return f"the database does not answer any more: {_word_of(error)}; try again when it does"
        case _:
            return f"the database refused: {_word_of(error)}"


def _word_of(error: psycopg.Error) -> str:
    return printable(error.diag.message_primary or str(error))


def _reader_is_gone() -> int:
    """End quietly, as in ``projectiond status | head -1``; nothing may be flushed to the closed pipe at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAULT
