"""The dashboard in a real Chromium: every view, by mouse and keyboard, and when things are broken."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from clickhouse_connect.driver.httpclient import HttpClient
from playwright.sync_api import Browser, Page, sync_playwright

from sinks.migrate import migrate
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import free_port, fresh_name, http_answers, running, tokentide
from tests.dashboard_market import ALERT, rows_until, write_market, write_windows
from tests.integration.sinks_database import client_at, migrated, rows_of, writer_at

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
    pytest.mark.timeout(180),
]
VIEWS = ("Live", "Trends", "Compare", "Drill down", "Alerts", "Retention", "Prices")
FILLED = ".panel[aria-busy=false]"
WAIT_MS = 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        # Root, as in CI, has no sandbox; the page is ours.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def dashboard(directory: Path, server: Server, database: str) -> Iterator[str]:
    """Serve the dashboard of a database; its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(
        "dashboard",
        tokentide("dashboard", "--port", str(port)),
        directory / "dashboard.out",
        lambda: http_answers(f"{url}/livez"),
        clickhouse_host=server.host,
        clickhouse_port=server.port,
        clickhouse_database=database,
        data_dir=directory,
    ):
        yield url


@pytest.fixture(scope="module")
def market(clickhouse: Server) -> Iterator[HttpClient]:
    with migrated(clickhouse, fresh_name("page")) as client:
        write_market(client)
        yield client


@pytest.fixture(scope="module")
def url(
    tmp_path_factory: pytest.TempPathFactory, clickhouse: Server, market: HttpClient
) -> Iterator[str]:
    with dashboard(tmp_path_factory.mktemp("page"), clickhouse, str(market.database)) as url:
        yield url


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url) as page:
        yield page


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    """The page on a desk; fails for any error in the console, or anything loaded from elsewhere."""
    context = browser.new_context(base_url=url, viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    page.on("console", lambda each: wrong.append(each.text) if each.type == "error" else None)
    page.on("pageerror", lambda each: wrong.append(str(each)))
    page.on("request", lambda each: _is_ours(each.url, url, wrong))
    yield page
    context.close()
    assert not wrong


def _is_ours(asked: str, url: str, wrong: list[str]) -> None:
    if not asked.startswith((url, "data:", "blob:")):
        wrong.append(f"loaded from elsewhere: {asked}")


def test_every_view_is_reached_filled_and_linked(page: Page) -> None:
    """Each from the navigation, with data in every panel; its address shows the same view again."""
    page.goto("/")
    for title in VIEWS:
        page.get_by_role("link", name=title, exact=True).click()
        page.wait_for_selector(FILLED)
        page.wait_for_selector(".panel[aria-busy=true]", state="detached")
        assert not page.locator(".notice.bad").count(), title
        assert page.locator("table, .alert").count(), title
        assert page.get_by_role("link", name=title, exact=True).get_attribute("aria-current")
        heading = page.locator("h1").inner_text()
        page.goto(page.url)
        page.wait_for_selector(FILLED)
        assert page.locator("h1").inner_text() == heading
        assert page.title().startswith(title)
    page.go_back()
    page.wait_for_selector(FILLED)


def test_a_choice_is_in_the_link_and_back_undoes_it(page: Page) -> None:
    """What is chosen changes the address and the answer; a shared link has it, Back takes it back."""
    page.goto("/")
    page.wait_for_selector("td.name")
    page.get_by_role("combobox", name="Share of").select_option("model")
    page.get_by_text("tiger/72b").first.wait_for()
    page.get_by_role("combobox", name="Measure").select_option("requests")
    page.get_by_text("share of requests").first.wait_for()
    assert parse_qs(urlsplit(page.url).query) == {"by": ["model"], "measure": ["requests"]}
    page.goto(page.url)
    page.get_by_text("share of requests").first.wait_for()
    assert page.get_by_role("combobox", name="Share of").input_value() == "model"
    page.go_back()
    page.get_by_text("share of tokens").first.wait_for()


def test_an_empty_database_then_a_first_window(
    clickhouse: Server, browser: Browser, tmp_path: Path
) -> None:
    """Before the first window the page says so; then the window comes without a reload."""
    with (
        migrated(clickhouse, fresh_name("empty")) as client,
        dashboard(tmp_path, clickhouse, str(client.database)) as url,
        opened(browser, url) as page,
    ):
        for title in VIEWS:
            page.goto(url)
            page.get_by_role("link", name=title, exact=True).click()
            page.wait_for_selector(FILLED)
            page.wait_for_selector(".panel[aria-busy=true]", state="detached")
            assert page.locator(".notice").count(), title
            assert not page.locator(".notice.bad").count(), title
            # Nothing is not zero.
            assert not page.get_by_text("0.0 %").count(), title
        page.get_by_text("No events yet").wait_for()
        page.goto(url)
        page.get_by_text("No window has been given out yet").wait_for()
        now = datetime.now(UTC)
        write_windows(client, rows_until(now), now)
        page.locator("td.name", has_text="tiger").first.wait_for()
        page.locator(".figures dd").first.wait_for()


def test_the_sql_behind_a_chart_can_be_asked_again(page: Page, market: HttpClient) -> None:
    """One click shows it, ready to run; Escape closes it and the keyboard is where it was."""
    page.goto("/?view=trends&by=vendor&period=1h")
    page.wait_for_selector(FILLED)
    button = page.get_by_role("button", name=re.compile("SQL behind: Vendor by tokens"))
    button.click()
    sql = page.locator("dialog code").inner_text()
    assert {"acme", "tiger"} <= {row["value"] for row in rows_of(market, sql)}
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert button.evaluate("button => button === document.activeElement")


def test_from_a_vendor_to_a_region(page: Page, market: HttpClient) -> None:
    """Vendor, model, app, region: one click each; the numbers are those of the requests."""
    page.goto("/")
    page.get_by_role("link", name="tiger", exact=True).click()
    page.get_by_role("link", name="tiger/72b").click()
    page.get_by_role("link", name="app-3").click()
    page.get_by_role("link", name="eu", exact=True).click()
    page.get_by_text("Region: eu").wait_for()
    panel = page.get_by_role("region", name="Providers")
    panel.locator("td.name").first.wait_for()
    shown = set(panel.locator("td.name").all_inner_texts())
    rows = rows_of(
        market,
        "SELECT DISTINCT provider FROM usage_events WHERE model = 'tiger/72b' AND app_id = 'app-3'"
        " AND region = 'eu' AND occurred_at > now() - 3600",
    )
    assert shown == {row["provider"] for row in rows}


def test_an_alert_is_explained(page: Page) -> None:
    """Its sentence, what drove it, and the picture of the evidence."""
    page.goto(f"/?view=alerts&alert={ALERT}")
    page.get_by_role("region", name="Why").get_by_text("Vendor openai fell").first.wait_for()
    page.get_by_text("By region").wait_for()
    picture = page.locator("img.evidence")
    page.wait_for_function("() => document.querySelector('img.evidence')?.naturalWidth > 0")
    assert "Vendor openai fell" in (picture.get_attribute("alt") or "")


def test_by_keyboard_alone(page: Page) -> None:
    """Skip link, navigation, a choice, the SQL: in the order in which they stand."""
    page.goto("/")
    page.wait_for_selector("td.name")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Compare"
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Compare two periods").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_and_telephones(
    browser: Browser, url: str, scheme: Literal["light", "dark"]
) -> None:
    """As the system says until somebody chooses; on a narrow screen nothing but tables scrolls sideways."""
    context = browser.new_context(
        base_url=url,
        viewport={"width": 360, "height": 740},
        color_scheme=scheme,
        has_touch=True,
    )
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    for query in ("", "?view=trends", "?view=compare", "?view=drill", "?view=prices"):
        page.goto(f"/{query}")
        page.wait_for_selector(FILLED)
        page.wait_for_selector(".panel[aria-busy=true]", state="detached")
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, query
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    page.get_by_role("button", name=re.compile("Use .* colours")).click()
    other = {"light": "dark", "dark": "light"}[scheme]
    assert page.evaluate("document.documentElement.dataset.theme") == other
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == other
    context.close()


def test_a_stopped_clickhouse_is_told_and_waited_for(browser: Browser, tmp_path: Path) -> None:
    """What was shown stays, marked as old; a new page says what is wrong, no zero; it comes back."""
    server = Server("127.0.0.1", free_port(), "writer", "writer-local", "reader", "")
    command = tokentide("clickhouse", "--data-dir", str(tmp_path), "--port", str(server.port))
    ping = f"http://{server.host}:{server.port}/ping"

    @contextmanager
    def engine() -> Iterator[None]:
        with running("clickhouse", command, tmp_path / "engine.out", lambda: http_answers(ping)):
            yield

    with dashboard(tmp_path, server, "stopping") as url:
        page = browser.new_page(base_url=url)
        page.set_default_timeout(WAIT_MS)
        with engine():
            with client_at(writer_at(server)) as client:
                list(migrate(client, "stopping"))
            with client_at(writer_at(server, "stopping")) as client:
                write_market(client)
            page.goto("/")
            page.locator("td.name", has_text="tiger").first.wait_for()
        page.get_by_text("Not current: below is the answer of").first.wait_for()
        assert page.locator("td.name", has_text="tiger").count()
        page.locator("#freshness.broken", has_text="What is shown may be old").wait_for()
        for view in ("trends", "prices", "alerts", "live"):
            page.goto(f"/?view={view}")
            page.get_by_text("This could not be asked.").first.wait_for()
            assert not page.locator("td").count(), view
        with engine():
            page.locator("td.name", has_text="tiger").first.wait_for()
            page.locator("#freshness:not(.broken)").wait_for()
        page.close()
