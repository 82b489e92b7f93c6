"""Delivery: in order, again while a receiver is down, each receiver by itself."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from agents import deliver_alerts
from agents.deliver_alerts import AlertDelivery
from schemas.errors import RetryableError
from schemas.share_alert import ShareAlert
from sinks.share_alerts import Delivery
from sinks.webhook import RefusedError
from tests.alert_examples import alert

A, B = "a" * 32, "b" * 32


@dataclass
class Store:
    """Stored alerts in memory."""

    stored: list[ShareAlert] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)

    def undelivered(
        self, receiver: str, recorded_from_ms: int, *, is_fired_only: bool
    ) -> list[ShareAlert]:
        assert recorded_from_ms > 0
        fired = {each.alert_id for each in self.stored if each.state == "firing"}
        done = {(d.alert_id, d.version) for d in self.deliveries if d.receiver == receiver}
        return [
            each
            for each in self.stored
            if (each.alert_id, each.version) not in done
            and (each.alert_id in fired or not is_fired_only)
        ]

    def record_delivery(self, delivery: Delivery, delivered_at_ms: int) -> None:
        assert delivered_at_ms > 0
        self.deliveries.append(delivery)

    def _newest(self) -> list[ShareAlert]:
        return list({each.alert_id: each for each in self.stored}.values())

    def firing(self) -> list[ShareAlert]:
        return [each for each in self._newest() if each.state == "firing"]

    def ended(self, recorded_from_ms: int) -> list[ShareAlert]:
        assert recorded_from_ms > 0
        return [each for each in self._newest() if each.state == "resolved"]


@dataclass
class Receiver:
    """Takes transitions, after ``failures`` tries that fail."""

    name: str
    failures: int = 0
    refuses: str = ""
    got: list[tuple[str, int]] = field(default_factory=list)
    tries: int = 0

    async def send(self, alert: ShareAlert, now_seconds: int) -> None:
        assert now_seconds > 0
        self.tries += 1
        if self.failures:
            self.failures -= 1
            raise RetryableError("down")
        if alert.idempotency_key == self.refuses:
            raise RefusedError("HTTP 400: no")
        self.got.append((alert.alert_id[0], alert.version))


@dataclass
class Manager:
    """Takes what is."""

    name: str = "alertmanager"
    told: list[list[str]] = field(default_factory=list)

    async def send(self, alerts: Sequence[ShareAlert], now_ms: int) -> None:
        assert now_ms > 0
        self.told.append([f"{each.alert_id[0]}{each.version} {each.state}" for each in alerts])


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver_alerts, "RETRY_WAIT_SECONDS_MIN", 0.001)
    monkeypatch.setattr(deliver_alerts, "RETRY_WAIT_SECONDS_MAX", 0.004)
    monkeypatch.setattr(deliver_alerts, "POLL_SECONDS", 0.01)


def delivery(
    store: Store,
    *receivers: Receiver,
    managers: Sequence[Manager] = (),
    is_mine: Callable[[], bool] = lambda: True,
    resend_seconds: float = 0.01,
) -> AlertDelivery:
    return AlertDelivery(
        store, [(each, True) for each in receivers], managers, is_mine, 3600.0, resend_seconds
    )


async def run_until(delivering: AlertDelivery, condition: Callable[[], bool]) -> None:
    task = asyncio.create_task(delivering.run())
    try:
        async with asyncio.timeout(10):
            while not condition():
                assert not task.done(), task.exception()
                await asyncio.sleep(0.001)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def life(alert_id: str = A) -> list[ShareAlert]:
    return [
        alert(alert_id=alert_id),
        alert(alert_id=alert_id, version=2, state="resolved"),
    ]


async def test_a_receiver_that_is_down_gets_all_in_order_later() -> None:
    """It is tried again, nothing is left out or overtakes, and the tries are written down."""
    store = Store([*life(A), alert(alert_id=B)])
    receiver = Receiver("webhook", failures=3)
    await run_until(delivery(store, receiver), lambda: len(store.deliveries) == 3)
    assert receiver.got == [("a", 1), ("a", 2), ("b", 1)]
    assert [each.attempts for each in store.deliveries] == [4, 1, 1]
    assert {each.outcome for each in store.deliveries} == {"delivered"}


async def test_a_receiver_that_is_down_delays_no_other() -> None:
    """Each has a task of its own."""
    store = Store(life())
    down, up = Receiver("down", failures=10**9), Receiver("up")
    await run_until(delivery(store, down, up), lambda: len(up.got) == 2 and down.tries > 3)
    assert down.got == []


async def test_a_body_that_is_refused_is_given_up() -> None:
    """It would be refused again; what follows it is delivered, and the reason is kept."""
    store = Store(life())
    receiver = Receiver("webhook", refuses=f"{A}-1")
    await run_until(delivery(store, receiver), lambda: len(store.deliveries) == 2)
    assert receiver.got == [("a", 2)]
    assert [each.outcome for each in store.deliveries] == ["refused", "delivered"]
    assert store.deliveries[0].detail == "HTTP 400: no"


async def test_what_was_delivered_is_not_delivered_again() -> None:
    """A new process goes on where the last one was."""
    store = Store(life())
    store.deliveries.append(Delivery("webhook", A, 1, "delivered", 1))
    receiver = Receiver("webhook")
    await run_until(delivery(store, receiver), lambda: len(store.deliveries) == 2)
    assert receiver.got == [("a", 2)]


async def test_only_the_owner_delivers() -> None:
    """A worker that is not the owner waits until it is."""
    store = Store(life())
    receiver, manager = Receiver("webhook"), Manager()
    is_mine = asyncio.Event()
    looks = 0

    def mine() -> bool:
        nonlocal looks
        looks += 1
        if looks == 20:
            assert not receiver.got
            assert not manager.told
            is_mine.set()
        return is_mine.is_set()

    delivering = delivery(store, receiver, managers=[manager], is_mine=mine)
    await run_until(delivering, lambda: len(receiver.got) == 2 and len(manager.told) > 0)


async def test_an_alertmanager_is_told_again_and_again() -> None:
    """Firing alerts each time, ended ones too, and each transition is written down once."""
    store = Store([*life(A), alert(alert_id=B, value="tiger")])
    manager = Manager()
    await run_until(delivery(store, managers=[manager]), lambda: len(manager.told) > 3)
    assert manager.told[0] == manager.told[3] == ["a2 resolved", "b1 firing"]
    assert sorted((each.alert_id[0], each.version) for each in store.deliveries) == [
        ("a", 2),
        ("b", 1),
    ]


async def test_what_fires_again_is_not_told_as_ended() -> None:
    """Two alerts on one series have the same labels: the end of the first would end the second."""
    store = Store([*life(A), alert(alert_id=B)])
    manager = Manager()
    await run_until(delivery(store, managers=[manager]), lambda: bool(manager.told))
    assert manager.told[0] == ["b1 firing"]


async def test_a_stored_transition_wakes_the_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the next look."""
    monkeypatch.setattr(deliver_alerts, "POLL_SECONDS", 3600.0)
    store, receiver, manager = Store(), Receiver("webhook"), Manager()
    delivering = delivery(store, receiver, managers=[manager], resend_seconds=3600.0)

    def woken() -> bool:
        if manager.told == [[]] and not store.stored:
            store.stored += life()
            delivering.wake()
        return len(receiver.got) == 2 and len(manager.told) == 2

    await run_until(delivering, woken)
