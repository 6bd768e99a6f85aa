"""``make run``: the service and PostgreSQL on a machine that has only Python."""
