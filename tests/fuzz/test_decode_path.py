"""Any bytes at all on their way from Kafka to rows: stored as the strict decoder says, or refused.

The long form is ``make fuzz INPUTS=1000000``, the one that is led by coverage ``make fuzzbytes``.
"""

import json
from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.usage_event import FIELDS
from streams import decoding
from tests.fuzz import checking
from tests.fuzz.checking import check, fails, smallest
from tests.fuzz.mutating import SCALARS, Mutator, seeds
from tests.fuzz.run import fuzz

INPUTS = 30_000
SEED = 20261124
NAMES = [field.name for field in FIELDS]

JSON_TEXT = st.recursive(
    st.one_of(
        st.sampled_from(SCALARS),
        st.integers().map(str),
        st.floats().map(json.dumps),
        st.text(max_size=8).map(json.dumps),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda each: f"[{','.join(each)}]"),
        st.lists(st.tuples(st.sampled_from([*NAMES, "k", ""]), inner), max_size=6).map(
            lambda pairs: joined(pairs)
        ),
    ),
    max_leaves=12,
)


def joined(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the JSON text of an object; names may be equal."""
    return "{" + ",".join(f'"{name}":{text}' for name, text in pairs) + "}"


def encoded(text: str) -> bytes:
    """Return the bytes of a JSON text, lone surrogates too."""
    return text.encode("utf-8", "surrogatepass")


VALID = json.loads(seeds()[-1])


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """An event of which some fields are something else, and some are said twice."""
    members = [(name, json.dumps(value)) for name, value in VALID.items()]
    odd = st.tuples(st.sampled_from([*NAMES, "meta"]), JSON_TEXT)
    for pair in draw(st.lists(odd, max_size=4)):
        members.insert(draw(st.integers(0, len(members))), pair)
    return encoded(joined(members))


@settings(max_examples=200)
@given(st.lists(st.one_of(objects(), JSON_TEXT.map(encoded)), max_size=8), st.integers(0, 9))
def test_any_json_in_any_field(values: list[bytes], seed: int) -> None:
    """Members of any type, repeated in any order, nested: the columns say what the strict decoder says."""
    check(values, Random(seed))


def test_nasty_values() -> None:
    """Each of them is stored or refused with its reason, once, whatever stands beside it in its batch."""
    became = fuzz(INPUTS, SEED)
    assert became.total() == INPUTS
    assert min(became["stored"], became["invalid_json"], became["too_long"]) > 0
    assert len(became) >= 12, "most reasons are met"


def test_the_same_seed_makes_the_same_values() -> None:
    """What fails once can be looked at again."""
    assert Mutator(5).values(3000) == Mutator(5).values(3000)


def test_a_difference_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that stores what must be refused is caught, and the report holds that value alone."""

    def lenient(batches: Any) -> Any:
        return decoding.decode([batch for batch in batches if b"NaN" not in batch.joined])

    monkeypatch.setattr(checking, "decode", lenient)
    good = Mutator(1).values(50)
    values = [*[each for each in good if b"NaN" not in (each or b"")], b'{"cost_nanousd":NaN}']
    assert fails(values, 1)
    assert smallest(values, 1) == [b'{"cost_nanousd":NaN}']
