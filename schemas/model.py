"""What is known of one language model, and its JSON form in the topic ``llm-models-v1``.

Everything but the id may be unknown, and unknown is ``None``: there is no default country, licence
or size. `origin` and `size_class` are the groups of OpenRouter's "State of AI" study.
"""

import bisect
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Literal, TypeVar, cast

import orjson

from schemas.errors import Reason, RecordError

SCHEMA_VERSION = 1

T = TypeVar("T")

Reasoning = Literal["none", "optional", "always"]
Origin = Literal["proprietary", "chinese_open", "other_open", "unknown"]
SizeClass = Literal["small", "medium", "large", "unknown"]

TEXT_LENGTH_MAX = 256
ALIASES_MAX = 1_000
PRICES_MAX = 5_000
PARAMS_B_MAX = 1_000_000.0
CONTEXT_LENGTH_MAX = 10_000_000_000
TIME_MS_MAX = 253_402_300_799_999  # 9999-12-31

PICOUSD_PER_TOKEN_MAX = 10**11
"""USD 100,000 per million tokens. A cost of 60 million tokens, the most of one event, then stays
below 2**63 picoUSD, so that columnar code may multiply in signed 64-bit integers."""

RESERVED_IDS = frozenset({"unknown", "other"})
"""Not names of models: the tables say ``unknown`` and the share views ``other`` in their place."""

FREE_VARIANT = "free"
UNPRICED_VARIANTS = frozenset({"batch", "extended"})
"""Variants sold at a price of their own that the catalogue does not hold: their cost is unknown."""


@dataclass(frozen=True, slots=True)
class Price:
    """List price from a moment on, until the next one.

    Attributes:
        valid_from_ms: Epoch milliseconds UTC.
        prompt_picousd_per_token: USD per million tokens, times 10**6.
        completion_picousd_per_token: The same for completion tokens.
    """

    valid_from_ms: int
    prompt_picousd_per_token: int
    completion_picousd_per_token: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model; ``None`` and an empty tuple mean unknown.

    Attributes:
        model_id: OpenRouter slug without ``:variant``, lower case.
        aliases: Other names of the same checkpoint; matched without regard to case.
        vendor_country: ISO 3166-1 alpha-2 of where the lab is, not of its sales company.
        license: SPDX identifier, ``LicenseRef-*`` or ``proprietary``.
        total_params_b: Parameters in billions, all experts.
        active_params_b: Parameters in billions that take part in one token.
        context_length: Tokens.
        release_date: ``YYYY-MM-DD``.
        prices: By ``valid_from_ms``, strictly ascending.
    """

    model_id: str
    aliases: tuple[str, ...] = ()
    display_name: str | None = None
    vendor: str | None = None
    vendor_country: str | None = None
    open_weights: bool | None = None
    license: str | None = None
    total_params_b: float | None = None
    active_params_b: float | None = None
    reasoning: Reasoning | None = None
    tool_calling: bool | None = None
    modalities_in: tuple[str, ...] = ()
    modalities_out: tuple[str, ...] = ()
    context_length: int | None = None
    release_date: str | None = None
    prices: tuple[Price, ...] = ()


def origin(model: Model) -> Origin:
    """Return who stands behind the weights: the study's three groups, or unknown.

    Open weights from a lab in China are ``chinese_open``. Where the weights are known to be open
    and the country is not, the group is unknown: neither half may be guessed.

    Source:
        State of AI (OpenRouter, 2025): open means weights publicly available; the country is that
        of the developing lab.
    """
    if model.open_weights is None:
        return "unknown"
    if not model.open_weights:
        return "proprietary"
    if model.vendor_country is None:
        return "unknown"
    return "chinese_open" if model.vendor_country == "CN" else "other_open"


def size_class(model: Model) -> SizeClass:
    """Return small (below 15B), medium (below 70B) or large, by total parameters.

    Source:
        State of AI (OpenRouter, 2025): a mixture of experts counts with all its parameters.
    """
    if model.total_params_b is None:
        return "unknown"
    if model.total_params_b < 15:
        return "small"
    return "medium" if model.total_params_b < 70 else "large"


def price_at(model: Model, at_ms: int) -> Price | None:
    """Return the price valid at a moment, or ``None`` before the first known one."""
    after = bisect.bisect_right(model.prices, at_ms, key=lambda price: price.valid_from_ms)
    return model.prices[after - 1] if after else None


def list_cost_nanousd(
    model: Model,
    variant: str,
    occurred_at_ms: int,
    tokens_prompt: int | None,
    tokens_completion: int | None,
) -> int | None:
    """Return what a request costs at list price, in nanoUSD rounded half up, or ``None`` if unknown.

    Args:
        model: The resolved model.
        variant: `Resolution.variant`: ``free`` costs 0; one of `UNPRICED_VARIANTS` is unknown.
        occurred_at_ms: Event time: prices move, some of them daily.
        tokens_prompt: Prompt tokens; ``None`` is unknown.
        tokens_completion: Completion tokens; ``None`` is unknown.
    """
    if variant == FREE_VARIANT:
        return 0
    price = price_at(model, occurred_at_ms)
    if (
        price is None
        or variant in UNPRICED_VARIANTS
        or tokens_prompt is None
        or tokens_completion is None
    ):
        return None
    picousd = (
        tokens_prompt * price.prompt_picousd_per_token
        + tokens_completion * price.completion_picousd_per_token
    )
    return (picousd + 500) // 1000


def encode_model(model: Model) -> bytes:
    """Return the model as JSON: equal models give equal bytes."""
    members = {"schema_version": SCHEMA_VERSION, **asdict(model)}
    return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)


def decode_model(value: bytes, key: bytes | None = None) -> Model:
    """Return the model of one record of the topic.

    Args:
        value: The JSON object that `encode_model` writes. Absent or null members are unknown;
            members that are not ours are ignored.
        key: The record's key, if it is to be compared with ``model_id``.

    Raises:
        RecordError: With the first field that cannot be right.
    """
    if not value:
        raise RecordError(Reason.EMPTY_VALUE)
    try:
        members = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise RecordError(Reason.INVALID_JSON) from None
    if not isinstance(members, dict):
        raise RecordError(Reason.NOT_AN_OBJECT)
    version = members.get("schema_version")
    if version is None:
        raise RecordError(Reason.MISSING_FIELD, "schema_version")
    if version != SCHEMA_VERSION or type(version) is not int:
        raise RecordError(Reason.UNSUPPORTED_VERSION, "schema_version")
    model = model_from_members(members)
    if key is not None and key != model.model_id.encode():
        raise RecordError(Reason.OUT_OF_RANGE, "model_id")
    return model


def model_from_members(members: Mapping[str, object]) -> Model:
    """Return a model from JSON-like members, each checked.

    Raises:
        RecordError: With the first field that cannot be right.
    """

    def read(name: str, check: Callable[[object, str], T]) -> T | None:
        value = members.get(name)
        return None if value is None else check(value, name)

    model_id = read("model_id", _model_id)
    if model_id is None:
        raise RecordError(Reason.MISSING_FIELD, "model_id")
    return Model(
        model_id=model_id,
        aliases=read("aliases", _texts) or (),
        display_name=read("display_name", _text),
        vendor=read("vendor", _dimension),
        vendor_country=read("vendor_country", _country),
        open_weights=read("open_weights", _bool),
        license=read("license", _dimension),
        total_params_b=read("total_params_b", _params_b),
        active_params_b=read("active_params_b", _params_b),
        reasoning=read("reasoning", _reasoning),
        tool_calling=read("tool_calling", _bool),
        modalities_in=read("modalities_in", _texts) or (),
        modalities_out=read("modalities_out", _texts) or (),
        context_length=read("context_length", _context_length),
        release_date=read("release_date", _date),
        prices=read("prices", _prices) or (),
    )


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise RecordError(Reason.WRONG_TYPE, name)
    if not value.strip():
        raise RecordError(Reason.EMPTY_TEXT, name)
    if len(value) > TEXT_LENGTH_MAX:
        raise RecordError(Reason.TOO_LONG, name)
    if value != value.strip() or "\0" in value:
        raise RecordError(Reason.OUT_OF_RANGE, name)
    return value


def _dimension(value: object, name: str) -> str:
    """Text that becomes a value of a dimension, where ``unknown`` stands for null."""
    text = _text(value, name)
    if text.lower() in RESERVED_IDS:
        raise RecordError(Reason.OUT_OF_RANGE, name)
    return text


def _model_id(value: object, name: str) -> str:
    text = _dimension(value, name)
    if text != text.lower() or any(character.isspace() for character in text):
        raise RecordError(Reason.OUT_OF_RANGE, name)
    return text


def _country(value: object, name: str) -> str:
    text = _text(value, name)
    if not re.fullmatch("[A-Z]{2}", text):
        raise RecordError(Reason.OUT_OF_RANGE, name)
    return text


def _reasoning(value: object, name: str) -> Reasoning:
    text = _text(value, name)
    if text not in ("none", "optional", "always"):
        raise RecordError(Reason.OUT_OF_RANGE, name)
    return cast(Reasoning, text)


def _date(value: object, name: str) -> str:
    text = _text(value, name)
    try:
        if date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise RecordError(Reason.OUT_OF_RANGE, name)


def _bool(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise RecordError(Reason.WRONG_TYPE, name)
    return value


def _params_b(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecordError(Reason.WRONG_TYPE, name)
    if not 0 < value <= PARAMS_B_MAX:
        raise RecordError(Reason.OUT_OF_RANGE, name)
    return float(value)


def _context_length(value: object, name: str) -> int:
    return _int(value, name, 1, CONTEXT_LENGTH_MAX)


def _int(value: object, name: str, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RecordError(Reason.WRONG_TYPE, name)
    if not lowest <= value <= highest:
        raise RecordError(Reason.OUT_OF_RANGE, name)
    return value


def _list(value: object, name: str, items_max: int) -> list[object]:
    if not isinstance(value, list | tuple):
        raise RecordError(Reason.WRONG_TYPE, name)
    if len(value) > items_max:
        raise RecordError(Reason.TOO_LONG, name)
    return list(value)


def _texts(value: object, name: str) -> tuple[str, ...]:
    return tuple(_text(item, name) for item in _list(value, name, ALIASES_MAX))


def _prices(value: object, name: str) -> tuple[Price, ...]:
    prices = tuple(_price(item, name) for item in _list(value, name, PRICES_MAX))
    times = [price.valid_from_ms for price in prices]
    if times != sorted(set(times)):
        raise RecordError(Reason.OUT_OF_RANGE, f"{name}.valid_from_ms")
    return prices


def _price(item: object, name: str) -> Price:
    if not isinstance(item, dict):
        raise RecordError(Reason.WRONG_TYPE, name)

    def read(member: str, highest: int) -> int:
        field = f"{name}.{member}"
        if item.get(member) is None:
            raise RecordError(Reason.MISSING_FIELD, field)
        return _int(item[member], field, 0, highest)

    return Price(
        read("valid_from_ms", TIME_MS_MAX),
        read("prompt_picousd_per_token", PICOUSD_PER_TOKEN_MAX),
        read("completion_picousd_per_token", PICOUSD_PER_TOKEN_MAX),
    )
