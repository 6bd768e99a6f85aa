"""The statements obey the rules of Citus, which needs no cluster."""

import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module

from psycopg2.extensions import cursor as Cursor

from bulk_metadata import db
from bulk_metadata.db.prepared import Statement

# The parts of an INSERT or UPDATE in which Citus allows only IMMUTABLE functions.
PARTS = re.compile(r"\bRETURNING\b.*|\bcoalesce\(.*?\)|\bCASE\b.*?\bEND\b", re.S | re.I)

# history_settings is not distributed.
CHANGE = re.compile(r"\b(?:INSERT INTO|UPDATE)\s(?!history_settings)")


def changes() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each INSERT and UPDATE in db/."""
    for info in pkgutil.walk_packages(db.__path__, "bulk_metadata.db."):
        for name, value in vars(import_module(info.name)).items():
            text = value.sql if isinstance(value, Statement) else value
            if name.isupper() and isinstance(text, str):
                for match in CHANGE.finditer(text):
                    yield name, statement(text[match.start() :])


def statement(text: str) -> str:
    """Return the part of ``text`` before the first unmatched parenthesis."""
    depth = 0
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return text[:position]
    return text


def test_changes_use_immutable_functions_for_citus(cursor: Cursor) -> None:
    names = [name for name, _ in changes()]
    assert {"UPDATE_METADATA", "CREATE_KEY", "REVOKE_KEY", "RESTORE"} <= set(names)
    used = {
        (name, function.lower())
        for name, text in changes()
        for part in PARTS.findall(text)
        for function in re.findall(r"(\w+)\s*\(", part)
    }
    cursor.execute("SELECT DISTINCT proname FROM pg_proc WHERE provolatile <> 'i'")
    forbidden = {name for [name] in cursor.fetchall()}
    assert not [use for use in used if use[1] in forbidden]
