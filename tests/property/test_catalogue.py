"""Properties of the catalogue, over generated models and names."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.catalogue import (
    VARIANTS,
    Catalogue,
    Model,
    Price,
    decode_model,
    encode_model,
    list_cost_nanousd,
    load_shipped,
)
from schemas.model import PICOUSD_PER_TOKEN_MAX

# Few and similar words, so that aliases, ids, dates and variants collide.
BASES = st.sampled_from(["a", "b", "v/a", "v/b", "v/a-mini", "x-latest", "qwen-plus"])
ENDS = st.sampled_from(["", "-20260101", "-2026-01-01", "-20260202", "-0101", ":0"])
NAMES = st.builds(str.__add__, BASES, ENDS)
SUFFIXES = st.lists(st.sampled_from([*VARIANTS, "70b"]), max_size=3).map(
    lambda variants: "".join(f":{variant}" for variant in variants)
)
PRICES = st.lists(
    st.builds(
        Price,
        st.integers(0, 10**13),
        st.integers(0, PICOUSD_PER_TOKEN_MAX),
        st.integers(0, PICOUSD_PER_TOKEN_MAX),
    ),
    unique_by=lambda price: price.valid_from_ms,
    max_size=5,
).map(lambda prices: tuple(sorted(prices, key=lambda price: price.valid_from_ms)))
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20).map(
    lambda text: f"<{text}>"
)
MODELS = st.builds(
    Model,
    model_id=NAMES,
    aliases=st.lists(NAMES, max_size=4).map(tuple),
    display_name=st.none() | TEXTS,
    vendor=st.none() | TEXTS,
    vendor_country=st.sampled_from([None, "CN", "US"]),
    open_weights=st.sampled_from([None, True, False]),
    total_params_b=st.none() | st.floats(0.1, 1e5),
    reasoning=st.sampled_from([None, "none", "optional", "always"]),
    context_length=st.none() | st.integers(1, 10**9),
    prices=PRICES,
)
CATALOGUES = st.lists(MODELS, max_size=6).map(Catalogue.of)
CHANGES = st.dictionaries(NAMES, st.none() | MODELS, max_size=4).map(
    lambda changes: {
        (model.model_id if model else model_id): model for model_id, model in changes.items()
    }
)


def search(models: list[Model], name: str) -> set[str] | None:
    """Rules 1 to 3 of `Catalogue.resolve`, by search: the owners of the first name that has any."""
    if any(model.model_id == name for model in models):
        return {name}
    owners = {model.model_id for model in models if name in map(str.lower, model.aliases)}
    base, colon, suffix = name.rpartition(":")
    if owners or not colon or suffix not in VARIANTS:
        return owners or None
    return search(models, base)


@given(CATALOGUES, NAMES, SUFFIXES)
def test_resolution_agrees_with_a_search(catalogue: Catalogue, name: str, suffix: str) -> None:
    """Where id, alias or variant decide, the index gives what a search through all models gives."""
    owners = search(list(catalogue.models.values()), name + suffix)
    found = catalogue.resolve(name + suffix)
    if owners is None:
        assert found is None or name.endswith(("-20260101", "-2026-01-01", "-20260202"))
    else:
        assert {found.model.model_id} == owners if found else len(owners) > 1


@given(CATALOGUES, NAMES, SUFFIXES)
def test_resolution_is_idempotent(catalogue: Catalogue, name: str, suffix: str) -> None:
    """The id a name resolves to resolves to itself, in any case and between blanks."""
    found = catalogue.resolve(name + suffix)
    if found is not None:
        again = catalogue.resolve(f" {found.model.model_id.upper()} ")
        assert again is not None
        assert again.model is found.model
        assert again.variant == ""


@given(CATALOGUES, CHANGES, NAMES)
def test_change_equals_rebuilding(
    catalogue: Catalogue, changes: dict[str, Model | None], name: str
) -> None:
    """A changed catalogue is the one built from the changed models."""
    models = dict(catalogue.models)
    for model_id, model in changes.items():
        models.pop(model_id, None)
        if model is not None:
            models[model_id] = model
    rebuilt = Catalogue.of(models.values(), catalogue.version + 1)
    changed = catalogue.with_changes(changes)
    assert changed == rebuilt
    assert changed.resolve(name) == rebuilt.resolve(name)


@given(st.text(max_size=40))
def test_any_text_may_be_asked_for(name: str) -> None:
    """No name raises; what it resolves to is a model of the catalogue."""
    found = load_shipped().resolve(name)
    assert found is None or found.model is load_shipped().models[found.model.model_id]


@given(st.sampled_from(sorted(load_shipped().models)), st.sampled_from(VARIANTS))
def test_every_model_has_every_variant(model_id: str, variant: str) -> None:
    """A documented variant of a shipped model is that model."""
    found = load_shipped().resolve(f"{model_id}:{variant}")
    assert found is not None
    assert (found.model.model_id, found.variant) == (model_id, variant)


@given(MODELS)
def test_record_keeps_the_model(model: Model) -> None:
    """A model comes back equal from its record."""
    assert decode_model(encode_model(model), model.model_id.encode()) == model


@given(MODELS, st.integers(0, 10**13), st.integers(0, 50_000_000), st.integers(0, 10_000_000))
def test_cost_is_that_of_the_last_price(
    model: Model, at_ms: int, prompt: int, completion: int
) -> None:
    """The cost is the exact product at the last price not after the event, rounded half up."""
    valid = [price for price in model.prices if price.valid_from_ms <= at_ms]
    cost = list_cost_nanousd(model, "", at_ms, prompt, completion)
    if not valid:
        assert cost is None
        return
    assert cost is not None
    picousd = prompt * valid[-1].prompt_picousd_per_token
    picousd += completion * valid[-1].completion_picousd_per_token
    assert -500 < cost * 1000 - picousd <= 500
