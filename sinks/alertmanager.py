"""Alerts to Prometheus Alertmanager, API v2.

Alertmanager is told what is: all alerts that fire, again and again, and those that have ended, with
their end. So nothing is lost when it was away, and it may be told twice.

Source:
    https://prometheus.io/docs/alerting/latest/alerts_api/
"""

from collections.abc import Sequence
from typing import Any

import orjson

from schemas.errors import RetryableError
from schemas.share_alert import ShareAlert, iso
from sinks.webhook import post

FIRING_SECONDS = 600
"""Alertmanager resolves an alert by itself when it has not been told of it for so long. A worker
that is replaced takes less."""
NAMES = {
    "share_change": "ShareChange",
    "provider_outage": "ProviderOutage",
    "total_drop": "TotalDrop",
    "total_jump": "TotalJump",
    "ingest_lag": "IngestLag",
    "new_model": "NewModel",
    "rule": "ShareRule",
}


def labels(alert: ShareAlert) -> dict[str, str]:
    """Return what identifies an alert for Alertmanager: never a number or a time."""
    found = {
        "alertname": NAMES[alert.kind],
        "kind": alert.kind,
        "dimension": alert.dimension,
        "series": alert.value,
        "direction": alert.direction,
        "rule": alert.rule,
    }
    # To Alertmanager a label that is empty is one that is not there.
    return {name: value for name, value in found.items() if value}


def annotations(alert: ShareAlert) -> dict[str, str]:
    """Return the rest, as text."""
    found: dict[str, Any] = {
        "summary": alert.sentence,
        "alert_id": alert.alert_id,
        "state": alert.state,
        "share_before": _number(alert.share_before),
        "share_after": _number(alert.share_after),
        "suppressed_by": alert.suppressed_by,
        "query": alert.explanation.query if alert.explanation else "",
        "explain": f"tokentide alerts explain {alert.alert_id}",
    }
    return {name: value for name, value in found.items() if value}


def _number(share: float | None) -> str:
    return "" if share is None else f"{share:.6g}"


def payload(alert: ShareAlert, now_ms: int) -> dict[str, Any]:
    """Return one alert as Alertmanager takes it.

    Args:
        alert: Its newest transition.
        now_ms: This machine's clock, epoch milliseconds.
    """
    # The end of an alert never changes, however often it is told; that of one that fires moves on.
    end_ms = now_ms + FIRING_SECONDS * 1000 if alert.state == "firing" else alert.at_ms
    start_ms = min(alert.since_ms, end_ms)
    return {
        "labels": labels(alert),
        "annotations": annotations(alert),
        "startsAt": iso(start_ms),
        "endsAt": iso(end_ms),
    }


class Alertmanager:
    """One Alertmanager; of a cluster each is told by itself."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    @property
    def name(self) -> str:
        """As the receiver is called in ``share_alert_deliveries``."""
        return f"alertmanager {self._url.rpartition('@')[2]}"

    async def send(self, alerts: Sequence[ShareAlert], now_ms: int) -> None:
        """Tell the newest transitions of alerts.

        Raises:
            RetryableError: Not now, or Alertmanager refuses: it takes all of them or none.
        """
        if not alerts:
            return
        body = orjson.dumps([payload(alert, now_ms) for alert in alerts])
        status, answer = await post(
            f"{self._url}/api/v2/alerts", body, {"content-type": "application/json"}
        )
        if not 200 <= status < 300:
            raise RetryableError(f"alertmanager: HTTP {status}: {answer}")
