"""Every check, for ``tokentide doctor`` and for a worker that is about to start."""

import dataclasses

import structlog
from clickhouse_connect.driver.httpclient import HttpClient

from deploy.addresses import writer_address
from deploy.kafka_admin import admin_client
from deploy.self_check.alerting import alerting_checks
from deploy.self_check.check import Check, State, unsafe
from deploy.self_check.clickhouse import clickhouse_checks, newest_stored_offsets
from deploy.self_check.kafka import kafka_checks
from schemas.errors import ConfigurationError, FatalError, RetryableError
from sinks import clickhouse
from streams.settings import Settings

log = structlog.get_logger()

_REACH = {
    "clickhouse": "start it with tokentide up, or set TOKENTIDE_CLICKHOUSE_HOST, _PORT, _USER and"
    " _PASSWORD to where it is and who may use it",
    "kafka": "start it with tokentide up, or set TOKENTIDE_KAFKA_BOOTSTRAP_SERVERS to where it is",
}


def require_safe(settings: Settings, client: HttpClient) -> None:
    """Return if a worker may start; warnings are logged.

    Args:
        client: The writer's, connected to a database that exists.

    Raises:
        ConfigurationError: Something could lose or double events. Names the first such thing, which
            is the most basic one, and its fix.
        RetryableError: ClickHouse or Kafka does not answer.
    """
    refuse_unsafe(_of_clickhouse(settings, client))
    refuse_unsafe(_of_kafka(settings, newest_stored_offsets(client, settings.clickhouse_database)))


def refuse_unsafe(checks: list[Check]) -> None:
    """Log the warnings.

    Raises:
        ConfigurationError: For the first unsafe check.
    """
    for check in checks:
        if check.state is State.UNSAFE:
            raise ConfigurationError(
                f"{check.found}: {check.fix} (tokentide doctor shows every check)"
            )
        if check.state is State.WARNING:
            log.warning("check.warned", check=check.name, found=check.found, fix=check.fix)


def diagnose(settings: Settings) -> list[Check]:
    """Return every check; a part that does not answer is one too, and hides those about it."""
    checks, stored = _diagnose_clickhouse(settings)
    try:
        checks += _of_kafka(settings, stored)
    except (FatalError, RetryableError) as error:
        checks.append(_no_answer("kafka", error))
    return checks + alerting_checks(settings)


def _diagnose_clickhouse(settings: Settings) -> tuple[list[Check], dict[int, int]]:
    address = dataclasses.replace(writer_address(settings), database="default")
    try:
        client = clickhouse.connect(address)
    except (FatalError, RetryableError) as error:
        return [_no_answer("clickhouse", error)], {}
    try:
        checks = _of_clickhouse(settings, client)
        return checks, _stored_offsets(settings, client)
    except (FatalError, RetryableError) as error:
        return [_no_answer("clickhouse", error)], {}
    finally:
        client.close()


def _stored_offsets(settings: Settings, client: HttpClient) -> dict[int, int]:
    try:
        return newest_stored_offsets(client, settings.clickhouse_database)
    except FatalError:
        return {}  # A table, a column or a right is missing, which has a row of its own.


def _no_answer(part: str, error: Exception) -> Check:
    return unsafe(part, str(error), _REACH[part])


def _of_clickhouse(settings: Settings, client: HttpClient) -> list[Check]:
    return clickhouse_checks(client, settings.clickhouse_database, settings.clickhouse_user)


def _of_kafka(settings: Settings, stored: dict[int, int]) -> list[Check]:
    with admin_client(settings.kafka_bootstrap_servers) as admin:
        return kafka_checks(
            admin,
            bootstrap_servers=settings.kafka_bootstrap_servers,
            group=settings.consumer_group,
            worker_name=settings.worker_name,
            stored=stored,
        )
