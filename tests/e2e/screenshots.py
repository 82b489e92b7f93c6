"""Pictures of the dashboard and of a report for the README: ``make screenshots``.

A whole stack, the published days of OpenRouter's ranking as history, live requests after them, and a
real Chromium.
"""

import subprocess
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, ViewportSize, sync_playwright
from rich.console import Console

from tests.conftest import environment, running_stack, stack_addresses, tokentide

OUT = Path(__file__).parents[2] / "deploy" / "dashboard" / "screenshots"
EXAMPLE = (
    Path(__file__).parents[2] / "deploy" / "report" / "examples" / "market-2026" / "report.html"
)
EVENTS_PER_DAY, RATE = 6_000, 300
LIVE_SECONDS = 240
CHROMIUM = "/usr/bin/chromium"
SIZE: ViewportSize = {"width": 1280, "height": 800}
YEAR = "from=2026-05-23T00:00&to=2026-08-22T00:00"
PAGES = {
    "live": ("?view=live", "light"),
    "trends": (f"?view=trends&by=vendor&{YEAR}", "light"),
    "trends-dark": (f"?view=trends&by=origin&{YEAR}", "dark"),
    "prices": ("?view=prices&from=2026-07-25T00:00&to=2026-08-22T00:00", "light"),
    "drill-down": ("?view=drill&vendor=anthropic&period=1h", "dark"),
}


def main() -> None:
    """Take them all."""
    console = Console()
    OUT.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="tokentide-screenshots-") as directory,
        running_stack(Path(directory), "--no-simulator"),
    ):
        command = tokentide(
            "replay", "openrouter-2026", "--live", "--rate", str(RATE),
            "--events-per-day", str(EVENTS_PER_DAY), "--data-dir", directory,
        )  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment()) as market:
            console.print(f"watching live traffic for {LIVE_SECONDS} s")
            time.sleep(LIVE_SECONDS)
            url = stack_addresses(Path(directory))["dashboard"]
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                for name, (query, scheme) in PAGES.items():
                    take(browser, f"{url}/{query}", name, scheme)
                    console.print(f"{name}.png")
                take(browser, EXAMPLE.as_uri(), "report", "light")
                browser.close()
            market.terminate()


def take(browser: Browser, url: str, name: str, scheme: str) -> None:
    """Write a picture of a page once its panels are filled."""
    context = browser.new_context(
        viewport=SIZE, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector(".panel[aria-busy=true]", state="detached", timeout=30_000)
    page.wait_for_timeout(1_500)
    page.screenshot(path=OUT / f"{name}.png")
    context.close()


if __name__ == "__main__":
    main()
