"""Questions of the page, put to ClickHouse: few connections, each answer shared by all who ask."""

import asyncio
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from clickhouse_connect.driver.httpclient import HttpClient

from deploy.dashboard.questions import QUESTIONS, BadQuestionError
from sinks.clickhouse import CAUGHT, ClickHouseAddress, connect, sorted_error

THREADS = 4
QUERY_SECONDS_MAX = 20.0
ANSWERS_KEPT_MAX = 500


@dataclass(frozen=True)
class Answer:
    """What ClickHouse said.

    Attributes:
        sql: What it was asked, word for word.
        rows: Values by column; times are milliseconds since 1970, dates text, decimals numbers.
        asked_at_ms: When, by this machine's clock.
    """

    sql: str
    columns: list[str]
    rows: list[list[Any]]
    asked_at_ms: int
    elapsed_ms: int


class Answering:
    """Puts questions to ClickHouse as the user who may only read.

    An answer is kept for as long as its question says, and a question that is being answered is not
    asked again: a hundred open pages cost as much as one. Failures are not kept.
    """

    def __init__(self, address: ClickHouseAddress) -> None:
        # The reader may be bound to its settings, so the limit is the client's.
        self._address = replace(address, request_timeout_seconds=QUERY_SECONDS_MAX)
        self.database = address.database
        self._pool = ThreadPoolExecutor(THREADS, "dashboard")
        self._of_thread = threading.local()
        self._answers: dict[str, tuple[float, asyncio.Future[Answer]]] = {}

    async def ask(self, name: str, given: Mapping[str, str]) -> Answer:
        """Return the answer to a question of `QUESTIONS`.

        Raises:
            BadQuestionError: There is no such question, or its parameters are wrong.
            SinkUnavailableError, RejectedBatchError, FatalError: ClickHouse does not answer or
                refuses.
        """
        question = QUESTIONS.get(name)
        if question is None:
            raise BadQuestionError(f"{name}: no such question")
        sql = question.text(given)
        now = time.monotonic()
        kept_until, answer = self._answers.get(sql, (0.0, None))
        if answer is None or (answer.done() and now >= kept_until):
            answer = asyncio.get_running_loop().run_in_executor(self._pool, self._query, sql)
            answer.add_done_callback(lambda done: self._keep(sql, question.kept_seconds, done))
            self._answers[sql] = (now, answer)
        # One page that goes away must not take the answer from the others.
        return await asyncio.shield(answer)

    def _keep(self, sql: str, seconds: float, done: "asyncio.Future[Answer]") -> None:
        if done.cancelled() or done.exception() is not None:
            self._answers.pop(sql, None)
            return
        now = time.monotonic()
        self._answers[sql] = (now + seconds, done)
        if len(self._answers) > ANSWERS_KEPT_MAX:
            self._answers = {
                each: kept
                for each, kept in self._answers.items()
                if kept[0] > now or not kept[1].done()
            }

    def call(self, work: Any) -> "asyncio.Future[Any]":
        """Run ``work(client)`` in a thread that has a client."""
        return asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(self._client()))

    def _client(self) -> HttpClient:
        client: HttpClient | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = connect(self._address)
        return client

    def _query(self, sql: str) -> Answer:
        begun = time.monotonic()
        asked_at_ms = time.time_ns() // 1_000_000
        try:
            result = self._client().query(sql)
        except CAUGHT as error:
            raise sorted_error(error) from error
        return Answer(
            sql,
            list(result.column_names),
            [[_plain(value) for value in row] for row in result.result_rows],
            asked_at_ms,
            round((time.monotonic() - begun) * 1000),
        )

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1000)
    return value.isoformat() if isinstance(value, date) else value
