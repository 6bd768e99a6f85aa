"""The page at /docs in a real browser, as a person meets it."""

import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import Organization
from tests.support.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

# As root it has no sandbox; and it is to talk to the service, and to nobody else.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS) as browser,
    ):
        yield browser


@pytest.fixture(params=["light", "dark"])
def page(
    browser: Browser, service: Service, request: pytest.FixtureRequest
) -> Iterator[Page]:
    """The page, opened; nothing may be wrong with it, nor be asked for elsewhere."""
    said: list[str] = []
    asked: set[str] = set()
    with browser.new_page(color_scheme=request.param) as page:
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        page.goto(f"http://127.0.0.1:{service.port}/docs")
        page.wait_for_selector("button.execute")
        yield page
    # The browser itself says so of every answer that is not 2xx.
    refused = [text for text in said if "status of 401" in text]
    assert said == refused
    assert asked == {f"127.0.0.1:{service.port}"}


def send(page: Page, key: str) -> tuple[str, str]:
    """Paste a key and press the button; return status and body of the answer."""
    page.fill("#key", key)
    page.click("button.execute")
    answer = page.locator(".live-responses-table .response")
    return (
        answer.locator(".response-col_status").inner_text().strip(),
        answer.locator(".highlight-code code").inner_text(),
    )


def test_the_example_is_ready_to_be_sent(page: Page, acme: Organization) -> None:
    acme.insert("SN-A100", "SN-B200")
    status, body = send(page, f" {acme.key}\n")
    assert status == "200"
    assert '"updated": 2' in body
    assert '"notFound": 1' in body
    assert acme.metadata() == {
        "SN-A100": {
            "firmwareVersion": "3.2.1",
            "status": "active",
            "location": "Building A",
        },
        "SN-B200": {"firmwareVersion": "3.2.1", "status": "maintenance"},
    }


def test_a_dry_run_is_a_choice(page: Page, acme: Organization) -> None:
    acme.insert("SN-A100", "SN-B200")
    before = acme.rows()
    choice = page.locator("tr[data-param-name=dryRun] select")
    assert choice.locator("option").all_inner_texts() == ["--", "true", "false"]
    choice.select_option("true")
    status, body = send(page, acme.key)
    assert status == "200"
    assert '"dryRun": true' in body
    assert '"updated": 2' in body
    assert acme.rows() == before


def test_a_wrong_key_is_told_so(page: Page, acme: Organization) -> None:
    status, body = send(page, acme.key[:-1])
    assert status == "401"
    assert '"error": "Invalid or missing API key"' in body


def test_it_is_dark_where_the_system_is(page: Page) -> None:
    wanted = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert color == ("rgb(21, 25, 29)" if wanted else "rgb(255, 255, 255)")
