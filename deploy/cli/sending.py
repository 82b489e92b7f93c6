"""What `simulate` and `replay` share: signals, a progress bar, blocks to Kafka and to a file."""

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.local.simulator.blocks import Block
from deploy.local.simulator.publisher import Publisher
from deploy.local.simulator.records_file import RecordsFile
from deploy.local.simulator.truth import Truth
from schemas.errors import ConfigurationError


def now_ms() -> int:
    """Return the wall clock, epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Meter:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, title: str, total: int | None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f} events/s"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._progress.add_task(title, total=total, rate=0.0)
        self._started = time.monotonic()
        self._sent = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def advance(self, records: int) -> None:
        self._sent += records
        rate = self._sent / max(time.monotonic() - self._started, 1e-3)
        self._progress.update(self._task, advance=records, rate=rate)


async def send_blocks(
    blocks: Iterator[Block],
    *,
    publisher: Publisher | None,
    out: RecordsFile | None,
    truth: Truth,
    stop: threading.Event,
    advance: Callable[[int], None],
) -> bool:
    """Send every block, making the next one meanwhile; return whether all were sent.

    Raises:
        SinkUnavailableError: If Kafka did not acknowledge.
        FatalError: If the file cannot be written.
    """
    making = asyncio.create_task(asyncio.to_thread(next, blocks, None))
    try:
        while (block := await making) is not None and not stop.is_set():
            making = asyncio.create_task(asyncio.to_thread(next, blocks, None))
            truth.add(block)
            if out is not None:
                out.write(block.values)
            if publisher is not None:
                await publisher.send(block.values, block.keys, block.key_hashes)
            advance(len(block.values))
        if publisher is not None:
            await publisher.flush()
        return block is None
    finally:
        await making


def run_until_stopped(work: Callable[[threading.Event], Awaitable[None]]) -> None:
    """Run ``work``; SIGINT and SIGTERM set its event, and it ends in its own time."""

    async def main() -> None:
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, stop.set)
        await work(stop)

    asyncio.run(main())


def print_json(content: dict[str, Any]) -> None:
    """Print one line of JSON on stdout, for scripts."""
    click.echo(orjson.dumps(content))


def check_directory(file: Path | None) -> None:
    """Refuse a file in a directory that is not there, before hours of work.

    Raises:
        ConfigurationError: If the directory does not exist.
    """
    if file is not None and not file.absolute().parent.is_dir():
        raise ConfigurationError(f"no directory {file.parent}: create it first")
