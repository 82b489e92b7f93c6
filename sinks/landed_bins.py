"""Five-minute bins counted from stored events as they had landed at each moment."""

import pyarrow as pa

from schemas.panes import DIMENSIONS, PAIR_SEPARATOR, UNKNOWN
from sinks.clickhouse import CAUGHT, sorted_error
from sinks.stored_events import QueryClient
from sinks.usage_events import TABLE

BIN_SECONDS = 300


class LandedBins:
    """Counts bins anew from ``usage_events``.

    Args:
        tokens_cap: As ``TOKENTIDE_TOKENS_CAP``.
        lateness_ms: How long after its end a bin was closed. ``None`` counts all that is stored now,
            for events that were loaded long after they happened.
    """

    def __init__(
        self, client: QueryClient, database: str, *, tokens_cap: int, lateness_ms: int | None
    ) -> None:
        self._client = client
        self._table = f"{database}.{TABLE}"
        self._tokens_cap = tokens_cap
        self._lateness_ms = lateness_ms

    def read(self, dimension: str, from_ms: int, to_ms: int) -> pa.Table:
        """Return a row per bin and value, in the order of bins, larger values first.

        Args:
            dimension: Of `schemas.panes.DIMENSIONS`.
            from_ms: Start of the first bin, epoch milliseconds, a multiple of its length.
            to_ms: End of the last bin.

        Returns:
            ``end_ms`` (int64), ``value`` (text), and int64 ``requests``, ``tokens``,
            ``tokens_capped``, ``tokens_capped_squared``, ``users`` and ``errors``.

        Raises:
            SinkUnavailableError: Not now.
            FatalError: Anything else.
        """
        parameters = {
            "from_ms": from_ms,
            "to_ms": to_ms,
            "cap": self._tokens_cap,
            "lateness_ms": self._lateness_ms or 0,
        }
        landed = ""
        if self._lateness_ms is not None:
            landed = (
                f" AND toUnixTimestamp64Milli(ingested_at) <= {_END_MS} + {{lateness_ms:Int64}}"
            )
        sql = (
            f"SELECT {_END_MS} AS end_ms, {_value(dimension)} AS value,"
            " toInt64(count()) AS requests,"
            f" toInt64(sum({_TOKENS})) AS tokens,"
            f" toInt64(sum(least({_TOKENS}, {{cap:UInt64}}))) AS tokens_capped,"
            f" toInt64(sum(pow(least({_TOKENS}, {{cap:UInt64}}), 2))) AS tokens_capped_squared,"
            " toInt64(uniq(user_hash)) AS users, toInt64(countIf(status != 'ok')) AS errors"
            f" FROM {self._table}"
            " WHERE occurred_at >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')"
            f" AND occurred_at < fromUnixTimestamp64Milli({{to_ms:Int64}}, 'UTC'){landed}"
            " GROUP BY end_ms, value ORDER BY end_ms, tokens DESC, value"
        )
        try:
            return self._client.query_arrow(sql, parameters=parameters)
        except CAUGHT as error:
            raise sorted_error(error, detail=False) from error


_TOKENS = "(toUInt64(ifNull(tokens_prompt, 0)) + ifNull(tokens_completion, 0))"
_END_MS = (
    f"(intDiv(toUnixTimestamp64Milli(occurred_at), {BIN_SECONDS * 1000}) + 1)"
    f" * {BIN_SECONDS * 1000}"
)


def _value(dimension: str) -> str:
    names = DIMENSIONS[dimension]
    if len(names) == 1:
        return f"toString({names[0]})"
    unknown = " OR ".join(f"{name} = '{UNKNOWN}'" for name in names)
    pair = f", '{PAIR_SEPARATOR}', ".join(f"toString({name})" for name in names)
    return f"if({unknown}, '{UNKNOWN}', concat({pair}))"
