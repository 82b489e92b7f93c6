"""A worker put together: the app, the agent and what they need."""

import asyncio
import dataclasses
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
import uvloop
from clickhouse_connect.driver.httpclient import HttpClient
from faust.types import TP
from faust.worker import Worker

from agents import store_usage
from agents.follow_catalogue import CatalogueFollower
from agents.reconcile import BackgroundReconciler
from deploy.addresses import writer_address
from deploy.self_check.all_checks import require_safe
from schemas.catalogue import Catalogue
from schemas.errors import FatalError, RetryableError
from sinks import clickhouse
from sinks.stored_events import StoredEvents
from sinks.usage_events import UsageEventWriter
from streams import logs
from streams.app import add_health_pages, create_app
from streams.dead_letters import DeadLetters
from streams.health import Progress
from streams.partitions import Limits, PartitionLoop, PartitionLoops
from streams.record_batches import App
from streams.settings import Settings
from streams.topic_offsets import UsageLog

log = structlog.get_logger()

PREPARING_THREADS = 2
INSERTING_THREADS = 4


def run(settings: Settings) -> None:
    """Run a worker in this process until it is told to stop.

    Raises:
        FatalError: A person is needed; the message says for what.
        RetryableError: ClickHouse or Kafka does not answer at the start.
    """
    logs.configure(settings.log_level)
    _check_port(settings.worker_host, settings.worker_port)
    # The database is named with each insert: one that is missing is told by its missing migrations.
    client = clickhouse.connect(dataclasses.replace(writer_address(settings), database="default"))
    require_safe(settings, client)
    uvloop.install()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    app = create_app(settings)
    causes: list[BaseException] = []

    async def crash(error: BaseException) -> None:
        # What follows from a crash crashes too: the first one is the cause.
        causes.append(error)
        await app.crash(error)

    _add_agents(app, settings, client, crash)
    process = _Worker(app, quiet=True, override_logging=False, redirect_stdouts=False, loop=loop)
    process.spinner = None  # It writes terminal codes into the log.
    log.info("worker.started", group=settings.consumer_group, port=settings.worker_port)
    try:
        process.execute_from_commandline()
    except SystemExit as stop:
        cause = causes[0] if causes else process.crash_reason
        if isinstance(cause, FatalError | RetryableError):
            raise cause from None
        if stop.code:
            raise FatalError(
                f"worker stopped by what nobody foresaw: {cause!r}; see its log"
            ) from cause
    log.info("worker.stopped")


class _Worker(Worker):  # type: ignore[misc]
    """Faust's worker, which a second signal ends at once: what is in flight is declared."""

    def _schedule_shutdown(self, number: signal.Signals) -> None:
        if self._signal_stop_time:
            log.warning("worker.aborted", signal=number.name)
            os._exit(1)
        log.info("worker.stopping", signal=number.name)
        super()._schedule_shutdown(number)


def _add_agents(
    app: App,
    settings: Settings,
    client: HttpClient,
    crash: Callable[[BaseException], Awaitable[None]],
) -> None:
    progress = Progress(settings.stall_seconds)
    follower = CatalogueFollower(settings.kafka_bootstrap_servers)
    dead_letters = DeadLetters(settings.kafka_bootstrap_servers, settings.consumer_group)
    is_loaded = asyncio.Event()

    async def catalogue() -> Catalogue:
        await is_loaded.wait()
        return follower.current

    parts = store_usage.Parts(
        catalogue=catalogue,
        writer=UsageEventWriter(client, settings.clickhouse_database),
        stored=StoredEvents(client, settings.clickhouse_database),
        dead_letters=dead_letters,
        preparing=ThreadPoolExecutor(PREPARING_THREADS, "prepare"),
        inserting=ThreadPoolExecutor(INSERTING_THREADS, "insert"),
        progress=progress,
        retry_wait_seconds_max=settings.retry_wait_seconds_max,
        duplicate_window_ms=settings.duplicate_window_seconds * 1000,
        seen_ids_max=settings.seen_ids_max,
        bad_records_ratio_max=settings.bad_records_ratio_max,
    )
    limits = Limits(
        settings.batch_rows_max, settings.batch_bytes_max, int(settings.batch_wait_seconds * 1000)
    )

    def new_loop(tp: TP) -> PartitionLoop:
        store = store_usage.UsageStore(tp.partition, parts).store
        return PartitionLoop(
            tp, consumer=app.consumer, store=store, limits=limits, progress=progress
        )

    loops = PartitionLoops(new_loop, crash, progress)
    store_usage.register(app, loops)

    def faults() -> list[str]:
        found = [] if is_loaded.is_set() else ["the model catalogue is not loaded yet"]
        if app.rebalancing or not app.consumer:
            return [*found, "waiting for partitions", *progress.faults()]
        silent_seconds = app.consumer.silent_seconds()
        if silent_seconds > settings.stall_seconds:
            found.append(f"kafka: no answer for {silent_seconds:.0f} s")
        return found + progress.faults()

    add_health_pages(app, faults)

    @app.task  # type: ignore[untyped-decorator]
    async def follow_catalogue() -> None:
        """Load the catalogue, then follow it."""
        try:
            await follower.start()
            is_loaded.set()
            await follower.run()
        except (FatalError, RetryableError) as error:
            await crash(error)
        finally:
            await follower.stop()

    background = BackgroundReconciler(
        connect=lambda: clickhouse.connect(writer_address(settings)),
        open_log=lambda: UsageLog(settings.kafka_bootstrap_servers, settings.consumer_group),
        database=settings.clickhouse_database,
        window_seconds=settings.duplicate_window_seconds,
        interval_seconds=settings.reconcile_interval_seconds,
        is_mine=lambda: 0 in progress.partitions,
    )

    @app.task  # type: ignore[untyped-decorator]
    async def reconcile() -> None:
        """Check the books in the worker of the first partition."""
        await background.run()

    @app.on_partitions_revoked.connect  # type: ignore[untyped-decorator]
    async def end_loops(*_: Any, **__: Any) -> None:
        await loops.stop()
        await dead_letters.release()

    @app.on_before_shutdown.connect  # type: ignore[untyped-decorator]
    async def shut_down(*_: Any, **__: Any) -> None:
        await loops.stop()
        await dead_letters.release()


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise FatalError(
                f"worker can't listen on {host}:{port}: {error.strerror}; set TOKENTIDE_WORKER_PORT"
            ) from None
