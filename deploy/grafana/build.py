"""Grafana dashboards over the views: written by ``python -m deploy.grafana.build``, kept beside it.

For Grafana's ClickHouse data source (``grafana-clickhouse-datasource``, queries of editor type
``sql``, from version 4). A dashboard asks only for the data source; the reader's account is enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from schemas.panes import DIMENSIONS
from sinks.migrate import SHARE_VIEWS
from streams.windows import SIZES

HERE = Path(__file__).parent
PLUGIN = "grafana-clickhouse-datasource"
SOURCE = {"type": PLUGIN, "uid": "${datasource}"}
SCHEMA_VERSION = 41
COLUMNS = 24
# Grafana's own data frame formats.
TIME_SERIES, TABLE = 0, 1
# Buckets of whole minutes or hours, as the views want them.
MINUTES = "intDiv($__interval_s + 59, 60) * 60"
HOURS = "intDiv($__interval_s + 3599, 3600) * 3600"


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        kind: Grafana's panel type: timeseries, table, stat or barchart.
        sql: With Grafana's macros and ``$variables``.
        unit: Grafana's name of the unit.
        width: Of `COLUMNS`.
        stacked: Areas on top of each other.
        text: What the panel's description says.
    """

    title: str
    kind: str
    sql: str
    unit: str = "short"
    width: int = 12
    height: int = 9
    stacked: bool = False
    text: str = ""


def _by(grain: str, measure: str) -> str:
    return f"""SELECT bucket_start AS time, value, toFloat64({measure}) AS share
FROM share_by_${{dimension}}(from_time = $__fromTime, to_time = $__toTime,
    grain_seconds = {grain}, top_n = 12)
ORDER BY time, value"""


FAST = [view.name for view in SHARE_VIEWS if view.seconds == 60]
HOURLY = [view.name for view in SHARE_VIEWS if view.seconds == 3600]
WINDOWS = [str(size.length_ms // 1000) for size in SIZES]
_NEWEST = """(
    SELECT max(window_end) FROM share_window_revisions
    WHERE dimension = '${dimension}' AND window_seconds = ${window})"""

DASHBOARDS: dict[str, tuple[str, dict[str, list[str]], list[Panel]]] = {
    "market": (
        "tokentide: market shares",
        {"dimension": FAST},
        [
            Panel(
                "Share of tokens",
                "timeseries",
                _by(MINUTES, "token_share"),
                "percentunit",
                24,
                11,
                True,
            ),
            Panel(
                "Share of spend",
                "timeseries",
                _by(MINUTES, "spend_share"),
                "percentunit",
                stacked=True,
            ),
            Panel(
                "Share of requests",
                "timeseries",
                _by(MINUTES, "request_share"),
                "percentunit",
                stacked=True,
            ),
            Panel(
                "The whole period",
                "table",
                """SELECT value, tokens, requests, spend_usd, token_share, request_share, spend_share
FROM share_by_${dimension}(from_time = $__fromTime, to_time = $__toTime, grain_seconds = 0, top_n = 50)""",
                width=24,
            ),
        ],
    ),
    "requests": (
        "tokentide: shares by request",
        {"dimension": HOURLY},
        [
            Panel(
                "Share of tokens",
                "timeseries",
                _by(HOURS, "token_share"),
                "percentunit",
                24,
                11,
                True,
                "By the hour.",
            ),
            Panel(
                "Share of requests",
                "timeseries",
                _by(HOURS, "request_share"),
                "percentunit",
                24,
                11,
                True,
                "By the hour.",
            ),
        ],
    ),
    "live": (
        "tokentide: rolling windows",
        {"dimension": list(DIMENSIONS), "window": WINDOWS},
        [
            Panel(
                "Complete to",
                "stat",
                "SELECT max(watermark) AS complete_to FROM share_window_revisions WHERE window_seconds = 60",
                "dateTimeAsIso",
                8,
                5,
            ),
            Panel(
                "Behind",
                "stat",
                "SELECT (toUnixTimestamp64Milli(now64(3)) - toUnixTimestamp64Milli(max(watermark))) / 1000 AS seconds\nFROM share_window_revisions WHERE window_seconds = 60",
                "s",
                8,
                5,
            ),
            Panel(
                "Alerts that fire",
                "stat",
                "SELECT count() AS firing FROM share_alert_states WHERE state = 'firing'",
                "short",
                8,
                5,
            ),
            Panel(
                "Share of tokens, window by window",
                "timeseries",
                """SELECT window_end AS time, value, toFloat64(token_share) AS share
FROM share_windows
WHERE dimension = '${dimension}' AND window_seconds = ${window}
    AND window_end >= $__fromTime AND window_end < $__toTime
ORDER BY time, value""",
                "percentunit",
                24,
                11,
                True,
            ),
            Panel(
                "The newest window",
                "table",
                f"""SELECT value, tokens, requests, spend_usd, users, token_share, token_share_change
FROM share_windows
WHERE dimension = '${{dimension}}' AND window_seconds = ${{window}} AND window_end = {_NEWEST}
ORDER BY tokens DESC""",
                width=24,
            ),
        ],
    ),
    "alerts": (
        "tokentide: alerts on shares",
        {},
        [
            Panel(
                "What fires",
                "table",
                "SELECT since, kind, dimension, value, direction, sentence FROM share_alert_states\nWHERE state = 'firing' ORDER BY since DESC",
                width=24,
            ),
            Panel(
                "What happened",
                "table",
                "SELECT at, state, kind, dimension, value, share_before, share_after, sentence FROM share_alerts\nWHERE at >= $__fromTime AND at < $__toTime ORDER BY at DESC LIMIT 200",
                width=24,
                height=12,
            ),
            Panel(
                "How often they were right",
                "table",
                "SELECT * FROM share_alert_precision",
                width=24,
                text="Of alerts that somebody labelled: tokentide alerts label.",
            ),
        ],
    ),
    "operations": (
        "tokentide: what has landed",
        {},
        [
            Panel("By partition", "table", "SELECT * FROM data_freshness", width=24),
            Panel(
                "Events landed",
                "timeseries",
                """SELECT toStartOfInterval(ingested_at, INTERVAL greatest($__interval_s, 10) SECOND) AS time,
    toString(kafka_partition) AS partition, count() / greatest($__interval_s, 10) AS events_per_second
FROM usage_events
WHERE ingested_at >= $__fromTime AND ingested_at < $__toTime
    AND occurred_at >= $__fromTime - 86400
GROUP BY time, partition ORDER BY time""",
                "ops",
                stacked=True,
            ),
            Panel(
                "From event to ClickHouse",
                "timeseries",
                """SELECT toStartOfInterval(occurred_at, INTERVAL greatest($__interval_s, 10) SECOND) AS time,
    quantile(0.5)(date_diff('millisecond', occurred_at, ingested_at)) / 1000 AS p50,
    quantile(0.99)(date_diff('millisecond', occurred_at, ingested_at)) / 1000 AS p99
FROM usage_events
WHERE occurred_at >= $__fromTime AND occurred_at < $__toTime
GROUP BY time ORDER BY time""",
                "s",
            ),
            Panel(
                "Names that resolve to no model",
                "table",
                "SELECT * FROM unresolved_models LIMIT 50",
                width=24,
            ),
        ],
    ),
}


def dashboard(name: str) -> dict[str, Any]:
    """Return a dashboard as Grafana imports it."""
    title, variables, panels = DASHBOARDS[name]
    return {
        "uid": f"tokentide-{name}",
        "title": title,
        "tags": ["tokentide"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "timezone": "utc",
        "refresh": "10s" if name == "live" else "1m",
        "time": {"from": "now-1h" if name == "live" else "now-24h", "to": "now"},
        "annotations": {"list": [_annotation()]},
        "templating": {"list": [_source(), *(_variable(*each) for each in variables.items())]},
        "panels": list(_placed(panels)),
    }


def _annotation() -> dict[str, Any]:
    return {
        "name": "Alerts on shares",
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "red",
        "target": _target(
            "SELECT since AS time, sentence AS text, kind AS tags FROM share_alert_states\n"
            "WHERE state != 'suppressed' AND since >= $__fromTime AND since < $__toTime",
            TABLE,
        ),
    }


def _source() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "ClickHouse",
        "type": "datasource",
        "query": PLUGIN,
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "options": [],
        "current": {},
    }


def _variable(name: str, values: Sequence[str]) -> dict[str, Any]:
    first = "vendor" if "vendor" in values else values[0]
    options = [{"text": each, "value": each, "selected": each == first} for each in values]
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "custom",
        "query": ",".join(values),
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "options": options,
        "current": next(option for option in options if option["selected"]),
    }


def _target(sql: str, frame: int) -> dict[str, Any]:
    return {
        "refId": "A",
        "datasource": SOURCE,
        "editorType": "sql",
        "queryType": "timeseries" if frame == TIME_SERIES else "table",
        "format": frame,
        "pluginVersion": "4.0.0",
        "rawSql": sql,
    }


def _placed(panels: Sequence[Panel]) -> Any:
    x = y = row_height = 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
        x, row_height = x + panel.width, max(row_height, panel.height)
        yield _panel(panel, number, place)


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    is_series = panel.kind == "timeseries"
    custom: dict[str, Any] = {
        "lineWidth": 1,
        "fillOpacity": 70 if panel.stacked else 0,
        "showPoints": "never",
    }
    if panel.stacked:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    defaults: dict[str, Any] = {"unit": panel.unit}
    if is_series:
        defaults |= {"custom": custom, "min": 0}
    options: dict[str, Any] = {}
    if is_series:
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif panel.kind == "stat":
        reduced = {"calcs": ["lastNotNull"], "fields": "/.*/", "values": False}
        options = {"reduceOptions": reduced, "colorMode": "value", "graphMode": "none"}
    return {
        "id": number,
        "title": panel.title,
        "description": panel.text,
        "type": panel.kind,
        "gridPos": place,
        "datasource": SOURCE,
        "targets": [_target(panel.sql, TIME_SERIES if is_series else TABLE)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
    }


def text(name: str) -> bytes:
    """Return a dashboard as its file has it."""
    return orjson.dumps(dashboard(name), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    for each in DASHBOARDS:
        (HERE / f"{each}.json").write_bytes(text(each))
