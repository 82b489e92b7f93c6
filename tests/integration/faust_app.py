"""A Faust app on our transport inside a test: started, fed and stopped in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streams.app import create_app
from streams.settings import Settings
from streams.transport import App, Fetched

WAIT_SECONDS = 30.0


def test_settings(kafka_bootstrap: str, group: str, directory: Path, **changes: Any) -> Settings:
    """Return settings for one app in a group of its own."""
    return Settings(
        kafka_bootstrap_servers=kafka_bootstrap,
        consumer_group=group,
        data_dir=directory,
        **changes,
    )


@asynccontextmanager
async def running(app: App) -> AsyncIterator[App]:
    """Start an app without its web server, and stop it at the end."""
    app.conf.web_enabled = False
    app.finalize()
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def add_reader(app: App, topic: str, handle: Callable[[Fetched], Awaitable[None]]) -> None:
    """Add an agent that calls ``handle`` with every fetch."""
    channel = app.fetches(topic, waiting_max=8)

    @app.agent(channel, name=f"read-{topic}")  # type: ignore[untyped-decorator]
    async def read(stream: Any) -> None:
        async for fetched in stream:
            await handle(fetched)


async def until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait for a condition; fail the test with ``what`` if it does not come."""
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


__all__ = ["add_reader", "create_app", "running", "test_settings", "until"]
