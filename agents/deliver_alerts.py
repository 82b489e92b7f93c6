"""Deliver stored alerts: to the alert topic, a webhook and Alertmanagers.

Guarantee, from ``share_alerts`` to the topic and the webhook: at least once and in order, each
transition under a key of its own; what was delivered is in ``share_alert_deliveries``. Alertmanagers
are told what is, every minute. Each receiver has a task of its own, so one that is down costs retries
and delays no other, and detection never waits for any.
"""

import asyncio
import random
import time
from collections import Counter as Counts
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog
from prometheus_client import Counter, Gauge

from schemas.errors import RetryableError
from schemas.share_alert import ShareAlert
from sinks.share_alerts import Delivery
from sinks.webhook import RefusedError

log = structlog.get_logger()

DELIVERED = Counter("tokentide_alerts_delivered", "Transitions delivered.", ["receiver"])
FAILED = Counter("tokentide_alert_deliveries_failed", "Tries that failed.", ["receiver"])
WAITING = Gauge(
    "tokentide_alert_deliveries_waiting", "Transitions that a receiver does not have.", ["receiver"]
)

POLL_SECONDS = 15.0
"""Undelivered transitions are looked for so often, and at once when one was stored."""
RETRY_WAIT_SECONDS_MIN = 0.5
RETRY_WAIT_SECONDS_MAX = 60.0
ENDED_SECONDS = 900.0
"""An Alertmanager is told of an ended alert for so long: after that it has ended it by itself."""


class Alerts(Protocol):
    """What is stored of alerts. All raise SinkUnavailableError when they may succeed later."""

    def undelivered(
        self, receiver: str, recorded_from_ms: int, *, is_fired_only: bool
    ) -> list[ShareAlert]:
        """Return what a receiver does not have, in order."""

    def record_delivery(self, delivery: Delivery, delivered_at_ms: int) -> None:
        """Note that a receiver has it."""

    def firing(self) -> list[ShareAlert]:
        """Return the newest transition of alerts that fire."""

    def ended(self, recorded_from_ms: int) -> list[ShareAlert]:
        """Return the newest transition of those that had fired."""


class Receiver(Protocol):
    """Takes transitions one by one."""

    @property
    def name(self) -> str:
        """As in ``share_alert_deliveries``."""

    async def send(self, alert: ShareAlert, now_seconds: int) -> None:
        """Deliver; raises RetryableError or RefusedError."""


class StateReceiver(Protocol):
    """Takes what is, as a whole."""

    @property
    def name(self) -> str:
        """As in ``share_alert_deliveries``."""

    async def send(self, alerts: Sequence[ShareAlert], now_ms: int) -> None:
        """Tell; raises RetryableError."""


@dataclass
class AlertDelivery:
    """Delivers while ``is_mine`` says that this worker does it.

    Attributes:
        receivers: Of transitions, with whether each wants only alerts that fired.
        state_receivers: Alertmanagers.
        max_age_seconds: Transitions stored longer ago are delivered no more.
        resend_seconds: How often Alertmanagers are told.
    """

    alerts: Alerts
    receivers: Sequence[tuple[Receiver, bool]]
    state_receivers: Sequence[StateReceiver]
    is_mine: Callable[[], bool]
    max_age_seconds: float
    resend_seconds: float
    _wakes: list[asyncio.Event] = field(default_factory=list)
    _tries: Counts[tuple[str, str]] = field(default_factory=Counts)

    def wake(self) -> None:
        """Look for something to deliver now: a transition was stored."""
        for event in self._wakes:
            event.set()

    async def run(self) -> None:
        """Deliver until cancelled.

        Raises:
            FatalError: ClickHouse needs a person.
        """
        async with asyncio.TaskGroup() as group:
            for receiver, is_fired_only in self.receivers:
                group.create_task(
                    self._forever(
                        receiver.name,
                        POLL_SECONDS,
                        partial(self._deliver, receiver, is_fired_only),
                    )
                )
            for state_receiver in self.state_receivers:
                group.create_task(
                    self._forever(
                        state_receiver.name,
                        self.resend_seconds,
                        partial(self._tell, state_receiver),
                    )
                )

    async def _forever(
        self, name: str, every_seconds: float, once: Callable[[], Awaitable[None]]
    ) -> None:
        """Do something when woken and every so often; again, with pauses that grow, while it fails."""
        woken = asyncio.Event()
        self._wakes.append(woken)
        retry_seconds = RETRY_WAIT_SECONDS_MIN
        while True:
            woken.clear()
            wait_seconds = every_seconds
            if self.is_mine():
                try:
                    await once()
                    retry_seconds = RETRY_WAIT_SECONDS_MIN
                except RetryableError as error:
                    FAILED.labels(name).inc()
                    log.warning(
                        "alerts.undelivered",
                        receiver=name,
                        error=str(error),
                        retry_seconds=retry_seconds,
                    )
                    # Not woken early: a receiver that is down is left alone for the pause.
                    await asyncio.sleep(retry_seconds * random.uniform(0.75, 1.25))
                    retry_seconds = min(retry_seconds * 2, RETRY_WAIT_SECONDS_MAX)
                    continue
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), wait_seconds)

    async def _deliver(self, receiver: Receiver, is_fired_only: bool) -> None:
        """Deliver what a receiver does not have, in order."""
        oldest_ms = _now_ms() - round(self.max_age_seconds * 1000)
        waiting = await asyncio.to_thread(
            self.alerts.undelivered, receiver.name, oldest_ms, is_fired_only=is_fired_only
        )
        WAITING.labels(receiver.name).set(len(waiting))
        for left, alert in zip(range(len(waiting) - 1, -1, -1), waiting, strict=True):
            if not self.is_mine():
                return
            await self._deliver_one(receiver, alert)
            WAITING.labels(receiver.name).set(left)

    async def _deliver_one(self, receiver: Receiver, alert: ShareAlert) -> None:
        detail = ""
        self._tries[receiver.name, alert.idempotency_key] += 1
        try:
            await receiver.send(alert, _now_ms() // 1000)
        except RefusedError as error:
            detail = str(error)
            log.error(
                "alert.refused", receiver=receiver.name, alert_id=alert.alert_id, error=detail
            )
        await self._record(receiver.name, alert, detail)

    async def _tell(self, receiver: StateReceiver) -> None:
        """Tell an Alertmanager which alerts fire, and which have ended lately."""
        firing = await asyncio.to_thread(self.alerts.firing)
        now_ms = _now_ms()
        ended = await asyncio.to_thread(self.alerts.ended, now_ms - round(ENDED_SECONDS * 1000))
        again = {alert.key for alert in firing}
        # What fires again under a new identifier has the same labels: it has not ended.
        alerts = [*(alert for alert in ended if alert.key not in again), *firing]
        await receiver.send(alerts, now_ms)
        new = await asyncio.to_thread(
            self.alerts.undelivered,
            receiver.name,
            now_ms - round(self.max_age_seconds * 1000),
            is_fired_only=True,
        )
        told = {alert.idempotency_key for alert in [*ended, *firing]}
        for alert in new:
            if alert.idempotency_key in told:
                await self._record(receiver.name, alert, "")

    async def _record(self, name: str, alert: ShareAlert, detail: str) -> None:
        delivery = Delivery(
            receiver=name,
            alert_id=alert.alert_id,
            version=alert.version,
            outcome="refused" if detail else "delivered",
            attempts=max(self._tries.pop((name, alert.idempotency_key), 1), 1),
            detail=detail,
        )
        await asyncio.to_thread(self.alerts.record_delivery, delivery, _now_ms())
        DELIVERED.labels(name).inc(not detail)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
