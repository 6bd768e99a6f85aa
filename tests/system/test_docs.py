"""The docs refer to existing tests, pages, headings and settings."""

import re

from psycopg2.extensions import cursor as Cursor

from tests.support.service import ROOT


def test_tests_named_in_reliability_page_exist() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 20
    for name in named:
        assert f"def {name}(" in tests, name


def test_links_are_valid() -> None:
    results = ROOT / "benchmarks" / "RESULTS.md"
    for document in (ROOT / "README.md", results, *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", document.read_text())
        for target, anchor in links:
            path = document.parent / target if target else document
            assert path.exists(), target
            assert not anchor or anchor in anchors(path.read_text()), anchor


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_settings_and_query_of_postgres_page_are_valid(cursor: Cursor) -> None:
    page = (ROOT / "docs" / "postgres.md").read_text()
    [query] = re.findall(r"```sql\n(.+?)```", page, re.DOTALL)
    cursor.execute(query)
    assert len(cursor.fetchall()) == 1
    [snippet] = re.findall(r"```ini\n(.+?)```", page, re.DOTALL)
    settings = re.findall(r"^(\w+) = ", snippet, re.MULTILINE)
    assert settings
    cursor.execute("SELECT name FROM pg_settings WHERE name = ANY (%s)", (settings,))
    assert {name for [name] in cursor.fetchall()} == set(settings)
