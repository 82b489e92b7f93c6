"""What `simulate` and `replay` share: signals, a progress bar, blocks to Kafka and to a file."""

import asyncio
import contextlib
import functools
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.cli.stack import data_dir_option, settings_for
from deploy.local.simulator.blocks import Block
from deploy.local.simulator.publisher import COMPRESSIONS, Publisher
from deploy.local.simulator.records_file import RecordsFile
from deploy.local.simulator.truth import Truth, write_json
from schemas.errors import ConfigurationError
from schemas.topics import USAGE_TOPIC

JsonObject = dict[str, Any]


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


@dataclass(frozen=True)
class Sending:
    """Where events go, Kafka or a file or both, and the account of them."""

    publisher: Publisher | None
    out: RecordsFile | None
    truth: Truth
    stop: threading.Event

    async def send(self, blocks: Iterator[Block], title: str, total: int | None) -> bool:
        """Send every block, making the next one meanwhile; return whether all were sent.

        Raises:
            SinkUnavailableError: If Kafka did not acknowledge.
            FatalError: If the file cannot be written.
        """
        making = asyncio.create_task(asyncio.to_thread(next, blocks, None))
        try:
            with Meter(title, total) as meter:
                while (block := await making) is not None and not self.stop.is_set():
                    making = asyncio.create_task(asyncio.to_thread(next, blocks, None))
                    await self.send_one(block)
                    meter.advance(len(block.values))
            await self.flush()
            return block is None and not self.stop.is_set()
        finally:
            await making

    async def send_one(self, block: Block) -> None:
        """Count, write and queue one block."""
        self.truth.add(block)
        if self.out is not None:
            self.out.write(block.values)
        if self.publisher is not None:
            await self.publisher.send(block.values, block.keys, block.key_hashes)

    async def flush(self) -> None:
        """Wait until Kafka has acknowledged what was queued."""
        if self.publisher is not None:
            await self.publisher.flush()


@dataclass(frozen=True)
class Target:
    """The options that say where events go."""

    truth_file: Path | None
    out_file: Path | None
    publisher: Publisher | None

    def run(
        self, work: Callable[[Sending], Awaitable[bool]], names: tuple[str, ...], about: JsonObject
    ) -> None:
        """Run ``work`` until it ends or SIGINT or SIGTERM asks it to; then account for it.

        Args:
            work: Returns whether everything was sent. Ends in its own time after ``stop`` is set.
            names: Model names by row, for the truth.
            about: What is sent; starts the truth file and the line printed at the end.
        """
        truth = Truth(names)
        started_ms = now_ms()
        complete = False

        async def main() -> bool:
            stop = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            async with contextlib.AsyncExitStack() as stack:
                out = RecordsFile(self.out_file) if self.out_file else None
                if out is not None:
                    stack.enter_context(out)
                if self.publisher is not None:
                    await stack.enter_async_context(self.publisher)
                return await work(Sending(self.publisher, out, truth, stop))

        try:
            complete = asyncio.run(main())
        finally:
            acknowledged = self.publisher.acknowledged if self.publisher else 0
            report = {**about, "complete": complete, "acknowledged": acknowledged}
            report |= truth.report()
            if self.truth_file is not None:
                write_json(self.truth_file, report)
        seconds = (now_ms() - started_ms) / 1000
        click.echo(orjson.dumps(_without_details(report) | {"seconds": seconds}))


def target_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a ``Target``, which the command gets as ``target``."""
    file = click.Path(path_type=Path, dir_okay=False)

    @data_dir_option
    @click.option(
        "--compression",
        type=click.Choice(COMPRESSIONS),
        default=COMPRESSIONS[0],
        show_default=True,
        help="Of the record batches; kafka-python reads zstd only with zstandard installed.",
    )
    @click.option("--no-publish", is_flag=True, help="Send nothing to Kafka.")
    @click.option("--out", type=file, help="Also write every record, one per line.")
    @click.option("--truth", type=file, help="Write exact counts and sums (JSON).")
    @functools.wraps(command)
    def with_target(
        truth: Path | None,
        out: Path | None,
        no_publish: bool,
        compression: str,
        data_dir: Path | None,
        **others: Any,
    ) -> None:
        _check_directory(truth)
        _check_directory(out)
        publisher = None
        if not no_publish:
            servers = settings_for(data_dir).kafka_bootstrap_servers
            publisher = Publisher(servers, USAGE_TOPIC, compression=compression)
        command(target=Target(truth, out, publisher), **others)

    return with_target


def _without_details(report: JsonObject) -> JsonObject:
    """Return the report short enough for a line."""
    return {
        name: {key: item for key, item in value.items() if key != "models"}
        if isinstance(value, dict)
        else value
        for name, value in report.items()
        if name != "malformed_by_kind"
    }


def _check_directory(file: Path | None) -> None:
    if file is not None and not file.absolute().parent.is_dir():
        raise ConfigurationError(f"no directory {file.parent}: create it first")
