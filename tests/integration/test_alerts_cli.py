"""``tokentide alerts`` as users run it, on a real engine."""

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import orjson
import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from schemas.share_alert import decode
from sinks.share_alerts import Delivery, ShareAlerts
from sinks.share_windows import ShareWindows
from sinks.usage_events import UsageEventWriter
from streams.detection import BIN_MS, Parameters
from tests.alert_examples import alert, explained
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import run_tokentide
from tests.integration.sinks_database import migrated, rows_of
from tests.made_market import make_requests, rows, windows
from tests.usage_rows import as_table

NOW_MS = int(datetime.now(UTC).timestamp() * 1000) // BIN_MS * BIN_MS
START_MS = NOW_MS - 30 * 3_600_000
A, B = "a" * 32, "b" * 32
Run = Callable[..., subprocess.CompletedProcess[str]]


def iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat().replace("+00:00", "Z")


@pytest.fixture
def client(clickhouse: Server, fresh_database: str) -> Iterator[HttpClient]:
    with migrated(clickhouse, fresh_database) as client:
        yield client


@pytest.fixture
def run(client: HttpClient, clickhouse: Server, tmp_path: Path) -> Run:
    def call(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        return run_tokentide(
            "alerts",
            *arguments,
            clickhouse_port=clickhouse.port,
            clickhouse_database=client.database,
            data_dir=tmp_path,
            **settings,
        )

    return call


def done(found: subprocess.CompletedProcess[str]) -> str:
    assert found.returncode == 0, found.stderr
    return found.stdout


def stored(client: HttpClient) -> ShareAlerts:
    """Two alerts on tiger: one that was resolved, one that fires."""
    assert client.database is not None
    alerts = ShareAlerts(client, client.database)
    at_ms = START_MS + 20 * BIN_MS
    common = {"value": "tiger", "share_before": 0.35, "since": iso(at_ms - 3 * BIN_MS)}
    query = explained(query="SELECT 1 AS one")
    alerts.write(alert(**common, alert_id=A, at=iso(at_ms), explanation=query), NOW_MS)
    alerts.write(
        alert(**common, alert_id=A, version=2, state="resolved", at=iso(at_ms + 6 * BIN_MS)),
        NOW_MS + 1,
    )
    alerts.write(
        alert(**common, alert_id=B, kind="new_model", dimension="model", at=iso(at_ms)), NOW_MS + 2
    )
    alerts.record_delivery(Delivery("webhook", A, 1, "delivered", 2), NOW_MS)
    return alerts


def test_alerts_are_listed_shown_and_labelled(client: HttpClient, run: Run) -> None:
    """By their state now; an alert has its transitions, causes, deliveries and verdicts."""
    assert "no alerts" in done(run("list"))
    stored(client)
    listed = orjson.loads(done(run("list", "--format", "json")))
    assert {each["alert_id"]: each["state"] for each in listed} == {A: "resolved", B: "firing"}
    only = done(run("list", "--state", "firing"))
    assert B[:8] in only
    assert A[:8] not in only
    assert A[:8] not in done(run("list", "--kind", "new_model"))
    done(run("label", A[:8], "false", "--note", "a load test"))
    assert rows_of(client, "SELECT alert_id, verdict, note FROM share_alert_labels") == [
        {"alert_id": A, "verdict": False, "note": "a load test"}
    ]
    labelled = orjson.loads(done(run("list", "--format", "json")))
    assert {each["alert_id"]: each["verdict"] for each in labelled} == {A: False, B: None}
    shown = done(run("show", A[:6]))
    for part in ("resolved", "us-east", "78 %", "SELECT 1 AS one", "webhook", "a load test"):
        assert part in shown
    transitions = orjson.loads(done(run("show", A, "--format", "json")))
    assert [decode(orjson.dumps(each)).version for each in transitions] == [1, 2]


def test_an_alert_that_is_not_there_is_told(client: HttpClient, run: Run) -> None:
    """In one line: unknown, ambiguous, no ID."""
    stored(client)
    assert run("show", "c" * 8).stderr.strip() == (
        f"Error: no alert {'c' * 8}: see tokentide alerts list"
    )
    assert "hexadecimal" in run("show", "hello").stderr
    assert ShareAlerts(client, str(client.database)).transitions("c" * 32) == []


def test_the_evidence_is_drawn(client: HttpClient, run: Run, tmp_path: Path) -> None:
    """The picture is SVG, has the sentence, the line of the series and the time of the alert."""
    alerts = stored(client)
    rng = np.random.default_rng(2)
    assert client.database is not None
    ShareWindows(client, client.database).write(
        [
            window
            for number in range(1, 40)
            for window in windows(make_requests(rng, 100), START_MS + number * BIN_MS)
        ]
    )
    out = tmp_path / "evidence.svg"
    said = done(run("explain", A, "--out", str(out)))
    assert alerts.transitions(A)[0].sentence in " ".join(said.split())
    picture = ElementTree.fromstring(out.read_text())
    texts = " ".join(each.text or "" for each in picture.iter() if each.tag.endswith("text"))
    assert "Vendor openai fell." in texts
    assert "region us-east: 15.0 % to 5.0 %" in texts
    (line,) = [each for each in picture.iter() if each.tag.endswith("polyline")]
    assert len(line.attrib["points"].split()) == 38


def write_market(
    client: HttpClient, bins: int, late: Callable[[int, str], bool] = lambda _, __: False
) -> None:
    """Store events of a quiet market; those that are ``late`` landed two hours after."""
    assert client.database is not None
    rng = np.random.default_rng(11)
    writer = UsageEventWriter(client, client.database)
    made: list[dict[str, Any]] = []
    for number in range(1, bins + 1):
        requests = make_requests(rng, 150)
        for row in rows(requests, START_MS + number * BIN_MS, len(made)):
            delay = timedelta(hours=2) if late(number, row["vendor"]) else timedelta(seconds=1)
            made.append({**row, "ingested_at": row["occurred_at"] + delay})
    for at in range(0, len(made), 20_000):
        months: dict[int, list[Any]] = {}
        for row in made[at : at + 20_000]:
            months.setdefault(row["occurred_at"].month, []).append(row)
        for month, each in months.items():
            writer.write(as_table(each), f"rows-{at}-{month}")


def test_a_backtest_sees_what_had_landed(client: HttpClient, run: Run, tmp_path: Path) -> None:
    """Events that came late look like a change at the time, and like nothing afterwards."""
    bins = 320
    first = 300
    write_market(client, bins, lambda number, vendor: number > first and vendor == "tiger")
    times = (
        "--from",
        iso(START_MS + (first - 2) * BIN_MS),
        "--to",
        iso(START_MS + bins * BIN_MS),
        "--learn-days",
        "2",
    )
    strict, loose = tmp_path / "strict.json", tmp_path / "loose.json"
    strict.write_bytes(orjson.dumps(Parameters(threshold=1000.0).as_dict()))
    loose.write_bytes(orjson.dumps(Parameters().as_dict()))
    files = ("--settings", str(strict), "--settings", str(loose))
    plot = tmp_path / "plot.svg"
    found = orjson.loads(done(run("backtest", *times, *files, "--format", "json")))
    fired = {
        each["settings"]: {
            (alert["dimension"], alert["value"])
            for alert in each["alerts"]
            if alert["state"] == "firing"
        }
        for each in found
    }
    assert fired[str(strict)] == set()
    assert ("vendor", "tiger") in fired[str(loose)]
    (alarm,) = [
        alert
        for alert in found[1]["alerts"]
        if (alert["dimension"], alert["value"], alert["state"]) == ("vendor", "tiger", "firing")
    ]
    assert alarm["since"] == iso(START_MS + first * BIN_MS)
    printed = done(run("backtest", *times, *files, "--svg", str(plot)))
    assert "Vendor tiger" in printed
    assert "median delay" in printed
    ElementTree.fromstring(plot.read_text())
    later = orjson.loads(done(run("backtest", *times, "--as-stored", "--format", "json")))
    assert later[0]["settings"] == "built-in"
    assert later[0]["alerts"] == []


def test_calibration_writes_what_workers_read(client: HttpClient, run: Run, tmp_path: Path) -> None:
    """Thresholds of every watched dimension; too short a past is refused in one line."""
    rng = np.random.default_rng(4)
    assert client.database is not None
    sink = ShareWindows(client, client.database)
    out = tmp_path / "parameters.json"
    end_ms = NOW_MS
    bins = 3 * 288

    def write(first: int, last: int) -> None:
        sink.write(
            [
                window
                for number in range(first, last)
                for window in windows(make_requests(rng, 60), end_ms - number * BIN_MS)
            ]
        )

    write(0, 50)
    assert "two days of history" in run("calibrate", "--out", str(out)).stderr
    write(50, bins)
    said = done(run("calibrate", "--out", str(out), "--budget", "2"))
    assert "TOKENTIDE_ALERT_PARAMETERS_FILE" in said
    found = Parameters.from_dict(orjson.loads(out.read_bytes()))
    assert found.thresholds.keys() == {"vendor", "model", "vendor_region", "origin", "provider"}
    broken = run(
        "calibrate", "--out", str(out), alert_parameters_file=tmp_path / "missing.json"
    ).stderr
    assert "missing.json: No such file" in broken
