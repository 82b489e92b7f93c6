"""What happened in a period that a chart should name: models that came out, prices that moved."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from functools import cache
from typing import Any

from deploy.dashboard.answering import Answering
from deploy.dashboard.questions import BadQuestionError, day
from schemas.catalogue import load_shipped
from schemas.model import Model, Price

SHOWN_MAX = 12
PICOUSD_PER_TOKEN_TO_USD_PER_MILLION = 1e-6


@dataclass(frozen=True)
class Annotation:
    """Something on a day.

    Attributes:
        kind: release or price.
        tokens: What the model was used for in the period: the more, the more it is worth naming.
    """

    day: str
    kind: str
    model: str
    vendor: str
    text: str
    tokens: int


async def annotations(answering: Answering, given: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what happened from ``from_day`` to ``to_day`` to the models that were used most then.

    Raises:
        BadQuestionError: A day is missing or wrong.
    """
    try:
        from_day, to_day = day(given["from_day"]), day(given["to_day"])
    except KeyError as error:
        raise BadQuestionError(f"{error.args[0]}: missing") from None
    except ValueError as error:
        raise BadQuestionError(str(error)) from None
    answer = await answering.ask("models", {"from_day": from_day, "to_day": to_day})
    tokens = {str(row[0]): int(row[2]) for row in answer.rows}
    models = await asyncio.to_thread(_catalogue)
    return [asdict(each) for each in happened(models, tokens, from_day, to_day)]


@cache
def _catalogue() -> tuple[Model, ...]:
    return tuple(load_shipped().models.values())


def happened(
    models: Iterable[Model], tokens: Mapping[str, int], from_day: str, to_day: str
) -> list[Annotation]:
    """Return releases and changes of price from ``from_day`` until before ``to_day``, by day.

    Args:
        tokens: By model, of the period; models without are passed over.
    """
    found = []
    for model in models:
        used = tokens.get(model.model_id, 0)
        if not used:
            continue
        if model.release_date and from_day <= model.release_date < to_day:
            found.append(
                Annotation(
                    model.release_date,
                    "release",
                    model.model_id,
                    model.vendor or "",
                    f"{model.display_name or model.model_id} released",
                    used,
                )
            )
        found += [
            Annotation(on, "price", model.model_id, model.vendor or "", text, used)
            for on, text in _price_changes(model)
            if from_day <= on < to_day
        ]
    found.sort(key=lambda each: (-each.tokens, each.day))
    return sorted(found[:SHOWN_MAX], key=lambda each: (each.day, each.model))


def _price_changes(model: Model) -> Iterable[tuple[str, str]]:
    for before, after in zip(model.prices, model.prices[1:], strict=False):
        if _usd(before) == _usd(after):
            continue
        on = date(1970, 1, 1) + timedelta(milliseconds=after.valid_from_ms)
        name = model.display_name or model.model_id
        yield on.isoformat(), f"{name}: {_usd(before)} to {_usd(after)} USD per million tokens"


def _usd(price: Price) -> str:
    prompt = price.prompt_picousd_per_token * PICOUSD_PER_TOKEN_TO_USD_PER_MILLION
    completion = price.completion_picousd_per_token * PICOUSD_PER_TOKEN_TO_USD_PER_MILLION
    return f"{prompt:.3g}/{completion:.3g}"
