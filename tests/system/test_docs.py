"""What the documents name is there."""

import re

from psycopg2.extensions import cursor as Cursor

from tests.support.service import ROOT


def test_every_test_that_the_reliability_page_names_exists() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 20
    for name in named:
        assert f"def {name}(" in tests, name


def test_every_link_leads_somewhere() -> None:
    results = ROOT / "benchmarks" / "RESULTS.md"
    for document in (ROOT / "README.md", results, *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", document.read_text())
        for target, anchor in links:
            path = document.parent / target if target else document
            assert path.exists(), target
            assert not anchor or anchor in anchors(path.read_text()), anchor


def anchors(text: str) -> set[str]:
    """Return the names by which a page's headings can be reached."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_what_the_postgres_page_says_is_known_to_postgres(cursor: Cursor) -> None:
    page = (ROOT / "docs" / "postgres.md").read_text()
    [query] = re.findall(r"```sql\n(.+?)```", page, re.DOTALL)
    cursor.execute(query)
    assert len(cursor.fetchall()) == 1
    [snippet] = re.findall(r"```ini\n(.+?)```", page, re.DOTALL)
    settings = re.findall(r"^(\w+) = ", snippet, re.MULTILINE)
    assert settings
    cursor.execute("SELECT name FROM pg_settings WHERE name = ANY (%s)", (settings,))
    assert {name for [name] in cursor.fetchall()} == set(settings)
