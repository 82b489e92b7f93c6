"""Alerts on shares in ClickHouse: their transitions, what the detector has seen, who has been told.

Guarantee: a transition is a row once. Its insert carries the token of its alert and version, and the
one owner of topic llm-shares-v1 asks what is stored before it numbers a new one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson
import pyarrow as pa

from schemas.share_alert import (
    SCHEMA_VERSION,
    ShareAlert,
    decode_explanation,
    iso,
)
from sinks.clickhouse import CAUGHT, sorted_error
from sinks.usage_events import INSERT_SETTINGS

ALERTS_TABLE = "share_alerts"
BINS_TABLE = "share_detector_bins"
DELIVERIES_TABLE = "share_alert_deliveries"
LABELS_TABLE = "share_alert_labels"

TIME = pa.timestamp("ms", "UTC")
_ALERTS = pa.schema(
    [
        ("alert_id", pa.utf8()),
        ("version", pa.uint32()),
        ("state", pa.utf8()),
        ("kind", pa.utf8()),
        ("dimension", pa.utf8()),
        ("value", pa.utf8()),
        ("direction", pa.utf8()),
        ("rule", pa.utf8()),
        ("since", TIME),
        ("at", TIME),
        ("recorded_at", TIME),
        ("share_before", pa.float64()),
        ("share_after", pa.float64()),
        ("share_low", pa.float64()),
        ("share_high", pa.float64()),
        ("requests_share_before", pa.float64()),
        ("requests_share_after", pa.float64()),
        ("statistic", pa.float64()),
        ("threshold", pa.float64()),
        ("suppressed_by", pa.utf8()),
        ("parameters_version", pa.utf8()),
        ("parameters", pa.utf8()),
        ("explanation", pa.utf8()),
        ("sentence", pa.utf8()),
    ]
)
_BINS = pa.schema(
    [
        ("bin_end", pa.timestamp("s", "UTC")),
        ("observed_at", TIME),
        ("dimensions", pa.uint16()),
        ("is_complete", pa.bool_()),
        ("transitions", pa.uint32()),
        ("parameters_version", pa.utf8()),
    ]
)
_DELIVERIES = pa.schema(
    [
        ("receiver", pa.utf8()),
        ("alert_id", pa.utf8()),
        ("version", pa.uint32()),
        ("outcome", pa.utf8()),
        ("attempts", pa.uint32()),
        ("detail", pa.utf8()),
        ("delivered_at", TIME),
    ]
)
_LABELS = pa.schema(
    [
        ("alert_id", pa.utf8()),
        ("verdict", pa.bool_()),
        ("note", pa.utf8()),
        ("labelled_by", pa.utf8()),
        ("labelled_at", TIME),
    ]
)
_TIMES = ("since", "at", "recorded_at")
DETAIL_CHARS_MAX = 400


class AlertClient(Protocol):
    """What is needed of clickhouse-connect's client."""

    def insert_arrow(
        self,
        table: str,
        arrow_table: Any,
        database: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Any: ...

    def query(self, query: str | None = None, parameters: Any = None) -> Any: ...


@dataclass(frozen=True)
class Delivery:
    """What became of one transition at one receiver.

    Attributes:
        outcome: ``refused``: the receiver will not take it, whatever is tried.
        detail: What it answered when it refused.
    """

    receiver: str
    alert_id: str
    version: int
    outcome: Literal["delivered", "refused"]
    attempts: int
    detail: str = ""


class ShareAlerts:
    """Writes and reads alerts. May be used by several threads.

    Every method raises SinkUnavailableError when the same call may succeed later, and FatalError for
    what needs a person.
    """

    def __init__(self, client: AlertClient, database: str) -> None:
        self._client = client
        self._database = database

    def write(self, alert: ShareAlert, recorded_at_ms: int) -> None:
        """Store a transition; a repeat adds nothing."""
        row = _row_of(alert, recorded_at_ms)
        self._insert(ALERTS_TABLE, _ALERTS, row, f"share_alerts:{alert.idempotency_key}")

    def write_bin(
        self,
        bin_end_ms: int,
        *,
        observed_at_ms: int,
        dimensions: int,
        is_complete: bool,
        transitions: int,
        parameters_version: str,
    ) -> None:
        """Note that a bin is judged and that all transitions of it are stored."""
        row = {
            "bin_end": bin_end_ms // 1000,
            "observed_at": observed_at_ms,
            "dimensions": dimensions,
            "is_complete": is_complete,
            "transitions": transitions,
            "parameters_version": parameters_version,
        }
        self._insert(BINS_TABLE, _BINS, row, f"share_detector_bins:{bin_end_ms}")

    def newest_bin_ms(self) -> int | None:
        """Return the end of the newest bin that was judged, epoch milliseconds."""
        ((count, newest),) = self._query(
            f"SELECT count(), toUnixTimestamp(max(bin_end)) FROM {self._database}.{BINS_TABLE}"
        )
        return int(newest) * 1000 if count else None

    def newest(self, at_from_ms: int) -> list[ShareAlert]:
        """Return the newest transition of every alert that is on or had one since ``at_from_ms``."""
        return self._alerts(
            "at >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')"
            " OR state IN ('firing', 'suppressed')",
            {"from_ms": at_from_ms},
            newest_only=True,
        )

    def transitions(self, alert_id: str) -> list[ShareAlert]:
        """Return all transitions of an alert, in order."""
        return self._alerts("alert_id = {alert_id:String}", {"alert_id": alert_id})

    def firing(self) -> list[ShareAlert]:
        """Return the newest transition of every alert that fires now."""
        return self._alerts("state = 'firing'", {}, newest_only=True)

    def ended(self, recorded_from_ms: int) -> list[ShareAlert]:
        """Return the newest transition of alerts that had fired and do so no more.

        Args:
            recorded_from_ms: Only those whose newest transition was stored since.
        """
        return self._alerts(
            "state != 'firing'"
            " AND recorded_at >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')"
            f" AND alert_id IN ({self._fired_sql()})",
            {"from_ms": recorded_from_ms},
            newest_only=True,
        )

    def undelivered(
        self, receiver: str, recorded_from_ms: int, *, is_fired_only: bool
    ) -> list[ShareAlert]:
        """Return the transitions that a receiver does not have, in the order they were stored in.

        Args:
            receiver: As in the table of deliveries.
            recorded_from_ms: Only those that were stored since.
            is_fired_only: Pass over alerts that never fired.
        """
        where = (
            "recorded_at >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')"
            " AND (alert_id, version) NOT IN (SELECT alert_id, version"
            f" FROM {self._database}.{DELIVERIES_TABLE}"
            " WHERE receiver = {receiver:String})"
        )
        if is_fired_only:
            where += f" AND alert_id IN ({self._fired_sql()})"
        return self._alerts(where, {"from_ms": recorded_from_ms, "receiver": receiver})

    def record_delivery(self, delivery: Delivery, delivered_at_ms: int) -> None:
        """Note that a receiver has a transition, or will not take it."""
        row = {
            **vars(delivery),
            "detail": delivery.detail[:DETAIL_CHARS_MAX],
            "delivered_at": delivered_at_ms,
        }
        token = f"share_alert_deliveries:{delivery.receiver}:{delivery.alert_id}:{delivery.version}"
        self._insert(DELIVERIES_TABLE, _DELIVERIES, row, token)

    def label(
        self, alert_id: str, *, verdict: bool, note: str, labelled_by: str, labelled_at_ms: int
    ) -> None:
        """Store what a person says of an alert."""
        row = {
            "alert_id": alert_id,
            "verdict": verdict,
            "note": note,
            "labelled_by": labelled_by,
            "labelled_at": labelled_at_ms,
        }
        token = f"share_alert_labels:{alert_id}:{labelled_at_ms}"
        self._insert(LABELS_TABLE, _LABELS, row, token)

    def _fired_sql(self) -> str:
        return f"SELECT alert_id FROM {self._database}.{ALERTS_TABLE} WHERE state = 'firing'"

    def _alerts(
        self, where: str, parameters: Mapping[str, Any], *, newest_only: bool = False
    ) -> list[ShareAlert]:
        """Return transitions; with ``newest_only`` the condition is on the newest of each alert."""
        names = ", ".join(
            f"toUnixTimestamp64Milli({name}) AS {name}_ms" if name in _TIMES else f"t.{name}"
            for name in _ALERTS.names
        )
        table = f"{self._database}.{ALERTS_TABLE}"
        if newest_only:
            table = f"(SELECT * FROM {table} ORDER BY version DESC LIMIT 1 BY alert_id)"
        rows = self._query(
            f"SELECT {names} FROM {table} AS t WHERE {where} ORDER BY recorded_at, at, version",
            parameters,
        )
        return [_alert_of(dict(zip(_ALERTS.names, row, strict=True))) for row in rows]

    def _insert(self, table: str, schema: pa.Schema, row: Mapping[str, Any], token: str) -> None:
        columns = [pa.array([row[field.name]], field.type) for field in schema]
        settings = {**INSERT_SETTINGS, "insert_deduplication_token": token}
        try:
            self._client.insert_arrow(
                table, pa.table(columns, schema=schema), self._database, settings
            )
        except CAUGHT as error:
            raise sorted_error(error, detail=False) from error

    def _query(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Sequence[Any]]:
        try:
            found: Sequence[Sequence[Any]] = self._client.query(
                sql, parameters=dict(parameters or {})
            ).result_rows
        except CAUGHT as error:
            raise sorted_error(error, detail=False) from error
        return found


def _row_of(alert: ShareAlert, recorded_at_ms: int) -> dict[str, Any]:
    return {
        **vars(alert),
        "since": alert.since_ms,
        "at": alert.at_ms,
        "recorded_at": recorded_at_ms,
        "parameters": orjson.dumps(alert.parameters, option=orjson.OPT_SORT_KEYS).decode(),
        "explanation": orjson.dumps(alert.explanation).decode(),
    }


def _alert_of(row: Mapping[str, Any]) -> ShareAlert:
    fields = {
        **row,
        "schema_version": SCHEMA_VERSION,
        "since": iso(row["since"]),
        "at": iso(row["at"]),
        "parameters": orjson.loads(row["parameters"]),
        "explanation": decode_explanation(row["explanation"].encode()),
    }
    del fields["recorded_at"]
    return ShareAlert(**fields)
