# ruff: noqa: INP001 - a directory of plugins, no package
"""Loan applications as two statements over the events of a batch, which stay on the server."""

from bench import loans
from bench.tables import prefixed
from projectiond import SqlProjection


class LoansBySql(SqlProjection):
    """Keeps applications, and events by day and type."""

    tables = (prefixed("loan_applications", "by_sql"), prefixed("loan_activity", "by_sql"))
    schema = prefixed(loans.READ_MODEL, "by_sql")
    sql = (prefixed(loans.SUMMARISE_EVENTS, "by_sql"), prefixed(loans.COUNT_EVENTS, "by_sql"))
