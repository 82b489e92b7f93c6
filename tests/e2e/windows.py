"""Every rolling window counted again, plainly, from the stored events."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from schemas.panes import DIMENSIONS, OTHER, PAIR_SEPARATOR, UNKNOWN

BILLION = 1_000_000_000
USERS_ERROR_MAX = 6 * 0.0325
"""Six standard errors of the sketch, and 3 users for small numbers."""
MEASURES = (
    "requests",
    "tokens_prompt",
    "tokens_completion",
    "tokens_reasoning",
    "tokens_cached",
    "cost_nanousd",
    "tool_call_requests",
    "errors",
    "tokens_capped",
    "tokens_capped_squared",
)


class Client(Protocol):
    """What is needed of clickhouse-connect's client."""

    def query(self, query: str) -> Any: ...


Event = dict[str, Any]
Sums = dict[str, list[int]]


def stored_events(client: Client, since_ms: int) -> list[Event]:
    """Return stored events by event time, as windows count them."""
    columns = sorted({name for names in DIMENSIONS.values() for name in names})
    found = client.query(
        "SELECT toUnixTimestamp64Milli(occurred_at) AS at_ms, user_hash,"
        " ifNull(tokens_prompt, 0) AS tokens_prompt, ifNull(tokens_completion, 0) AS"
        " tokens_completion, ifNull(tokens_reasoning, 0) AS tokens_reasoning,"
        " ifNull(tokens_cached, 0) AS tokens_cached, ifNull(cost_nanousd, 0) AS cost_nanousd,"
        f" status, {', '.join(f'toString({name}) AS {name}' for name in columns)}"
        f" FROM usage_events WHERE occurred_at >= fromUnixTimestamp64Milli({since_ms}, 'UTC')"
        " ORDER BY at_ms"
    )
    return list(found.named_results())


def given_windows(client: Client) -> list[dict[str, Any]]:
    """Return the newest revision of every window that is stored."""
    found = client.query(
        "SELECT *, toUnixTimestamp(window_end) * 1000 AS end_ms FROM share_window_revisions"
        " ORDER BY version DESC LIMIT 1 BY dimension, window_seconds, window_end"
    )
    return list(found.named_results())


def value_of(event: Event, dimension: str) -> str:
    """Return an event's value of a dimension."""
    parts = [event[name] for name in DIMENSIONS[dimension]]
    return UNKNOWN if UNKNOWN in parts else PAIR_SEPARATOR.join(parts)


def counted(event: Event, tokens_cap: int) -> list[int]:
    """Return what an event adds to `MEASURES`."""
    tokens = event["tokens_prompt"] + event["tokens_completion"]
    capped = min(tokens, tokens_cap)
    return [
        1,
        event["tokens_prompt"],
        event["tokens_completion"],
        event["tokens_reasoning"],
        event["tokens_cached"],
        event["cost_nanousd"],
        int(event["tool_use"] == "called"),
        int(event["status"] != "ok"),
        capped,
        capped * capped,
    ]


def expected_window(
    events: Sequence[Event], dimension: str, top: int, tokens_cap: int
) -> tuple[Sums, dict[str, set[int]]]:
    """Return the sums and the users of each row of a window."""
    sums: Sums = defaultdict(lambda: [0] * len(MEASURES))
    users: dict[str, set[int]] = defaultdict(set)
    for event in events:
        value = value_of(event, dimension)
        sums[value] = [a + b for a, b in zip(sums[value], counted(event, tokens_cap), strict=True)]
        if event["user_hash"] is not None:
            users[value].add(event["user_hash"])
    named = sorted(
        (value for value in sums if value not in (OTHER, UNKNOWN)),
        key=lambda value: (-(sums[value][1] + sums[value][2]), value),
    )
    for value in named[top:]:
        sums[OTHER] = [a + b for a, b in zip(sums[OTHER], sums.pop(value), strict=True)]
        users[OTHER] |= users.pop(value, set())
    return sums, users


def differences(
    client: Client, *, top: int, tokens_cap: int, from_ms: int = 0, sample: int = 1
) -> Iterator[str]:
    """Yield what is wrong with any stored window.

    Args:
        client: In the database.
        top: Setting of the worker.
        tokens_cap: Setting of the worker.
        from_ms: Only windows that begin at it or later, epoch milliseconds.
        sample: Look at every so-manieth window.
    """
    windows = [
        each
        for each in given_windows(client)
        if each["end_ms"] - each["window_seconds"] * 1000 >= from_ms
    ]
    if not windows:
        yield "no window was given out"
        return
    starts = [each["end_ms"] - each["window_seconds"] * 1000 for each in windows]
    events = stored_events(client, min(starts))
    times = np.array([event["at_ms"] for event in events])
    for number, (window, start_ms) in enumerate(zip(windows, starts, strict=True)):
        if number % sample:
            continue
        first, last = np.searchsorted(times, [start_ms, window["end_ms"]])
        place = f"{window['dimension']} {window['window_seconds']} s to {window['end_ms']}"
        found = expected_window(events[first:last], window["dimension"], top, tokens_cap)
        yield from (f"{place}: {each}" for each in _compare(window, *found))


def _compare(window: Mapping[str, Any], sums: Sums, users: Mapping[str, set[int]]) -> Iterator[str]:
    rows = {
        value: [window[name][at] for name in MEASURES] for at, value in enumerate(window["values"])
    }
    if len(rows) != len(window["values"]):
        yield "a value has two rows"
    if rows != sums:
        yield f"found {rows}, expected {dict(sums)}"
    totals = {
        "requests": sum(each[0] for each in sums.values()),
        "tokens": sum(each[1] + each[2] for each in sums.values()),
        "cost": sum(each[5] for each in sums.values()),
    }
    for name, total in totals.items():
        shares = window[f"share_{name}_billionths"]
        if sum(shares) != (BILLION if total else 0):
            yield f"shares of {name} sum to {sum(shares)}"
        column = {"requests": [0], "tokens": [1, 2], "cost": [5]}[name]
        for value, share in zip(window["values"], shares, strict=True):
            part = sum(sums[value][at] for at in column)
            if total and abs(share / BILLION - part / total) > 1e-9:
                yield f"share of {name} of {value}: {share}"
    if window["requests_total"] != totals["requests"]:
        yield f"total {window['requests_total']}, expected {totals['requests']}"
    for value, estimate in zip(window["values"], window["users"], strict=True):
        exact = len(users.get(value, ()))
        if abs(estimate - exact) > 3 + USERS_ERROR_MAX * exact:
            yield f"users of {value}: {estimate}, in truth {exact}"
