"""The catalogue as CSV files: strict reading, one clear error for the first bad row."""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import TypeVar

from schemas.errors import ConfigurationError, RecordError
from schemas.model import PICOUSD_PER_TOKEN_MAX, Model, Price, model_from_members

T = TypeVar("T")

SHIPPED_DIRECTORY = Path(__file__).parent / "catalogue_data"

PRICE_SOURCES = ("or-", "orlist-", "modelsdev", "genai-prices", "hand")
"""Beginnings of the names of price sources, the most trusted first: captures of OpenRouter's own
catalogue, captures of its list, compilations, text. Any other source is the operator's own and
comes before all of these."""


def _text(text: str) -> object:
    return text


def _bool(text: str) -> object:
    if text not in ("true", "false"):
        raise ValueError("must be true, false or blank")
    return text == "true"


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number or blank") from None


def _int(text: str) -> object:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("must be a whole number or blank")
    return int(text)


def _list(text: str) -> object:
    return text.split("|")


COLUMNS: dict[str, Callable[[str], object]] = {
    "model_id": _text,
    "aliases": _list,
    "display_name": _text,
    "vendor": _text,
    "vendor_country": _text,
    "open_weights": _bool,
    "license": _text,
    "total_params_b": _number,
    "active_params_b": _number,
    "reasoning": _text,
    "tool_calling": _bool,
    "modalities_in": _list,
    "modalities_out": _list,
    "context_length": _int,
    "release_date": _text,
}
"""Columns of ``models.csv`` and how their text is read. Lists are separated by ``|``."""

PRICE_COLUMNS = ("price_prompt_usd_per_mtok", "price_completion_usd_per_mtok")


def parse_column(column: str, text: str) -> object:
    """Return the JSON-like value of one field's text; blank is ``None``, unknown.

    Raises:
        ValueError: If the text is not of the column's type, with the reason.
    """
    return COLUMNS[column](text) if text else None


def picousd_per_token(usd_per_mtok: str) -> int:
    """Return a price in picoUSD per token from the text of USD per million tokens.

    Raises:
        ValueError: If it is no exact number of picoUSD from 0 to `PICOUSD_PER_TOKEN_MAX`.
    """
    try:
        picousd = Decimal(usd_per_mtok) * 10**6
        exact = int(picousd)
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError("must be a number") from None
    if exact != picousd:
        raise ValueError("must have at most 6 decimals")
    if not 0 <= exact <= PICOUSD_PER_TOKEN_MAX:
        raise ValueError(f"must be from 0 to {PICOUSD_PER_TOKEN_MAX // 10**6}")
    return exact


def day_start_ms(day: str) -> int:
    """Return 00:00 UTC of ``YYYY-MM-DD`` in epoch milliseconds.

    Raises:
        ValueError: If it is no such date.
    """
    try:
        parsed = date.fromisoformat(day)
    except ValueError:
        raise ValueError("must be a date, YYYY-MM-DD") from None
    if parsed.isoformat() != day:
        raise ValueError("must be a date, YYYY-MM-DD")
    return int(datetime(parsed.year, parsed.month, parsed.day, tzinfo=UTC).timestamp()) * 1000


def read_models(directory: Path) -> list[Model]:
    """Return the models of ``models.csv`` with their aliases and dated prices.

    Aliases are those of ``aliases.csv`` and of the column ``aliases``. Prices are those of
    ``price_history.csv``: where sources disagree about a day the first of `PRICE_SOURCES` counts,
    within one source the first row; a price that repeats the one before it is left out, and the
    last one stays valid. The price columns of ``models.csv`` must repeat that last price.

    Raises:
        ConfigurationError: With file, line and column of the first bad row.
    """
    rows = list(_rows(directory / "models.csv", (*COLUMNS, *PRICE_COLUMNS)))
    lines: dict[str, _Row] = {}
    for row in rows:
        if row["model_id"] in lines:
            raise row.error(
                "model_id", f"{row['model_id']} is already in line {lines[row['model_id']].line}"
            )
        lines[row["model_id"]] = row
    aliases = _read_aliases(directory / "aliases.csv", set(lines))
    prices = _read_prices(directory / "price_history.csv", set(lines))
    return [_model(row, aliases[row["model_id"]], prices[row["model_id"]]) for row in rows]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a CSV file that knows where it stands."""

    file: Path
    line: int
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def error(self, column: str, why: str) -> ConfigurationError:
        return ConfigurationError(f"{self.file} line {self.line}: {column}: {why}")

    def parse(self, column: str, parse: Callable[[str], T]) -> T:
        try:
            return parse(self[column])
        except ValueError as error:
            raise self.error(column, f"{error}, is {self[column]!r}") from None


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[_Row]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            for column in columns:
                if column not in (reader.fieldnames or ()):
                    raise ConfigurationError(f"{file} line 1: column {column} is missing")
            for values in reader:
                row = _Row(file, reader.line_num, values)
                if None in values or None in values.values():
                    count = len(reader.fieldnames or ())
                    raise ConfigurationError(f"{file} line {row.line}: must have {count} columns")
                yield row
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"cannot read {file}: {error}") from None


def _read_aliases(file: Path, model_ids: set[str]) -> defaultdict[str, list[str]]:
    aliases: defaultdict[str, list[str]] = defaultdict(list)
    for row in _rows(file, ("alias", "model_id")):
        if not row["alias"].strip():
            raise row.error("alias", "is blank")
        if row["model_id"] not in model_ids:
            raise row.error("model_id", f"{row['model_id']!r} is not in models.csv")
        aliases[row["model_id"]].append(row["alias"])
    return aliases


def _read_prices(file: Path, model_ids: set[str]) -> defaultdict[str, list[Price]]:
    best: defaultdict[str, dict[int, tuple[int, Price]]] = defaultdict(dict)
    for row in _rows(file, ("model_id", "as_of", "source", *PRICE_COLUMNS)):
        if row["model_id"] not in model_ids:
            raise row.error("model_id", f"{row['model_id']!r} is not in models.csv")
        from_ms = row.parse("as_of", day_start_ms)
        prompt, completion = (row.parse(column, picousd_per_token) for column in PRICE_COLUMNS)
        rank = _source_rank(row["source"])
        days = best[row["model_id"]]
        if from_ms not in days or rank < days[from_ms][0]:
            days[from_ms] = (rank, Price(from_ms, prompt, completion))
    prices: defaultdict[str, list[Price]] = defaultdict(list)
    for model_id, days in best.items():
        prices[model_id] = _changes([days[from_ms][1] for from_ms in sorted(days)])
    return prices


def _source_rank(source: str) -> int:
    ranks = (rank for rank, start in enumerate(PRICE_SOURCES) if source.startswith(start))
    return next(ranks, -1)


def _changes(prices: list[Price]) -> list[Price]:
    changes: list[Price] = []
    for price in prices:
        if not changes or _amounts(price) != _amounts(changes[-1]):
            changes.append(price)
    return changes


def _amounts(price: Price) -> tuple[int, int]:
    return price.prompt_picousd_per_token, price.completion_picousd_per_token


def _model(row: _Row, aliases: list[str], prices: list[Price]) -> Model:
    members = {column: row.parse(column, partial(parse_column, column)) for column in COLUMNS}
    own = members["aliases"]
    assert own is None or isinstance(own, list)
    members["aliases"] = sorted({*aliases, *(own or ())})
    members["prices"] = [asdict(price) for price in prices]
    _check_last_price(row, prices)
    try:
        return model_from_members(members)
    except RecordError as error:
        raise row.error(error.field, error.reason.value.replace("_", " ")) from None


def _check_last_price(row: _Row, prices: list[Price]) -> None:
    last = _amounts(prices[-1]) if prices else (None, None)
    for column, expected in zip(PRICE_COLUMNS, last, strict=True):
        given = row.parse(column, picousd_per_token) if row[column] else None
        if given != expected:
            raise row.error(
                column, f"is {row[column] or 'blank'}, not the last of price_history.csv"
            )
