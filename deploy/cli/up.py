"""``tokentide up``: all of it on this machine."""

import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from deploy.local.processes import disk_errors_in_one_line, writable_directory
from deploy.local.stack import (
    Wishes,
    addresses,
    choose_ports,
    only_stack,
    parts,
    write_stack_file,
)
from deploy.local.supervisor import Part, Stopped, Supervisor, open_log
from streams.settings import Settings

PORT = click.IntRange(1, 65535)


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Directory for all data and logs [default: $TOKENTIDE_DATA_DIR or .tokentide].",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--headless", is_flag=True, help="No live table: print `ready` and keep running.")
@click.option("--no-simulator", is_flag=True, help="Start without events of our own.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Simulated events per second."
)
@click.option("--kafka-port", type=PORT, help="[default: the last one, 9092, or any free one]")
@click.option("--clickhouse-port", type=PORT, help="[default: the last one, 8123, or any free one]")
@click.option("--dashboard-port", type=PORT, help="[default: the last one, 8050, or any free one]")
@click.option(
    "--worker-port",
    type=PORT,
    help="Port of the first worker's health pages, the others follow [default: the last one, 6066,"
    " or any free one].",
)
def up(
    data_dir: Path | None,
    workers: int,
    headless: bool,
    no_simulator: bool,
    rate: float | None,
    kafka_port: int | None,
    clickhouse_port: int | None,
    dashboard_port: int | None,
    worker_port: int | None,
) -> None:
    """Run everything on this machine: Kafka, ClickHouse, workers, a simulator, a dashboard and a table.

    Needs nothing installed beforehand and listens on the loopback interface only. Ctrl-C (or
    SIGTERM) stops every process; a second one kills them. Start it again on the same directory
    and it goes on where it stopped. What dies meanwhile is started again.

    DIR/stack.json has the addresses and process ids while it runs, DIR/logs/ one log for each
    process and stack.log for restarts.
    """
    directory = writable_directory(data_dir or Settings.load().data_dir)
    wishes = Wishes(
        directory,
        workers,
        not no_simulator,
        rate,
        kafka_port,
        clickhouse_port,
        dashboard_port,
        worker_port,
    )
    signals = Signals()
    interactive = not headless and sys.stdout.isatty()
    logs = writable_directory(directory / "logs")
    with (
        disk_errors_in_one_line(directory),
        only_stack(directory),
        open_log(logs / "stack.log") as log,
    ):
        ports = choose_ports(wishes)
        where = addresses(ports)
        progress = Spinners() if interactive else Lines(quiet=headless)
        supervisor = Supervisor(
            parts(wishes, ports),
            logs,
            log,
            changed=lambda children: write_stack_file(directory, where, children),
            stop_asked=lambda: signals.received,
            progress=progress,
        )
        try:
            with progress:
                supervisor.start()
            if not headless:
                click.echo(f"dashboard: {where['dashboard']}", err=True)
            _run(supervisor, directory, interactive)
        except Stopped:
            pass
        finally:
            supervisor.stop()
    if not headless:
        click.echo(f"stopped; start again with the same command to go on, data in {directory}")


def _run(supervisor: Supervisor, directory: Path, interactive: bool) -> None:
    if not interactive:
        click.echo("ready")
        sys.stdout.flush()
        supervisor.watch(lambda: True)
        return
    from deploy.cli.shares import show_shares
    from deploy.cli.stack import settings_for

    stop = threading.Event()
    with ThreadPoolExecutor(1, "shares") as pool:
        table: Future[None] = pool.submit(show_shares, settings_for(directory), stop)
        try:
            supervisor.watch(lambda: not table.done())
        finally:
            stop.set()
        table.result()


class Signals:
    """Counts the requests to stop: SIGTERM, Ctrl-C, a closed terminal."""

    def __init__(self) -> None:
        self.received = 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._count)

    # A plain number: taking a lock in a signal handler can wait for itself.
    def _count(self, _number: int, _frame: FrameType | None) -> None:
        self.received += 1


class Lines:
    """Progress for scripts: lines on stderr, or none."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def started(self, part: Part) -> None:
        """Say nothing: the line comes when it is ready."""

    def ready(self, part: Part, seconds: float) -> None:
        """Print how long it took."""
        self._print(f"{part.name}: ready after {seconds:.1f} s")

    def stopping(self, names: Sequence[str]) -> None:
        """Print what is stopping."""
        self._print(f"stopping {', '.join(names)}")

    def _print(self, line: str) -> None:
        if not self._quiet:
            click.echo(line, err=True)


class Spinners:
    """Progress for people: a line with the elapsed time for each part."""

    def __init__(self) -> None:
        self._console = Console()
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[hint]}"),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> None:
        self._bars.start()

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def started(self, part: Part) -> None:
        """Show a spinner."""
        self._tasks[part.name] = self._bars.add_task(part.name, total=1, hint=part.hint)

    def ready(self, part: Part, _seconds: float) -> None:
        """Turn the spinner into a tick."""
        self._bars.update(self._tasks[part.name], completed=1, hint="")

    def stopping(self, names: Sequence[str]) -> None:
        """Print what is stopping."""
        self._console.print(f"[dim]stopping {', '.join(names)}")
