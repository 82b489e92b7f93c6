"""What requests cost: dated prices, variants, rounding, and text read exactly."""

from dataclasses import replace

import pytest

from schemas.catalogue import (
    Model,
    Price,
    list_cost_nanousd,
    load_shipped,
    price_at,
)
from schemas.catalogue_files import picousd_per_token
from schemas.model import PICOUSD_PER_TOKEN_MAX
from tests.catalogue import model, ms


@pytest.mark.parametrize(
    ("at_ms", "prompt", "completion"),
    [
        # From the captures of August 2026: 02 Aug 0.2926/0.9196, 03 Aug 1.19/3.74, 09 Aug 0.0826.
        (ms(2026, 8, 2, 23), 292_600, 919_600),
        (ms(2026, 8, 3) - 1, 292_600, 919_600),
        (ms(2026, 8, 3), 1_190_000, 3_740_000),
        (ms(2026, 8, 9, 12), 82_600, 259_600),
        (ms(2026, 11, 1), 966_000, 3_036_000),
    ],
)
def test_price_moves_with_event_time(at_ms: int, prompt: int, completion: int) -> None:
    """GLM 5.2 costs what it cost on the day of the event, and the last price stays valid."""
    cost = list_cost_nanousd(model("z-ai/glm-5.2"), "", at_ms, 1_000_000, 0)
    assert cost == prompt * 1000
    assert list_cost_nanousd(model("z-ai/glm-5.2"), "", at_ms, 0, 1_000) == completion


def test_price_is_unknown_before_the_first_one() -> None:
    """No price is carried back in time."""
    first = model("z-ai/glm-5.2").prices[0].valid_from_ms
    assert first == ms(2026, 7, 2)
    assert list_cost_nanousd(model("z-ai/glm-5.2"), "", first - 1, 10, 10) is None
    assert list_cost_nanousd(model("z-ai/glm-5.2"), "", first, 10, 10) is not None


@pytest.mark.parametrize(
    ("variant", "known"), [("nitro", True), ("batch", False), ("extended", False)]
)
def test_price_of_variants(variant: str, known: bool) -> None:
    """Routing variants cost what the model costs; variants with prices of their own are unknown."""
    cost = list_cost_nanousd(model("openai/gpt-4o"), variant, ms(2026, 8, 1), 10, 10)
    assert (cost is not None) == known


def test_free_variant_costs_nothing() -> None:
    """``:free`` costs 0, a measured zero, even before any price or without token counts."""
    found = load_shipped().resolve("deepseek/deepseek-v4-flash:free")
    assert found is not None
    assert list_cost_nanousd(found.model, found.variant, 0, None, None) == 0


def test_cost_without_token_counts_is_unknown() -> None:
    """A missing count makes the cost unknown, not smaller."""
    at_ms = ms(2026, 8, 1)
    assert list_cost_nanousd(model("openai/gpt-4o"), "", at_ms, None, 10) is None
    assert list_cost_nanousd(model("openai/gpt-4o"), "", at_ms, 10, None) is None


def test_cost_rounds_half_up() -> None:
    """499 picoUSD are 0 nanoUSD and 500 are 1."""
    priced = Model("m", prices=(Price(0, 1, 500),))
    assert list_cost_nanousd(priced, "", 0, 499, 0) == 0
    assert list_cost_nanousd(priced, "", 0, 500, 0) == 1
    assert list_cost_nanousd(priced, "", 0, 0, 1) == 1


def test_largest_cost_fits_signed_64_bits() -> None:
    """The most tokens of one event at the highest price stay below 2**63 picoUSD."""
    assert (50_000_000 + 10_000_000) * PICOUSD_PER_TOKEN_MAX + 500 < 2**63


def test_prices_keep_changes_only() -> None:
    """A capture that repeats a price adds nothing; days are at 00:00 UTC and ascend."""
    for found in load_shipped().models.values():
        amounts = [price_at(found, price.valid_from_ms) for price in found.prices]
        assert amounts == list(found.prices)
        for before, after in zip(found.prices, found.prices[1:], strict=False):
            assert before.valid_from_ms < after.valid_from_ms
            assert replace(before, valid_from_ms=0) != replace(after, valid_from_ms=0)
        assert all(price.valid_from_ms % 86_400_000 == 0 for price in found.prices)


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("0.098", 98_000), ("0.000001", 1), ("1e2", 10**8)]
)
def test_price_text_is_exact(text: str, expected: int) -> None:
    """USD per million tokens become picoUSD per token without a rounding error."""
    assert picousd_per_token(text) == expected
