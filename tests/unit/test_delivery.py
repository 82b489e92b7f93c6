"""What a commit's metadata says."""

import pytest

from schemas.errors import FatalError
from streams.delivery import declare, declared_next_offset, token


def test_a_declaration_comes_back() -> None:
    """The next owner reads the range that was declared."""
    assert declared_next_offset(declare(4950), 4000) == 4950
    assert declared_next_offset("", 4000) is None


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ("something else", "TOKENTIDE_CONSUMER_GROUP"),
        ("tokentide/2 10", "newer"),
        ("tokentide/1 4000", "empty"),
        ("tokentide/1 4950 ", "not tokentide's"),
    ],
)
def test_a_declaration_that_is_not_understood_stops_the_worker(metadata: str, word: str) -> None:
    """A foreign or newer declaration is refused: guessing could double or lose a range."""
    with pytest.raises(FatalError, match=word):
        declared_next_offset(metadata, 4000)


def test_a_token_names_one_month_of_one_range() -> None:
    """Two blocks of a range differ in their token, and two ranges do."""
    assert token("llm-usage-v1", 3, 4000, 4950, 202611) == "llm-usage-v1:3:4000-4949:202611"
