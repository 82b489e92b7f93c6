"""The model catalogue: which model a name means, and what is known of that model.

Names are resolved, never guessed. `Catalogue.resolve` states the rules; what they do not cover is
unresolved and is stored as ``unknown``. A catalogue is immutable: a change makes a new snapshot.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Self

from schemas.catalogue_files import SHIPPED_DIRECTORY, read_models
from schemas.model import (
    Model,
    Origin,
    Price,
    Reasoning,
    SizeClass,
    decode_model,
    encode_model,
    list_cost_nanousd,
    origin,
    price_at,
    size_class,
)

__all__ = [
    "UNKNOWN",
    "VARIANTS",
    "Catalogue",
    "Model",
    "Origin",
    "Price",
    "Reasoning",
    "Resolution",
    "SizeClass",
    "decode_model",
    "encode_model",
    "list_cost_nanousd",
    "load_directory",
    "load_shipped",
    "origin",
    "price_at",
    "size_class",
]

UNKNOWN = "unknown"

VARIANTS = ("free", "batch", "extended", "thinking", "beta", "exacto", "nitro", "floor", "online")
"""Suffixes that ask for the same model in another way. The first ones decide the price.

Source:
    OpenRouter, "Model Variants": catalogue variants (an entry and a price of their own) and routing
    variants. ``:0`` of Bedrock and ``:70b`` of Ollama are parts of a name, not variants.
"""

MOVING_NAMES = frozenset(
    {
        "deepseek-chat",
        "deepseek-coder",
        "deepseek-reasoner",
        "deepseek-v4-flash",
        "deepseek-v4-pro",
        "codestral",
        "devstral-medium",
        "devstral-small",
        "magistral-medium",
        "magistral-small",
        "ministral-3b",
        "ministral-8b",
        "mistral-large",
        "mistral-medium",
        "mistral-small",
        "mistral-tiny",
        "pixtral-large",
        "qwen-max",
        "qwen-plus",
        "qwen-turbo",
        "qwen-vl-max",
        "qwen-vl-plus",
    }
)
"""Last parts of names behind which vendors change the model: a date there says which model it is,
so it is never cut. So are all names in ``-latest``."""

_DATED = re.compile(r"(?P<base>.+)-(?P<date>20\d{6}|20\d\d-[01]\d-[0-3]\d)", re.ASCII)
_CHECKPOINT = re.compile(r"(?P<base>.+?)-(?:20\d{6}|20\d\d-[01]\d-[0-3]\d|[01]\d-20\d\d|\d{4})")
_ASCII_BLANKS = " \t\n\r\v\f"


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a name means.

    Attributes:
        model: The model.
        variant: One of `VARIANTS`, or ``""``.
    """

    model: Model
    variant: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A snapshot of all models.

    Attributes:
        models: By ``model_id``.
        version: Grows by one with every change: a cheap key for what was derived from a snapshot.
        ambiguous: Aliases that two models claim, in lower case, sorted. They resolve to nothing.
    """

    models: Mapping[str, Model]
    version: int = 0
    ambiguous: tuple[str, ...] = field(init=False)
    _names: Mapping[str, str] = field(init=False, repr=False)
    _dates: Mapping[str, Mapping[str, str | None]] = field(init=False, repr=False)
    _checkpointed: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for model_id, model in self.models.items():
            assert model_id == model.model_id
        names, ambiguous = _index_names(self.models)

        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("models", MappingProxyType(dict(self.models)))
        put("ambiguous", ambiguous)
        put("_names", names)
        put("_dates", _index_dates(names))
        put("_checkpointed", _checkpointed(names))

    @classmethod
    def of(cls, models: Iterable[Model], version: int = 0) -> Self:
        """Return a catalogue of these models; of two with one id the last one counts."""
        return cls({model.model_id: model for model in models}, version)

    def with_changes(self, changes: Mapping[str, Model | None]) -> "Catalogue":
        """Return the next snapshot: models added or replaced by id, and removed where ``None``."""
        models = {**self.models, **changes}
        kept = {model_id: model for model_id, model in models.items() if model is not None}
        return Catalogue(kept, self.version + 1)

    def resolve(self, name: str) -> Resolution | None:
        """Return the model that ``name`` means, or ``None``: unresolved. The first rule that fits:

        1. Blanks at both ends are dropped; case does not matter.
        2. The name is a model id, else an alias. An alias of two models is unresolved.
        3. Variants (`VARIANTS`: ``:free``, ``:thinking``, ...) are cut from the end, one by one, and
           rule 2 is tried after each.
        4. What is left ends in a date (``-YYYYMMDD`` or ``-YYYY-MM-DD``) and rule 2 finds a model
           without it. If the catalogue knows a name of that model with that date in either
           spelling, it is the model of that name. If it knows the model by other dates only, or
           as several checkpoints, or as a moving name (`MOVING_NAMES`, ``*-latest``), the date
           may mean another model: unresolved. Otherwise it is the model without the date.

        A part of a name never matches.
        """
        name = name.strip(_ASCII_BLANKS).lower()
        variant = _variant(name)
        model_id = self._resolve_lower(name)
        return None if model_id is None else Resolution(self.models[model_id], variant)

    def _resolve_lower(self, name: str) -> str | None:
        while True:
            if model_id := self._names.get(name):
                return model_id
            if name in self.ambiguous:
                return None
            base, colon, suffix = name.rpartition(":")
            if not colon or suffix not in VARIANTS:
                return self._resolve_dated(name)
            name = base

    def _resolve_dated(self, name: str) -> str | None:
        dated = _DATED.fullmatch(name)
        if dated is None:
            return None
        model_id = self._names.get(dated["base"])
        if model_id is None or _is_moving(dated["base"]) or _is_moving(model_id):
            return None
        if known := self._dates.get(model_id):
            return known.get(dated["date"].replace("-", ""))
        return None if model_id in self._checkpointed else model_id


def _variant(name: str) -> str:
    suffixes = name.split(":")[1:]
    return next((variant for variant in VARIANTS if variant in suffixes), "")


def _is_moving(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last in MOVING_NAMES or last.endswith("-latest")


def _index_names(models: Mapping[str, Model]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return name -> model id, and the aliases left out of it because two models claim them."""
    claims: defaultdict[str, set[str]] = defaultdict(set)
    for model in models.values():
        for alias in model.aliases:
            claims[alias.lower()].add(model.model_id)
    names = {alias: next(iter(ids)) for alias, ids in claims.items() if len(ids) == 1}
    names |= {model_id: model_id for model_id in models}
    return names, tuple(sorted(alias for alias in claims if alias not in names))


def _index_dates(names: Mapping[str, str]) -> dict[str, dict[str, str | None]]:
    """Return, for each model known by dated names, date (YYYYMMDD) -> model id.

    The date ``None`` stands for where two models answer to one date: unresolved.
    """
    dates: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
    for name, model_id in names.items():
        dated = _DATED.fullmatch(name)
        if dated is None:
            continue
        date = dated["date"].replace("-", "")
        for known_as in {model_id, names.get(dated["base"], model_id)}:
            earlier = dates[known_as].setdefault(date, model_id)
            if earlier != model_id:
                dates[known_as][date] = None
    return dict(dates)


def _checkpointed(names: Mapping[str, str]) -> frozenset[str]:
    """Return the models beside which another one differs by a date or short date (``-0731``)."""
    found = set()
    for name, model_id in names.items():
        checkpoint = _CHECKPOINT.fullmatch(name)
        base = names.get(checkpoint["base"]) if checkpoint else None
        if base is not None and base != model_id:
            found |= {base, model_id}
    return frozenset(found)


def load_directory(directory: Path) -> Catalogue:
    """Return the catalogue of a directory with ``models.csv``, ``aliases.csv`` and ``price_history.csv``.

    Raises:
        ConfigurationError: With file, line and column of the first bad row.
    """
    return Catalogue.of(read_models(directory))


@cache
def load_shipped() -> Catalogue:
    """Return the catalogue that comes with tokentide (``schemas/catalogue_data``).

    Raises:
        ConfigurationError: If the installed files are damaged.
    """
    return load_directory(SHIPPED_DIRECTORY)
