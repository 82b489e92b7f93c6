"""What the study published against what the views answer: ``tokentide report --check``."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from clickhouse_connect.driver.httpclient import HttpClient

from deploy.report.published import CONTRADICTIONS, PUBLISHED, Published

MARKS = {"both": "", "one": "one rendering", "chart": "read off a chart"}


@dataclass(frozen=True)
class Answered:
    """A published number and the answer.

    Attributes:
        answer: ``None`` if there is nothing to answer with.
    """

    published: Published
    answer: float | None

    @property
    def is_within(self) -> bool:
        """Whether it lies where it has to."""
        return self.answer is not None and self.published.low <= self.answer <= self.published.high


def check(client: HttpClient, asked: Callable[[], None]) -> list[Answered]:
    """Ask every number.

    Args:
        asked: Called after each.
    """
    found = []
    for each in PUBLISHED:
        rows = client.query(each.sql).result_rows
        value = rows[0][0] if rows else None
        answer = None if value is None or value != value else float(value)
        found.append(Answered(each, answer))
        asked()
    return found


def table(found: Sequence[Answered]) -> Iterator[str]:
    """Yield the lines of a page, Markdown."""
    within = sum(each.is_within for each in found)
    yield "# What the study published, and what the views answer\n"
    yield (
        'Source: "State of AI: An Empirical 100 Trillion Token Study with OpenRouter", a16z and'
        " OpenRouter, December 2025. Written by `tokentide report --check`.\n"
    )
    yield (
        "The numbers were put into a simulated market (`tokentide replay study`), so that they come out"
        " proves the way, not the market: requests through Kafka, a worker, enrichment and rollups to"
        " the views.\n"
    )
    yield f"**{within} of {len(found)} within their range.**\n"
    yield "| analysis | number | published | range | answer | within | |"
    yield "|---:|---|---|---|---:|---|---|"
    for each in found:
        published = each.published
        yield (
            f"| {published.analysis} | {published.says} | {published.number}"
            f" | {_text(published.low)} to {_text(published.high)} | {_text(each.answer)}"
            f" | {'yes' if each.is_within else '**no**'} | {MARKS[published.mark]} |"
        )
    yield "\n## Where the study contradicts itself\n"
    for contradiction in CONTRADICTIONS:
        yield f"* {contradiction}"


def _text(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
