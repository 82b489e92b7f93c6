"""Where ClickHouse is, for whom: the addresses that the settings name."""

from pydantic import SecretStr

from sinks.clickhouse import ClickHouseAddress
from streams.settings import Settings


def writer_address(settings: Settings) -> ClickHouseAddress:
    """Return how the worker and ``tokentide migrate`` reach ClickHouse."""
    return _address(settings, settings.clickhouse_user, settings.clickhouse_password)


def reader_address(settings: Settings) -> ClickHouseAddress:
    """Return how commands that only read reach ClickHouse."""
    return _address(settings, settings.clickhouse_reader_user, settings.clickhouse_reader_password)


def _address(settings: Settings, user: str, password: SecretStr) -> ClickHouseAddress:
    return ClickHouseAddress(
        host=settings.clickhouse_host,
        port=settings.clickhouse_port,
        user=user,
        password=password.get_secret_value(),
        database=settings.clickhouse_database,
        secure=settings.clickhouse_secure,
        connect_timeout_seconds=settings.clickhouse_connect_timeout_seconds,
        request_timeout_seconds=settings.clickhouse_request_timeout_seconds,
    )
