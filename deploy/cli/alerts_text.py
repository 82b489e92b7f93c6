"""What the ``tokentide alerts`` commands share: finding an alert, times, lines of blocks."""

import re
from collections.abc import Sequence
from typing import Any

import click
from clickhouse_connect.driver.httpclient import HttpClient

from schemas.errors import FatalError
from sinks.clickhouse import CAUGHT, sorted_error

ID_CHARS_MIN = 4
BLOCKS = " ▁▂▃▄▅▆▇█"


def find_alert(client: HttpClient, prefix: str) -> str:
    """Return the identifier that begins with ``prefix``.

    Raises:
        click.BadParameter: It is too short or not hexadecimal.
        FatalError: No alert, or more than one, begins like that.
    """
    if not re.fullmatch(rf"[0-9a-f]{{{ID_CHARS_MIN},32}}", prefix):
        raise click.BadParameter(f"an ID is {ID_CHARS_MIN} to 32 hexadecimal digits")
    sql = (
        "SELECT DISTINCT alert_id FROM share_alerts WHERE startsWith(alert_id, {prefix:String})"
        " ORDER BY alert_id LIMIT 3"
    )
    rows = ask(client, sql, prefix=prefix)
    if not rows:
        raise FatalError(f"no alert {prefix}: see tokentide alerts list")
    if len(rows) > 1:
        some = ", ".join(row["alert_id"][:12] for row in rows)
        raise FatalError(f"{prefix} is the beginning of several alerts: {some}")
    return str(rows[0]["alert_id"])


def ask(client: HttpClient, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return the rows of an answer.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
    """
    try:
        return list(client.query(sql, parameters=parameters).named_results())
    except CAUGHT as error:
        raise sorted_error(error) from error


def blocks(values: Sequence[float]) -> str:
    """Return a line of block characters, one per value, the largest as a full one."""
    top = max(values, default=0.0)
    if top <= 0:
        return BLOCKS[0] * len(values)
    steps = len(BLOCKS) - 1
    return "".join(BLOCKS[max(round(steps * value / top), int(value > 0))] for value in values)
