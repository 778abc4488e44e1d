"""Statements that set a session up, or back; and what they learn of the server."""

from typing import Final, LiteralString

# Parameters: statement_timeout (text, milliseconds).  The isolation level matters: the compare-and-set of the
# checkpoint relies on READ COMMITTED's second look at a row that changed while it waited.
# The keepalives make the server notice that our machine has gone: within 11 s, for beside tcp_user_timeout the number
# of probes does not count.  They have no effect on a Unix socket.
# Rows: one, that ends with the search path and the time at which this server process was started: it tells one history
# from another.
CONFIGURE_SESSION: LiteralString = """
SELECT
    set_config('statement_timeout', %(statement_timeout)s, false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('tcp_keepalives_idle', '5', false),
    set_config('tcp_keepalives_interval', '3', false),
    set_config('tcp_keepalives_count', '3', false),
    set_config('tcp_user_timeout', '10000', false),
    current_setting('search_path'),
    pg_postmaster_start_time()
"""

# A statement that runs while its worker is killed is given up by the server so soon, and its locks with it.
CHECK_CLIENT: LiteralString = "SET client_connection_check_interval = '1s'"

# Parameters: schema, replay_id.  For the session of a replay; the trigger on its checkpoint asks whose it is.
ENTER_SPACE: LiteralString = """
SELECT
    set_config('search_path', quote_ident(%(schema)s) || ', ' || current_setting('search_path'), false),
    set_config('projectiond.replay', %(replay_id)s, false)
"""

# Rows: one (the process id of this session's server process).
SESSION: LiteralString = "SELECT pg_backend_pid()"

# Rows: one (server_version_num, is_standby).
SERVER_FACTS: LiteralString = """
SELECT
    current_setting('server_version_num')::int,
    pg_is_in_recovery()
"""

# Parameters: timeout (text).  For the rest of the transaction.
SET_LOCK_TIMEOUT: LiteralString = "SELECT set_config('lock_timeout', %(timeout)s, true)"

# Parameters: search_path.  In the middle of a transaction, before events are read and before the checkpoint is moved: a
# handler may have set another one.
RESTORE_SEARCH_PATH: LiteralString = "SELECT set_config('search_path', %(search_path)s, true)"

# Statements that the pipeline has prepared (see ``statements``).  One that is known to be there, and was not used for
# long; and all that are there, when that is no longer known.
DEALLOCATE: Final = b"DEALLOCATE %b"
DISCARD_PLANS: Final = rb"""
DO $$
DECLARE
    plan text;
BEGIN
    FOR plan IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE name LIKE 'projectiond\_plan\_%' LOOP
        EXECUTE pg_catalog.format('DEALLOCATE %I', plan);
    END LOOP;
END
$$
"""
