"""The published data shipped in ``deploy/local/data``, read and checked."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from schemas.errors import ConfigurationError

DATA = Path(__file__).parent / "data"
OPENROUTER_CREDIT = (
    "Source: OpenRouter (openrouter.ai/rankings), as of 2026-08-22. Licensed under CC BY 4.0."
)
AZURE_CREDIT = (
    'Source: Microsoft, Azure Public Dataset, "Azure LLM inference trace 2023" '
    "(Patel et al., Splitwise, ISCA 2024). Licensed under CC BY 4.0."
)


@dataclass(frozen=True)
class PublishedDay:
    """Tokens of one UTC day by model, largest first, with ``other`` as the last row.

    Attributes:
        date: ISO date.
        start_ms: Midnight UTC, epoch milliseconds.
        models: Names as published; a model appears once.
        tokens: Prompt and completion tokens, aligned with ``models``.
    """

    date: str
    start_ms: int
    models: tuple[str, ...]
    tokens: tuple[int, ...]


def openrouter_days() -> list[PublishedDay]:
    """Return the published days, oldest first.

    Raises:
        ConfigurationError: If the shipped file is missing or damaged.
    """
    rows = _read_csv(
        DATA / "openrouter_daily" / "rankings_daily.csv",
        {
            "date": pl.Date,
            "rank": pl.Int64,
            "model_permaslug": pl.String,
            "total_tokens": pl.Int64,
            "share_of_day": pl.Float64,
        },
    ).sort("date", "rank", nulls_last=True)
    days = []
    for (date,), day in rows.group_by("date", maintain_order=True):
        start_ms = day.select(pl.col("date").cast(pl.Datetime("ms")).cast(pl.Int64)).item(0, 0)
        models = tuple(day["model_permaslug"])
        if len(set(models)) != len(models) or day["total_tokens"].min() == 0:
            raise ConfigurationError(f"published day {date} is damaged: install tokentide again")
        days.append(PublishedDay(str(date), start_ms, models, tuple(day["total_tokens"])))
    return days


def task_tags() -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return OpenRouter's task tags and their shares of sampled requests.

    Raises:
        ConfigurationError: If the shipped file is missing or damaged.
    """
    rows = _read_csv(
        DATA / "openrouter_tasks" / "task_shares_2026-09-21.csv",
        {
            "window_days": pl.Int64,
            "as_of": pl.Date,
            "tag": pl.String,
            "macro_category": pl.String,
            "usage_share": pl.Float64,
            "token_share": pl.Float64,
        },
    )
    return tuple(rows["tag"]), tuple(rows["usage_share"])


def azure_requests(trace: str) -> pl.DataFrame:
    """Return one of Azure's traces, ``code`` or ``conv``, in the order of its file.

    Returns:
        Columns ``time_ms`` (epoch milliseconds UTC, digits below cut off), ``tokens_prompt``,
        ``tokens_completion``.

    Raises:
        ConfigurationError: If the shipped file is missing or damaged.
    """
    rows = _read_csv(
        DATA / "azure_llm_2023" / f"{trace}.csv.gz",
        {"TIMESTAMP": pl.String, "ContextTokens": pl.Int64, "GeneratedTokens": pl.Int64},
    )
    # 23 characters: the trace has 100 ns digits, which a millisecond column cannot hold.
    moment = pl.col("TIMESTAMP").str.slice(0, 23).str.to_datetime("%Y-%m-%d %H:%M:%S%.3f")
    return rows.select(
        moment.dt.epoch("ms").alias("time_ms"),
        pl.col("ContextTokens").alias("tokens_prompt"),
        pl.col("GeneratedTokens").alias("tokens_completion"),
    )


def _read_csv(file: Path, schema: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    try:
        return pl.read_csv(file, schema=schema)
    except (OSError, pl.exceptions.PolarsError) as error:
        fact = str(error).splitlines()[0]
        raise ConfigurationError(f"shipped data {file.name}: {fact}; install it again") from None
