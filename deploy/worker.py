"""A worker put together: the app, the agent and what they need."""

import asyncio
import dataclasses
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import structlog
import uvloop
from clickhouse_connect.driver.httpclient import HttpClient
from faust.types import TP
from faust.worker import Worker

from agents import roll_windows, store_usage, window_parts
from agents.follow_catalogue import CatalogueFollower
from agents.reconcile_in_background import BackgroundReconciler
from deploy.addresses import writer_address
from deploy.alerting import add_alerting
from deploy.self_check.all_checks import require_safe
from schemas.catalogue import Catalogue, origin
from schemas.errors import FatalError, RetryableError
from schemas.topics import PANES_TOPIC, SHARES_TOPIC
from sinks import clickhouse, share_progress
from sinks.lost_blocks import LostBlocks
from sinks.pane_counts import PaneCounts
from sinks.share_panes import SharePanes
from sinks.share_progress import ShareProgress
from sinks.share_windows import ShareWindows
from sinks.stored_events import StoredEvents
from sinks.usage_events import UsageEventWriter
from streams import logs, panes
from streams.app import add_health_pages, create_app
from streams.dead_letters import DeadLetters
from streams.decoding import decode
from streams.detection import Relations
from streams.health import PANES_LAG, Progress
from streams.held import HeldBytes
from streams.pane_topic import PaneTopic, tell_idle
from streams.partitions import DERIVED_METER, Limits, PartitionLoop, PartitionLoops
from streams.publishing import Publisher
from streams.settings import Settings
from streams.sorted_ids import Ids
from streams.splitting import lines_of
from streams.text_hashes import text_hashes
from streams.topic_offsets import UsageLog
from streams.transport import App

log = structlog.get_logger()

PREPARING_THREADS = 2
INSERTING_THREADS = 4
WINDOW_THREADS = 2
PANE_RECORDS_MAX = 100
PANE_WAIT_MS = 500
"""Panes that arrive within this time are added together."""
ONE_RECORD = b"\x0e\0\0\0\x01\x02x\0"
"""One of Kafka's records, the value "x"."""
SILENT_SECONDS_MAX = 5.0
"""Without an answer of the broker for so long nobody knows whether a partition is idle."""


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
    # Takes seconds at the first start on a machine: not while a group waits for a heartbeat.
    load_compiled()
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


def load_compiled() -> None:
    """Compile the loops over bytes, or load what was compiled before."""
    lines_of(ONE_RECORD, 1, 0)
    decode(())
    text_hashes(pa.array([""]), np.zeros(1, dtype=np.uint64))
    Ids.none().merged(Ids.none())
    panes.load_compiled()


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
    preparing = ThreadPoolExecutor(PREPARING_THREADS, "prepare")
    pane_publisher = Publisher(settings.kafka_bootstrap_servers, PANES_TOPIC)
    pane_topic = PaneTopic(
        pane_publisher,
        preparing,
        tokens_cap=settings.tokens_cap,
        grace_ms=settings.late_grace_seconds * 1000,
    )
    is_loaded = asyncio.Event()

    async def catalogue() -> Catalogue:
        await is_loaded.wait()
        return follower.current

    parts = store_usage.Parts(
        catalogue=catalogue,
        writer=UsageEventWriter(client, settings.clickhouse_database),
        stored=StoredEvents(client, settings.clickhouse_database),
        lost=LostBlocks(client, settings.clickhouse_database),
        dead_letters=dead_letters,
        panes=pane_topic,
        preparing=preparing,
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
    held = HeldBytes(settings.held_bytes_max)

    def new_loop(tp: TP) -> PartitionLoop:
        store = store_usage.UsageStore(tp.partition, parts).store
        return PartitionLoop(
            tp, consumer=app.consumer, store=store, limits=limits, progress=progress, held=held
        )

    loops = PartitionLoops(new_loop, crash, progress)
    store_usage.register(app, loops)
    window_loops, windows_progress, share_publisher = _add_windows(app, settings, client, crash)
    relations = _relations(lambda: follower.current)
    alerting = add_alerting(app, settings, client, crash, relations)
    all_loops = (loops, window_loops, alerting.loops)

    def faults() -> list[str]:
        found = [] if is_loaded.is_set() else ["the model catalogue is not loaded yet"]
        if app.rebalancing or not app.consumer:
            return [*found, "waiting for partitions", *progress.faults()]
        silent_seconds = app.consumer.silent_seconds()
        if silent_seconds > settings.stall_seconds:
            found.append(f"kafka: no answer for {silent_seconds:.0f} s")
        return found + progress.faults() + windows_progress.faults() + alerting.faults()

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

    def is_connected() -> bool:
        consumer = app.consumer
        return bool(consumer) and consumer.silent_seconds() < SILENT_SECONDS_MAX

    @app.task  # type: ignore[untyped-decorator]
    async def tell_of_idle_partitions() -> None:
        """Let windows close while nothing is published."""
        await tell_idle(pane_topic, progress, is_connected)

    @app.task  # type: ignore[untyped-decorator]
    async def reconcile() -> None:
        """Check the books in the worker of the first partition."""
        await background.run()

    @app.on_partitions_revoked.connect  # type: ignore[untyped-decorator]
    async def end_loops(*_: Any, **__: Any) -> None:
        await asyncio.gather(*(each.stop() for each in all_loops))
        await dead_letters.release()
        await alerting.release()

    @app.on_before_shutdown.connect  # type: ignore[untyped-decorator]
    async def shut_down(*_: Any, **__: Any) -> None:
        await asyncio.gather(*(each.stop() for each in all_loops))
        await dead_letters.release()
        await alerting.release()
        await pane_publisher.stop()
        await share_publisher.stop()


def _relations(current: Callable[[], Catalogue]) -> Relations:
    def vendor_of_model(model: str) -> str:
        found = current().models.get(model)
        return (found.vendor if found else None) or ""

    def origins_of_vendor(vendor: str) -> set[str]:
        return {origin(model) for model in current().models.values() if model.vendor == vendor}

    return Relations(vendor_of_model, origins_of_vendor)


def _add_windows(
    app: App,
    settings: Settings,
    client: HttpClient,
    crash: Callable[[BaseException], Awaitable[None]],
) -> tuple[PartitionLoops, Progress, Publisher]:
    """Add the agent that rolls windows."""
    progress = Progress(settings.stall_seconds, lag=PANES_LAG)
    publisher = Publisher(settings.kafka_bootstrap_servers, SHARES_TOPIC)

    def settled() -> Mapping[int, int]:
        with UsageLog(settings.kafka_bootstrap_servers, settings.consumer_group) as usage:
            return {**usage.begins(), **usage.committed()}

    async def settled_in_thread() -> Mapping[int, int]:
        return await asyncio.to_thread(settled)

    database = settings.clickhouse_database
    parts = window_parts.Parts(
        panes=PaneCounts(
            client, database, settings.tokens_cap, settings.clickhouse_request_timeout_seconds
        ),
        stored=SharePanes(client, database),
        panes_noted=ShareProgress(client, database, share_progress.PANES_TABLE),
        sink=ShareWindows(client, database),
        windows_noted=ShareProgress(client, database, share_progress.WINDOWS_TABLE),
        publisher=publisher,
        settled=settled_in_thread,
        executor=ThreadPoolExecutor(WINDOW_THREADS, "windows"),
        progress=progress,
        rules=window_parts.Rules(
            top=settings.windows_top,
            lateness_ms=int(settings.allowed_lateness_seconds * 1000),
            stalled_seconds=settings.stalled_partition_seconds,
            revision_wait_seconds=settings.revision_wait_seconds,
            grace_ms=settings.late_grace_seconds * 1000,
        ),
        retry_wait_seconds_max=settings.retry_wait_seconds_max,
    )
    limits = Limits(PANE_RECORDS_MAX, settings.batch_bytes_max, PANE_WAIT_MS)
    held = HeldBytes(settings.held_bytes_max)

    def new_loop(tp: TP) -> PartitionLoop:
        return PartitionLoop(
            tp,
            consumer=app.consumer,
            store=roll_windows.WindowRoller(tp.partition, parts).store,
            limits=limits,
            progress=progress,
            held=held,
            meter=DERIVED_METER,
        )

    loops = PartitionLoops(new_loop, crash, progress)
    roll_windows.register(app, loops)
    return loops, progress, publisher


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise FatalError(
                f"worker can't listen on {host}:{port}: {error.strerror}; set TOKENTIDE_WORKER_PORT"
            ) from None
