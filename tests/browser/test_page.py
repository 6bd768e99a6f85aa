"""The page at /docs in Chromium."""

import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import Organization
from tests.support.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="/docs in Chromium. To test it: apt-get install chromium",
)

# root cannot use the sandbox. The browser must connect only to the service.
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
    """The open page. It must log no error and load nothing from other hosts."""
    messages: list[str] = []
    hosts: set[str] = set()
    with browser.new_page(color_scheme=request.param) as page:
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(f"http://127.0.0.1:{service.port}/docs")
        page.wait_for_selector("button.execute")
        yield page
    # The browser logs every response that is not 2xx.
    rejections = [text for text in messages if "status of 401" in text]
    assert messages == rejections
    assert hosts == {f"127.0.0.1:{service.port}"}


def send(page: Page, key: str) -> tuple[str, str]:
    """Paste an API key and send the request. Return status and body."""
    page.fill("#key", key)
    page.click("button.execute")
    response = page.locator(".live-responses-table .response")
    return (
        response.locator(".response-col_status").inner_text().strip(),
        response.locator(".highlight-code code").inner_text(),
    )


def test_example_request_can_be_sent(page: Page, acme: Organization) -> None:
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


def test_dry_run_can_be_selected(page: Page, acme: Organization) -> None:
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


def test_invalid_key_is_reported(page: Page, acme: Organization) -> None:
    status, body = send(page, acme.key[:-1])
    assert status == "401"
    assert '"error": "Invalid or missing API key"' in body


def test_page_follows_system_color_scheme(page: Page) -> None:
    is_dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert color == ("rgb(21, 25, 29)" if is_dark else "rgb(255, 255, 255)")
