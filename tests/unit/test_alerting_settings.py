"""Settings of alerting that can't work are refused at the start, in one line that names them."""

from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from deploy.alerting import read_parameters, watched_dimensions, webhooks
from schemas.errors import ConfigurationError
from streams.detection import Parameters
from streams.settings import Settings


def test_addresses_and_dimensions() -> None:
    """Lists are separated by commas; nothing set is nobody told."""
    settings = Settings(alertmanager_urls="http://a:9093, http://b:9093,")
    assert settings.alertmanagers == ["http://a:9093", "http://b:9093"]
    assert Settings().alertmanagers == []
    assert webhooks(Settings()) == []
    assert [each.name for each in webhooks(Settings(alerts_webhook_url=SecretStr("http://a")))] == [
        "webhook"
    ]
    assert watched_dimensions(Settings(alert_dimensions="vendor, app")) == {"vendor", "app"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(alerts_webhook_url=SecretStr("ftp://a")), "ALERTS_WEBHOOK_URL: must begin with"),
        (
            Settings(
                alerts_webhook_url=SecretStr("http://a"),
                alerts_webhook_secret=SecretStr("whsec_?"),
            ),
            "ALERTS_WEBHOOK_SECRET",
        ),
        (Settings(alert_dimensions="vendor,vendors"), "ALERT_DIMENSIONS: 'vendors' is none of"),
        (Settings(alert_dimensions=" , "), "ALERT_DIMENSIONS: names no dimension"),
    ],
)
def test_what_can_not_work_is_named(settings: Settings, says: str) -> None:
    """An address and a secret are never quoted."""

    def check() -> None:
        webhooks(settings)
        watched_dimensions(settings)

    with pytest.raises(ConfigurationError, match=says) as caught:
        check()
    assert "ftp" not in str(caught.value)


def test_parameters_are_read_back(tmp_path: Path) -> None:
    """What calibration writes is what a worker uses; without a file the built-in ones."""
    path = tmp_path / "parameters.json"
    parameters = Parameters(thresholds={"vendor": 6.1})
    path.write_bytes(orjson.dumps(parameters.as_dict()))
    assert read_parameters(path).version == parameters.version
    assert read_parameters(None) == Parameters()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "unexpected end of data"),
        (b"[]", "it is no JSON object"),
        (b'{"treshold": 5}', "unknown parameters: treshold"),
    ],
)
def test_a_parameters_file_that_is_wrong_says_how(
    tmp_path: Path, content: bytes, says: str
) -> None:
    """And how to write one."""
    path = tmp_path / "parameters.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=says) as caught:
        read_parameters(path)
    assert "tokentide alerts calibrate" in str(caught.value)
