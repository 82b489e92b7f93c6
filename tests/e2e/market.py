"""The real market, end to end: what was published goes in as requests and must come out of SQL.

``make test`` runs it short (test_real_market.py), ``make market`` with 5 million requests.
"""

import argparse
import csv
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson
from clickhouse_connect.driver.httpclient import HttpClient

from tests.conftest import run_tokentide, running_stack
from tests.e2e.comparing import Check, faults
from tests.e2e.recount import Model, resolve
from tests.e2e.report import Report
from tests.e2e.scenario import (
    STORE_SECONDS_MAX,
    Say,
    compare_with,
    reader,
    recount_of,
    rows_of,
    wait_until_stored,
)

PUBLISHED = Path(__file__).parents[2] / "deploy/local/data/openrouter_daily/rankings_daily.csv"
SHARE_ERROR_MAX = 0.0001
AZURE_EVENTS = {"azure-code": 8_819, "azure-conv": 19_366}
AZURE_FACTS = {
    "azure-code": {
        "prompt": {"mean": 2048, "p50": 1469, "p99": 7436, "max": 7437},
        "completion": {"mean": 28, "p50": 13, "p99": 252, "max": 1899},
    },
    "azure-conv": {
        "prompt": {"mean": 1155, "p50": 1020, "p99": 4142, "max": 14050},
        "completion": {"mean": 211, "p50": 129, "p99": 601, "max": 1000},
    },
}
"""Tokens of a request.

Source:
    Microsoft, Azure Public Dataset, "Azure LLM inference trace 2023"; means rounded.
"""
IN_2026 = "occurred_at >= '2026-05-23 00:00:00' AND occurred_at < '2026-08-22 00:00:00'"
Tokens = dict[tuple[str, str], int]
"""(ISO day, name) -> tokens."""
Shares = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Market:
    """What was published: tokens and shares of each model name and day."""

    tokens: Tokens
    shares: Shares

    @property
    def days(self) -> list[str]:
        """Return the days, oldest first."""
        return sorted({day for day, _ in self.tokens})

    def shares_by(self, group: Callable[[Model], str]) -> Shares:
        """Return the published shares added up by something that is known of a model."""
        sums: Shares = defaultdict(float)
        for (day, name), share in self.shares.items():
            sums[day, group(resolve(name))] += share
        return dict(sums)


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
        share_errors: Largest distance of a share from the published one, by what is divided.
    """

    rows: int
    divisor: int
    share_errors: Mapping[str, float]
    checks: Sequence[Check]


def published() -> Market:
    """Read the published ranking."""
    market = Market({}, {})
    with PUBLISHED.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            key = (row["date"], row["model_permaslug"])
            assert key not in market.tokens
            market.tokens[key] = int(row["total_tokens"])
            market.shares[key] = float(row["share_of_day"])
    return market


def run(events_per_day: int, directory: Path, say: Say, **settings: object) -> Result:
    """Replay the market and the traces into a stack of its own; compare what SQL says.

    With what was published, and with a recount of the requests that were sent.
    """
    stack, market = directory / "stack", published()
    with running_stack(stack, "--no-simulator", **settings):
        say("the stack is ready")
        files = [directory / f"{name}.records" for name in ("openrouter-2026", "azure-2023")]
        told = _replay(stack, files[0], "--events-per-day", str(events_per_day))
        say(f"sent {told['records']:,} requests of {told['days']} days")
        _replay(stack, files[1])
        wait_until_stored(stack)
        say("everything is stored; comparing with what was published")
        with reader(stack) as client:
            rows = rows_of(client)
            distances = {
                "model, share_by_model": distance(
                    market.shares_by(lambda model: model.model), _view_shares(client, "model")
                ),
                "vendor, share_by_vendor": distance(
                    market.shares_by(lambda model: model.vendor), _view_shares(client, "vendor")
                ),
                "published name, usage_events": distance(market.shares, _raw_shares(client)),
            }
            checks = [
                *(_share_check(what, market, found) for what, found in distances.items()),
                check_tokens(client, market, told["divisor"]),
                check_requests(client, market, events_per_day, rows),
                *check_azure(client),
            ]
        say("counting again")
        checks += compare_with(stack, recount_of(files, say), say)
    return Result(rows, told["divisor"], distances, checks)


def _replay(stack: Path, out: Path, *arguments: str) -> dict[str, Any]:
    """Replay what the file is named after."""
    where = ("--data-dir", str(stack), "--out", str(out))
    done = run_tokentide("replay", out.stem, *arguments, *where, timeout_seconds=STORE_SECONDS_MAX)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    assert told["complete"]
    return told


def _view_shares(client: HttpClient, view: str) -> Shares:
    rows = client.query(
        f"SELECT toString(toDate(bucket_start)), value, token_share FROM share_by_{view}("
        " from_time = toDateTime('2026-05-23', 'UTC'), to_time = toDateTime('2026-08-22', 'UTC'),"
        " grain_seconds = 86400, top_n = 100000)"
    ).result_rows
    return {(day, value): float(share) for day, value, share in rows}


def _raw_shares(client: HttpClient) -> Shares:
    tokens = _raw_tokens(client)
    totals: dict[str, int] = defaultdict(int)
    for (day, _), count in tokens.items():
        totals[day] += count
    return {(day, name): count / totals[day] for (day, name), count in tokens.items()}


def _raw_tokens(client: HttpClient) -> Tokens:
    rows = client.query(
        "SELECT toString(toDate(occurred_at)) AS day, toString(model_raw) AS name,"
        " sum(toUInt64(assumeNotNull(tokens_prompt)) + assumeNotNull(tokens_completion))"
        f" FROM usage_events WHERE {IN_2026} GROUP BY day, name"
    ).result_rows
    return {(day, name): tokens for day, name, tokens in rows}


def distance(expected: Shares, found: Shares) -> float:
    """Return the largest distance between two shares, over everything that is in either."""
    return max(
        abs(expected.get(key, 0.0) - found.get(key, 0.0)) for key in expected.keys() | found.keys()
    )


def _share_check(what: str, market: Market, largest: float) -> Check:
    differences = () if largest <= SHARE_ERROR_MAX else (f"a share is {largest} off",)
    return Check(f"daily shares by {what}", len(market.days), differences)


def check_tokens(client: HttpClient, market: Market, divisor: int) -> Check:
    """Published tokens / divisor, less than one token off for each name, half of one for a day.

    The day is rounded once and its parts by largest remainders, so a part may move with the day's
    rounding as well: its bound is one token and its part of the day's half.
    """
    found = _raw_tokens(client)
    differences = [f"{key} is in one only" for key in found.keys() ^ market.tokens.keys()]
    for day in market.days:
        names = [name for each, name in market.tokens if each == day]
        whole = Fraction(sum(market.tokens[day, name] for name in names), divisor)
        stored = sum(found.get((day, name), 0) for name in names)
        if abs(stored - whole) > Fraction(1, 2):
            differences.append(f"{day} has {stored} tokens, expected {float(whole)}")
        for name in names:
            part = Fraction(market.tokens[day, name], divisor)
            bound = 1 + part / whole / 2
            if abs(found.get((day, name), 0) - part) >= bound:
                differences.append(f"{day} {name}: {found.get((day, name))}, not {float(part)}")
    return Check("tokens by published name and day", len(market.tokens), tuple(differences[:5]))


def check_requests(client: HttpClient, market: Market, events_per_day: int, rows: int) -> Check:
    """As many requests a day as asked for, and nothing but them and the two traces."""
    answer = client.query(
        "SELECT toString(toDate(occurred_at)) AS day, count() FROM usage_events"
        f" WHERE {IN_2026} GROUP BY day"
    ).result_rows
    days = {str(day): int(requests) for day, requests in answer}
    wanted = dict.fromkeys(market.days, events_per_day)
    in_all = events_per_day * len(market.days) + sum(AZURE_EVENTS.values())
    differences = [f"{days}, expected {wanted}"] * (days != wanted)
    differences += [f"{rows} rows, expected {in_all}"] * (rows != in_all)
    return Check("requests by day", len(days) + 1, tuple(differences))


def check_azure(client: HttpClient) -> list[Check]:
    """Means and percentiles of the traces by app; and all of it in the unknown model's share."""
    checks = []
    for app, facts in AZURE_FACTS.items():
        for kind, wanted in facts.items():
            column = f"assumeNotNull(tokens_{kind})"
            answer = client.query(
                f"SELECT count(), round(avg({column})), quantileExact(0.5)({column}),"
                f" quantileExact(0.99)({column}), max({column}) FROM usage_events"
                " WHERE app_id = {app:String}",
                parameters={"app": app},
            ).result_rows[0]
            expected = (AZURE_EVENTS[app], *wanted.values())
            differences = (f"{answer}, expected {expected}",) * (answer != expected)
            checks.append(Check(f"{app} {kind}: mean, p50, p99, max", 5, differences))
    answer = client.query(
        "SELECT value, requests, token_share, request_share FROM share_by_model("
        " from_time = toDateTime('2023-11-16', 'UTC'), to_time = toDateTime('2023-11-17', 'UTC'),"
        " grain_seconds = 0, top_n = 10)"
    ).result_rows
    wanted_rows = [("unknown", sum(AZURE_EVENTS.values()), 1, 1)]
    differences = (f"{answer}, expected {wanted_rows}",) * (list(answer) != wanted_rows)
    return [*checks, Check("azure: share of the unknown model", 4, differences)]


# --- The long form -----------------------------------------------------------------------------


def main() -> None:
    """Replay with any number of requests a day; exit code 1 if something differs."""
    parser = argparse.ArgumentParser(description="Replay the real market, compare what SQL says.")
    parser.add_argument("--events-per-day", type=int, default=55_000)
    wanted = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="tokentide-market-") as directory:
        result = run(wanted.events_per_day, Path(directory), report.say)
    report.show("compared", result.checks)
    for each in (differences := faults(result.checks)):
        report.say(each)
    for what, largest in result.share_errors.items():
        report.say(f"largest distance of a daily share by {what}: {largest:.2e}")
    report.say(
        f"{result.rows:,} rows; published tokens / {result.divisor:,};"
        f" {len(differences)} differences"
    )
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
