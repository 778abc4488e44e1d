"""Failures: what has to happen after an error, and how it is told."""

import psycopg
import pytest
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout

from projectiond.errors import (
    AttemptFailedError,
    ConfigurationError,
    ConflictError,
    DatabaseUnavailableError,
    EventDataError,
    PoisonError,
    TransactionControlError,
)
from projectiond.failure import MAX_TEXT, Failure, classify, describe, is_transient, printable


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("server closed the connection unexpectedly"),
        errors.AdminShutdown(),
        errors.CrashShutdown(),
        errors.CannotConnectNow(),
        errors.ConnectionFailure(),
        errors.TooManyConnections(),
        errors.DiskFull(),
        errors.IoError(),
        errors.SerializationFailure(),
        errors.DeadlockDetected(),
        errors.LockNotAvailable(),
        errors.QueryCanceled(),
        errors.IdleInTransactionSessionTimeout(),
        errors.ReadOnlySqlTransaction(),
        PoolTimeout(),
        PoolClosed(),
        DatabaseUnavailableError("cannot connect"),
        AttemptFailedError("event 7 failed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_passes_by_itself_is_transient(error: Exception) -> None:
    assert classify(error) is Failure.TRANSIENT
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        KeyError("customer"),
        errors.UniqueViolation(),
        errors.NotNullViolation(),
        errors.ForeignKeyViolation(),
        errors.InvalidTextRepresentation(),
        errors.NumericValueOutOfRange(),
        errors.DivisionByZero(),
        errors.RaiseException(),
        errors.InFailedSqlTransaction(),
        errors.PipelineAborted(),
        psycopg.InterfaceError("the cursor is closed"),
        psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"),
        EventDataError("does not fit"),
        PoisonError("SystemExit"),
        RecursionError(),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_this_event_alone_runs_into_is_poison(error: Exception) -> None:
    assert classify(error) is Failure.POISON
    assert not is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        errors.UndefinedTable(),
        errors.UndefinedColumn(),
        errors.InvalidSchemaName(),
        errors.InsufficientPrivilege(),
        errors.SyntaxError(),
        ConfigurationError("wrong"),
        # Tried again, it would commit again.
        TransactionControlError("a handler ended the transaction"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_every_event_would_run_into_is_fatal(error: Exception) -> None:
    assert classify(error) is Failure.FATAL
    assert not is_transient(error)


def test_a_lost_compare_and_set_is_a_conflict() -> None:
    assert classify(ConflictError("moved")) is Failure.CONFLICT


def test_an_error_is_told_with_its_type_in_one_line() -> None:
    assert describe(ValueError("first\n  second\tthird")) == "ValueError: first second third"
    assert describe(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("a\0b", "a\\x00b"),
        ("\ud800", "\\ud800"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("Übung 日本", "Übung 日本"),
    ],
)
def test_a_told_error_can_be_stored_and_shown_anywhere(hostile: str, shown: str) -> None:
    told = describe(ValueError(hostile))
    assert told == f"ValueError: {shown}"
    assert told.encode()
    assert told.isprintable()


def test_a_huge_error_is_cut() -> None:
    assert len(describe(ValueError("x" * 5_000_000))) == MAX_TEXT
    # Escapes make it longer, but not without bound.
    assert len(printable("\0" * 5_000_000)) <= 10 * MAX_TEXT


def test_an_error_that_cannot_say_what_it_is_is_told_by_its_type() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert describe(BrokenError()).startswith("BrokenError")
