"""The published market of 91 days of 2026 and two published traces come out of SQL as they are."""

from pathlib import Path
from typing import cast

import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from tests.e2e.comparing import faults
from tests.e2e.market import Market, check_tokens, distance, published, run
from tests.e2e.recount import resolve


@pytest.mark.timeout(600)
def test_published_shares_and_traces_come_out_of_sql(tmp_path: Path) -> None:
    """Daily shares of models and vendors, tokens to the token, means and percentiles."""
    result = run(1_000, tmp_path, print)
    assert not (found := faults(result.checks)), "\n".join(found)
    assert max(result.share_errors.values()) < 0.000_001
    assert result.rows == 91_000 + 8_819 + 19_366


class Tokens:
    """In place of ClickHouse: answers with tokens by day and name."""

    def __init__(self, market: Market, divisor: int) -> None:
        self.tokens = {key: round(tokens / divisor) for key, tokens in market.tokens.items()}

    def query(self, _: str) -> "Tokens":
        return self

    @property
    def result_rows(self) -> list[tuple[str, str, int]]:
        return [(day, name, tokens) for (day, name), tokens in self.tokens.items()]


def test_a_token_that_is_lost_is_seen() -> None:
    """One name with two tokens less, one name lost, one name too many, another factor."""
    market, divisor = published(), 100_000_000
    key = next(iter(market.tokens))
    (day, _) = key
    right = Tokens(market, 1)
    assert check_tokens(cast(HttpClient, right), market, 1).differences == ()
    assert check_tokens(cast(HttpClient, right), market, 2).differences
    for wrong in ({key: market.tokens[key] - 2}, {(day, "acme/new"): 5}):
        right.tokens = market.tokens | wrong
        assert check_tokens(cast(HttpClient, right), market, 1).differences
    right.tokens = {each: tokens for each, tokens in market.tokens.items() if each != key}
    assert check_tokens(cast(HttpClient, right), market, 1).differences
    assert check_tokens(
        cast(HttpClient, Tokens(market, divisor)), market, divisor + 10**7
    ).differences


def test_a_share_that_is_off_is_seen() -> None:
    """The distance is the largest one, over names that are in either."""
    assert distance({("d", "a"): 0.4}, {("d", "a"): 0.5}) == pytest.approx(0.1)
    assert distance({("d", "a"): 0.4}, {}) == pytest.approx(0.4)
    assert distance({}, {("d", "a"): 0.4, ("d", "b"): 0.1}) == pytest.approx(0.4)


def test_the_published_data_is_what_it_says() -> None:
    """91 days of 51 rows, whose shares add up to 1 and are their part of the day's tokens."""
    market: Market = published()
    assert len(market.days) == 91
    assert len(market.tokens) == 91 * 51
    for day in market.days:
        names = [name for each, name in market.tokens if each == day]
        total = sum(market.tokens[day, name] for name in names)
        for name in names:
            assert market.shares[day, name] == pytest.approx(
                market.tokens[day, name] / total, abs=1e-9
            )


def test_names_are_resolved_plainly() -> None:
    """A dated name, a variant, another spelling; and what is unknown stays so."""
    assert resolve("z-ai/glm-5.2-20260616").model == "z-ai/glm-5.2"
    assert resolve(" Z-AI/GLM-5.2:free ").model == "z-ai/glm-5.2"
    assert resolve("z-ai/glm-5.2").vendor_country == "CN"
    for name in ("other", "azure-2023/unnamed", "glm", "z-ai/glm-5.2:70b"):
        assert resolve(name).model == "unknown"
