"""Prepared statements: PostgreSQL parses and plans them once per connection.

For a request for one device, this saves a third of the CPU time of PostgreSQL. A pooler
such as PgBouncer may assign another server connection to each transaction, so behind a
pooler the statements are sent as text.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from psycopg2.errors import InvalidSqlStatementName
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

# The service pins the plan (connection.py), so the plan is the same for all values.
# Without this setting, PostgreSQL may plan the statements again for each execution.
# Citus must plan again, because it selects the shard in the plan.
USE_GENERIC_PLANS = """
SELECT set_config('plan_cache_mode', 'force_generic_plan', false)
 WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')
"""


class Statement:
    """A statement with ``%s`` placeholders for parameters of the given types."""

    def __init__(self, name: str, sql: str, *types: str) -> None:
        numbers = tuple(f"${number}" for number, _ in enumerate(types, 1))
        self.sql = sql
        self.prepare = f"PREPARE {name} ({', '.join(types)}) AS {sql % numbers}"
        self.execute = f"EXECUTE {name} ({', '.join(['%s'] * len(types))})"


class Call(NamedTuple):
    """A statement and its parameters."""

    statement: Statement
    parameters: tuple[Any, ...]


def execute(cursor: Cursor, *calls: Call) -> None:
    """Execute statements in one message, and so in one transaction.

    ``cursor`` gets the result of the last one. The text is formatted first, because
    psycopg2 would keep the formatted parameters in memory.
    """
    parameters = [value for call in calls for value in call.parameters]
    connection = cursor.connection
    # A dry run uses the text: its transaction would not survive the fallback.
    if (
        isinstance(connection, ServiceConnection)
        and connection.is_prepared
        and connection.get_transaction_status() == TRANSACTION_STATUS_IDLE
    ):
        try:
            text = "; ".join([call.statement.execute for call in calls])
            cursor.execute(cursor.mogrify(text, parameters))
            return
        except InvalidSqlStatementName:  # a pooler or DISCARD removed it
            connection.is_prepared = False
    text = "; ".join([call.statement.sql for call in calls])
    cursor.execute(cursor.mogrify(text, parameters))


class ServiceConnection(Connection):
    """A connection that may contain prepared statements."""

    is_prepared = False

    def prepare(self, statements: Iterable[Statement]) -> None:
        """Prepare the statements, unless this is a connection to a pooler."""
        with self.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            [[pid]] = cursor.fetchall()
            if pid == self.info.backend_pid:  # a pooler sends another number
                texts = [statement.prepare for statement in statements]
                cursor.execute("; ".join([USE_GENERIC_PLANS, *texts]))
                self.is_prepared = True
