"""What doctor says of alerting: settings that keep a worker from starting, receivers that are away."""

import socket
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from deploy.self_check.alerting import alerting_checks
from deploy.self_check.check import State
from streams.detection import Parameters
from streams.settings import Settings
from tests.conftest import free_port


def found(**settings: object) -> dict[str, tuple[State, str]]:
    checks = alerting_checks(Settings.model_validate(settings))
    assert all(bool(check.fix) == (check.state is not State.OK) for check in checks)
    return {check.name: (check.state, check.found) for check in checks}


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_nothing_is_set() -> None:
    """The defaults are fine, and nobody is told."""
    checks = found()
    assert {state for state, _ in checks.values()} == {State.OK}
    assert "nobody is told" in checks["alert receivers"][1]
    assert Parameters().version in checks["alert parameters"][1]


def test_what_a_worker_refuses_is_unsafe(tmp_path: Path) -> None:
    """Dimensions, parameters, rules and the webhook's address; each says what is wrong."""
    broken = tmp_path / "broken"
    broken.write_text("[[rule]]\nname = 1\n")
    checks = found(
        alert_dimensions="vendor,planet",
        alert_parameters_file=broken,
        alert_rules_file=broken,
        alerts_webhook_url="ftp://x",
    )
    assert {state for state, _ in checks.values()} == {State.UNSAFE}
    assert len(checks) == 4
    assert "'planet' is none of" in checks["alert dimensions"][1]
    assert str(broken) in checks["alert rules"][1]


def test_files_that_can_be_used_are_named(tmp_path: Path) -> None:
    """With how many rules, and which version of parameters."""
    rules, parameters = tmp_path / "rules.toml", tmp_path / "parameters.json"
    rules.write_text(
        '[[rule]]\nname = "a"\ndimension = "vendor"\nvalue = "x"\nabove = 0.3\n'
        "window_seconds = 300\nfor_seconds = 300\n"
    )
    parameters.write_bytes(orjson.dumps(Parameters().as_dict()))
    checks = found(alert_rules_file=rules, alert_parameters_file=parameters)
    assert checks["alert rules"] == (State.OK, f"1 in {rules}")
    assert checks["alert parameters"][1].startswith(str(parameters))


def test_a_receiver_that_is_away_is_told(listening: int) -> None:
    """Its address is not shown: it may hold a key. One that listens should check a signature."""
    away = free_port()
    urls = f"http://127.0.0.1:{away}"
    checks = found(alerts_webhook_url=f"{urls}/k3y", alertmanager_urls=urls)
    assert checks["alert webhook"][0] is State.WARNING
    assert "k3y" not in checks["alert webhook"][1]
    assert checks["alertmanager"][0] is State.WARNING
    there = f"http://127.0.0.1:{listening}/k3y"
    assert "not signed" in found(alerts_webhook_url=there)["alert webhook"][1]
    signed = found(alerts_webhook_url=there, alerts_webhook_secret="s3cret")
    assert signed["alert webhook"][0] is State.OK
