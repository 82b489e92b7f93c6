"""A worker that follows orders: it dies at a step boundary, or has one guarantee broken.

``python -m tests.chaos.worker`` is ``tokentide worker`` with the orders of ``CHAOS_ORDERS``. Every
boundary is a seam of the real code, wrapped; nothing of the code is replaced unless a breakage says so.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import GroupAuthorizationFailedError

from deploy import worker
from deploy.cli.worker import ENVIRONMENT
from schemas.errors import FatalError, RetryableError
from streams.settings import Settings
from tests.chaos.boundaries import Boundaries, around, watch
from tests.chaos.breakages import break_on_purpose
from tests.chaos.orders import COORDINATOR_FAULT, Orders

CLOCK_POLL_SECONDS = 0.05
METADATA_AGE_MS = 3000


# --- Coordinator errors --------------------------------------------------------------------------


def fail_at_signal() -> None:
    """Let the group coordinator fail once at `COORDINATOR_FAULT`, with an error aiokafka parks."""
    is_asked = threading.Event()
    coordinators: list[Any] = []

    def wrap(original: Any) -> Any:
        async def wrapped(self: Any, *args: Any) -> Any:
            coordinators[:] = [(self, asyncio.get_running_loop())]
            # A commit may ask as well: its error is nobody's to park.
            if is_asked.is_set() and asyncio.current_task() is self._coordination_task:
                is_asked.clear()
                raise GroupAuthorizationFailedError("made up")
            return await original(self, *args)

        return wrapped

    def handle(*_: Any) -> None:
        is_asked.set()
        for coordinator, loop in coordinators:
            loop.call_soon_threadsafe(coordinator.request_rejoin)

    around(GroupCoordinator, "ensure_coordinator_known", wrap)
    signal.signal(COORDINATOR_FAULT, handle)


def ask_for_partitions_often() -> None:
    """Let the consumer look for new partitions every few seconds."""

    def wrap(original: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            app = original(*args)
            app.conf.consumer_metadata_max_age_ms = METADATA_AGE_MS
            return app

        return wrapped

    around(worker, "create_app", wrap)


# --- The clock, and the process ------------------------------------------------------------------


def bend_clock(file: Path) -> None:
    """Add the seconds that ``file`` holds to the wall clock of this process, whenever they change."""
    offset_seconds = [0.0]
    plain, plain_ns = time.time, time.time_ns
    time.time = lambda: plain() + offset_seconds[0]
    time.time_ns = lambda: plain_ns() + int(offset_seconds[0] * 1e9)

    def follow() -> None:
        while True:
            try:
                offset_seconds[0] = float(file.read_text() or 0)
            except (OSError, ValueError):
                offset_seconds[0] = 0.0
            time.sleep(CLOCK_POLL_SECONDS)

    threading.Thread(target=follow, daemon=True).start()


def main() -> int:
    """Run a worker; return its exit code."""
    orders = Orders.load()
    if orders.clock != Path(os.devnull):
        bend_clock(orders.clock)
    if orders.breakage:
        break_on_purpose(orders.breakage)
    watch(Boundaries(orders))
    fail_at_signal()
    ask_for_partitions_often()
    try:
        worker.run(Settings.load())
    except (FatalError, RetryableError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, "-m", "tests.chaos.worker"])
    sys.exit(main())
