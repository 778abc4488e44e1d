"""SQLAlchemy engines on a test's database, for each driver that applications use."""

from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.support.postgres import Database

ASYNC_DRIVERS = ("psycopg", "asyncpg")


def engine_of(database: Database) -> Engine:
    """Make a synchronous engine; the caller disposes of it."""
    return create_engine(_url(database, "psycopg"))


def async_engine_of(database: Database, driver: str) -> AsyncEngine:
    """Make an asynchronous engine; the caller disposes of it in the event loop that used it."""
    return create_async_engine(_url(database, driver))


def _url(database: Database, driver: str) -> str:
    """Give the database's address as SQLAlchemy writes it, with the Unix socket where all drivers look for it."""
    parts = conninfo_to_dict(database.dsn)
    user, password = quote(str(parts.get("user") or "")), parts.get("password")
    credentials = f"{user}:{quote(str(password))}" if password else user
    host = quote(str(parts.get("host") or ""), safe="")
    query = f"host={host}" + (f"&port={parts['port']}" if parts.get("port") else "")
    return f"postgresql+{driver}://{credentials}@/{quote(str(parts['dbname']))}?{query}"
