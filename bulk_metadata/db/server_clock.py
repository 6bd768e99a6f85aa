"""Deadlines in server time, so that a statement that arrives late has no effect.

A message to PostgreSQL may be delayed, by the network or by a suspended process, until
its client has got a 500 and another request has changed the same devices. Therefore
each message that writes starts with a guard, which fails after a deadline.
"""

import time

from psycopg2.extensions import cursor as Cursor


class ServerClock:
    """An estimate of the time of the PostgreSQL server, which is never ahead of it,
    unless the clock of the server is set back.

    It adds the monotonic time since a result was received to the server time in this
    result. An error makes a deadline earlier, which is safe.
    """

    def __init__(self, server_time: float) -> None:
        """Set the clock to the Unix time in a result that was just received."""
        self._set_at = time.monotonic()
        self._offset = server_time - self._set_at

    @classmethod
    def read(cls, cursor: Cursor) -> "ServerClock":
        """Return a clock that is set by a query."""
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        [[server_time]] = cursor.fetchall()
        return cls(server_time)

    @property
    def age(self) -> float:
        """Seconds since the clock was set."""
        return time.monotonic() - self._set_at

    def deadline(self, start_within: int) -> float:
        """Return the Unix time on the server ``start_within`` seconds from now."""
        return self._offset + time.monotonic() + start_within

    def guard(self, start_within: int, statement_timeout: int) -> str:
        """Return SQL that precedes a statement in the same message.

        It fails with SQLSTATE 22012 if PostgreSQL executes it more than
        ``start_within`` seconds from now. Otherwise it limits the statement to
        ``statement_timeout`` seconds, also if a pooler drops the settings of the
        connection.
        """
        deadline = self.deadline(start_within)
        return (
            f"SET LOCAL statement_timeout = '{statement_timeout}s'; "
            f"SELECT 1 / (clock_timestamp() < to_timestamp({deadline:.6f}))::int; "
        )
