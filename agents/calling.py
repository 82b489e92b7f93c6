"""Calls of ClickHouse in a thread, while a partition is ours and for as long as ClickHouse is away."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog
from prometheus_client import Counter

from schemas.errors import SinkUnavailableError
from streams.health import Progress

log = structlog.get_logger()

RETRIES = Counter("tokentide_sink_retries", "Calls repeated because ClickHouse was away.")

RETRY_WAIT_SECONDS_MIN = 0.25

Result = TypeVar("Result")
Confirmed = Callable[[], Awaitable[None]]
"""Raises PartitionLostError when the partition has another owner."""


class Call(Protocol):
    """A call of ClickHouse that returns when ClickHouse has answered."""

    async def __call__(
        self, function: Callable[..., Result], *arguments: object, **named: object
    ) -> Result: ...


async def in_thread(
    executor: Executor, function: Callable[..., Result], *arguments: object
) -> Result:
    """Return what a function returns, called in a thread."""
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


@dataclass(frozen=True)
class Caller:
    """Calls ClickHouse again and again while it is away.

    Attributes:
        retry_wait_seconds_max: Longest pause between two tries.
        progress: Where it is told that ClickHouse is away.
    """

    retry_wait_seconds_max: float
    progress: Progress

    async def call(
        self,
        executor: Executor,
        confirm: Confirmed,
        function: Callable[..., Result],
        *arguments: object,
        **named: object,
    ) -> Result:
        """Return what a function returns, called in a thread once ``confirm`` allows it.

        Raises:
            PartitionLostError: The partition has another owner.
            FatalError: A person is needed.
        """
        wait_seconds = RETRY_WAIT_SECONDS_MIN
        while True:
            await confirm()
            try:
                result = await in_thread(executor, lambda: function(*arguments, **named))
            except SinkUnavailableError as error:
                self.progress.sink_error = str(error)
                RETRIES.inc()
                log.warning("sink.failed", error=str(error), retry_seconds=wait_seconds)
                await asyncio.sleep(wait_seconds * random.uniform(0.75, 1.25))
                wait_seconds = min(wait_seconds * 2, self.retry_wait_seconds_max)
            else:
                self.progress.sink_error = ""
                return result
