"""Alerts in ClickHouse: transitions once, what is open, deliveries, verdicts and precision."""

from collections.abc import Iterator

import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from schemas.share_alert import ShareAlert
from sinks.share_alerts import Delivery, ShareAlerts
from tests.alert_examples import alert
from tests.conftest import ClickHouseAddress as Server
from tests.integration.sinks_database import migrated, one_of, rows_of

A, B, C = ("a" * 32, "b" * 32, "c" * 32)
NOON_MS = alert().at_ms
"""Rows much older than the clock are dropped by the tables themselves."""


@pytest.fixture
def client(clickhouse: Server, fresh_database: str) -> Iterator[HttpClient]:
    with migrated(clickhouse, fresh_database) as client:
        yield client


def alerts_at(client: HttpClient) -> ShareAlerts:
    assert client.database is not None
    return ShareAlerts(client, client.database)


def keys(alerts: list[ShareAlert]) -> list[tuple[str, int]]:
    return [(each.alert_id, each.version) for each in alerts]


def test_a_transition_comes_back_as_it_was_stored_and_once(client: HttpClient) -> None:
    """A repeat of the insert adds nothing; every field and the explanation are the same again."""
    alerts = alerts_at(client)
    for number in range(3):
        alerts.write(alert(), 1_000 + number)  # A repeat is later.
    assert alerts.transitions(alert().alert_id) == [alert()]
    empty = alert(alert_id=B, explanation=None, share_low=None, parameters={})
    alerts.write(empty, 2_000)
    assert alerts.transitions(B) == [empty]


def test_the_newest_transition_tells_what_is_on(client: HttpClient) -> None:
    """An alert that was resolved fires no more; one that fired long ago and still does is on."""
    alerts = alerts_at(client)
    ended = "2026-11-24T15:00:00Z"
    alerts.write(alert(alert_id=A), 1_000)
    alerts.write(alert(alert_id=A, version=2, state="resolved", at=ended), 2_000)
    alerts.write(alert(alert_id=B, since="2026-01-01T00:00:00Z", at="2026-01-01T00:05:00Z"), 3_000)
    alerts.write(alert(alert_id=C, state="suppressed", suppressed_by=B), 4_000)
    assert keys(alerts.firing()) == [(B, 1)]
    assert keys(alerts.newest(alert(at=ended).at_ms)) == [(A, 2), (B, 1), (C, 1)]
    assert keys(alerts.newest(alert(at=ended).at_ms + 1)) == [(B, 1), (C, 1)]
    assert keys(alerts.ended(0)) == [(A, 2)]
    assert keys(alerts.ended(2_001)) == []
    states = rows_of(client, "SELECT alert_id, state, fired_at FROM share_alert_states")
    assert {row["alert_id"]: row["state"] for row in states} == {
        A: "resolved",
        B: "firing",
        C: "suppressed",
    }
    assert {row["alert_id"] for row in states if row["fired_at"] is None} == {C}


def test_what_a_receiver_does_not_have_is_told_in_order(client: HttpClient) -> None:
    """Delivered and refused transitions, old ones and those of alerts that never fired are left out."""
    alerts = alerts_at(client)
    alerts.write(alert(alert_id=A), 1_000)
    alerts.write(alert(alert_id=A, version=2, state="resolved"), 3_000)
    alerts.write(alert(alert_id=B), 2_000)
    alerts.write(alert(alert_id=C, state="suppressed"), 2_500)

    def waiting(receiver: str, from_ms: int = 0) -> list[tuple[str, int]]:
        return keys(alerts.undelivered(receiver, from_ms, is_fired_only=True))

    assert waiting("webhook") == [(A, 1), (B, 1), (A, 2)]
    assert waiting("webhook", 2_000) == [(B, 1), (A, 2)]
    assert keys(alerts.undelivered("topic", 0, is_fired_only=False)) == [
        (A, 1),
        (B, 1),
        (C, 1),
        (A, 2),
    ]
    for number in range(2):
        alerts.record_delivery(Delivery("webhook", A, 1, "delivered", 1), NOON_MS + number)
    alerts.record_delivery(Delivery("webhook", B, 1, "refused", 1, "HTTP 400: no"), NOON_MS)
    assert waiting("webhook") == [(A, 2)]
    assert waiting("topic") == [(A, 1), (B, 1), (A, 2)]
    assert one_of(client, "SELECT count() FROM share_alert_deliveries") == 2


def test_judged_bins_are_noted_once(client: HttpClient) -> None:
    """The newest one is known; without any there is none."""
    alerts = alerts_at(client)
    assert alerts.newest_bin_ms() is None
    for end_ms in (NOON_MS, NOON_MS - 300_000, NOON_MS):
        alerts.write_bin(
            end_ms,
            observed_at_ms=NOON_MS,
            dimensions=5,
            is_complete=True,
            transitions=0,
            parameters_version="abc",
        )
    assert alerts.newest_bin_ms() == NOON_MS
    assert one_of(client, "SELECT count() FROM share_detector_bins") == 2


def test_precision_counts_the_newest_verdict(client: HttpClient) -> None:
    """By kind, dimension and parameters; alerts without a verdict count as alerts only."""
    alerts = alerts_at(client)
    for number in range(4):
        alerts.write(alert(alert_id=f"{number:032x}"), number)
        alerts.write(alert(alert_id=f"{number:032x}", version=2, state="resolved"), 10 + number)
    alerts.write(alert(alert_id=C, state="suppressed"), 50)

    def label(number: int, verdict: bool, at_ms: int) -> None:
        alerts.label(
            f"{number:032x}", verdict=verdict, note="", labelled_by="", labelled_at_ms=at_ms
        )

    label(0, True, 1_000)
    label(1, False, 1_000)
    label(1, True, 2_000)  # Looked at again.
    label(2, False, 1_000)
    (row,) = rows_of(client, "SELECT * FROM share_alert_precision")
    assert (row["alerts"], row["labelled"], row["true_alerts"], row["false_alerts"]) == (4, 3, 2, 1)
    assert row["precision"] == pytest.approx(2 / 3)
    # Wilson's interval of 2 of 3, from a statistics table.
    assert row["precision_low"] == pytest.approx(0.2077, abs=1e-3)
    assert row["precision_high"] == pytest.approx(0.9385, abs=1e-3)
