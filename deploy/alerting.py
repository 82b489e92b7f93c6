"""The part of a worker that watches shares: detection and delivery put together."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson
from clickhouse_connect.driver.httpclient import HttpClient
from faust.types import TP

from agents import detect_share_changes, detection_parts
from agents.deliver_alerts import AlertDelivery, Receiver
from agents.rule_file import RuleFile
from schemas.errors import ConfigurationError, FatalError, RetryableError
from schemas.panes import DIMENSIONS
from schemas.topics import SHARES_TOPIC
from sinks.alertmanager import Alertmanager
from sinks.explaining import Explainer
from sinks.share_alerts import ShareAlerts
from sinks.share_bins import ShareBins
from sinks.webhook import Webhook
from streams.alert_topic import AlertTopic
from streams.detection import MarketDetector, Parameters, Relations, Transition
from streams.health import SHARES_LAG, Progress
from streams.held import HeldBytes
from streams.partitions import DERIVED_METER, Limits, PartitionLoop, PartitionLoops
from streams.settings import Settings
from streams.transport import App

SHARES = TP(SHARES_TOPIC, 0)
THREADS = 2
WINDOW_RECORDS_MAX = 1000
WINDOW_WAIT_MS = 200
"""Windows of one moment come together: they are judged together after so long."""


@dataclass(frozen=True)
class Alerting:
    """What a worker does with it.

    Attributes:
        faults: Why the worker is not ready for its part of alerting.
        release: Disconnects; called when partitions are taken away.
    """

    loops: PartitionLoops
    faults: Callable[[], list[str]]
    release: Callable[[], Awaitable[None]]


def add_alerting(
    app: App,
    settings: Settings,
    client: HttpClient,
    crash: Callable[[BaseException], Awaitable[None]],
    relations: Relations,
) -> Alerting:
    """Add the agents that detect share changes and deliver alerts.

    Args:
        relations: What belongs to what, by the catalogue of the moment.

    Raises:
        ConfigurationError: A setting or a file of it can't be used.
    """
    progress = Progress(settings.stall_seconds, lag=SHARES_LAG)
    rules = RuleFile(settings.alert_rules_file)
    rules.load()
    topic = AlertTopic(settings.kafka_bootstrap_servers)
    alerts = ShareAlerts(client, settings.clickhouse_database)
    delivery = AlertDelivery(
        alerts=alerts,
        receivers=[(topic, False), *((webhook, True) for webhook in webhooks(settings))],
        state_receivers=[Alertmanager(url) for url in settings.alertmanagers],
        is_mine=lambda: is_assigned(app, SHARES),
        max_age_seconds=settings.alerts_max_age_seconds,
        resend_seconds=settings.alerts_resend_seconds,
    )
    parts = _parts(settings, client, rules, relations, progress, delivery.wake)
    limits = Limits(WINDOW_RECORDS_MAX, settings.batch_bytes_max, WINDOW_WAIT_MS)
    held = HeldBytes(settings.held_bytes_max)

    owned: list[detect_share_changes.ShareChanges] = []

    def new_loop(tp: TP) -> PartitionLoop:
        owned[:] = [detect_share_changes.ShareChanges(parts)]
        return PartitionLoop(
            tp,
            consumer=app.consumer,
            store=owned[0].store,
            limits=limits,
            progress=progress,
            held=held,
            meter=DERIVED_METER,
        )

    loops = PartitionLoops(new_loop, crash, progress)
    detect_share_changes.register(app, loops)

    @app.task  # type: ignore[untyped-decorator]
    async def deliver_alerts() -> None:
        """Deliver what is stored and not delivered."""
        try:
            await delivery.run()
        except* (FatalError, RetryableError) as group:
            await crash(group.exceptions[0])

    @app.task  # type: ignore[untyped-decorator]
    async def tell_silence() -> None:
        """Let the detector know when no windows come."""
        while True:
            await asyncio.sleep(detect_share_changes.SILENCE_POLL_SECONDS)
            if not is_assigned(app, SHARES):
                continue
            if not owned:
                owned.append(detect_share_changes.ShareChanges(parts))
            try:
                await owned[0].tell_silence(time.time_ns() // 1_000_000)
            except FatalError as error:
                await crash(error)

    async def release() -> None:
        owned.clear()
        await topic.release()

    return Alerting(loops, progress.faults, release)


def is_assigned(app: App, tp: TP) -> bool:
    """Return whether a partition is this worker's now, read or not."""
    consumer = app.consumer
    if app.rebalancing or not consumer or getattr(consumer._thread, "_consumer", None) is None:
        return False
    return tp in consumer.assignment()


def _parts(
    settings: Settings,
    client: HttpClient,
    rules: RuleFile,
    relations: Relations,
    progress: Progress,
    on_stored: Callable[[], None],
) -> detection_parts.Parts:
    parameters = read_parameters(settings.alert_parameters_file)
    database = settings.clickhouse_database

    def new_detector(open_alerts: Iterable[Transition]) -> MarketDetector:
        return MarketDetector(parameters, relations=relations, open_alerts=open_alerts)

    return detection_parts.Parts(
        new_detector=new_detector,
        parameters=parameters.as_dict(),
        parameters_version=parameters.version,
        dimensions=watched_dimensions(settings),
        history_days=settings.alert_history_days,
        bins=ShareBins(client, database),
        alerts=ShareAlerts(client, database),
        explainer=Explainer(client, database),
        rules=rules,
        executor=ThreadPoolExecutor(THREADS, "alerts"),
        progress=progress,
        retry_wait_seconds_max=settings.retry_wait_seconds_max,
        on_stored=on_stored,
    )


def webhooks(settings: Settings) -> list[Receiver]:
    """Return the webhook that the settings name, if any.

    Raises:
        ConfigurationError: The address or the secret can't be used.
    """
    url = settings.alerts_webhook_url.get_secret_value()
    if not url:
        return []
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(
            "setting TOKENTIDE_ALERTS_WEBHOOK_URL: must begin with http:// or https://"
        )
    return [Webhook(url, settings.alerts_webhook_secret.get_secret_value())]


def watched_dimensions(settings: Settings) -> frozenset[str]:
    """Return the dimensions that are watched.

    Raises:
        ConfigurationError: One of them is none, or there is none at all.
    """
    for name in settings.watched_dimensions:
        if name not in DIMENSIONS:
            raise ConfigurationError(
                f"setting TOKENTIDE_ALERT_DIMENSIONS: {name!r} is none of {', '.join(DIMENSIONS)}"
            )
    if not settings.watched_dimensions:
        raise ConfigurationError("setting TOKENTIDE_ALERT_DIMENSIONS: names no dimension")
    return settings.watched_dimensions


def read_parameters(path: Path | None) -> Parameters:
    """Return the parameters of a file, or the built-in ones.

    Raises:
        ConfigurationError: It can't be read, or is not what ``tokentide alerts calibrate`` writes.
    """
    if path is None:
        return Parameters()
    try:
        content = orjson.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        return Parameters.from_dict(content)
    except OSError as error:
        raise ConfigurationError(f"alert parameters {path}: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"alert parameters {path}: {error}; write it with: tokentide alerts calibrate"
        ) from None
