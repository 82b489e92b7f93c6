"""One thing that was looked at, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """``UNSAFE`` keeps a worker from starting, ``WARNING`` is logged."""

    OK = "ok"
    WARNING = "warning"
    UNSAFE = "unsafe"


@dataclass(frozen=True)
class Check:
    """What was looked at and found.

    Attributes:
        found: A short fact that names the thing: ``table tokentide.usage_1m is missing``.
        fix: What to run or set, ready to be copied; empty when nothing is wrong.
    """

    name: str
    state: State
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name, State.OK, found)


def warning(name: str, found: str, fix: str) -> Check:
    """Return a check whose finding a person should know of."""
    return Check(name, State.WARNING, found, fix)


def unsafe(name: str, found: str, fix: str) -> Check:
    """Return a check whose finding could lose or double events."""
    return Check(name, State.UNSAFE, found, fix)


def unless(problems: Iterable[Check], name: str, found: str) -> list[Check]:
    """Return the problems, or one row that says there are none."""
    return list(problems) or [ok(name, found)]


SKEW_WARNING_MS = 1_000
"""More than that is no network delay: a clock is not synchronised. `ingested_at` and freshness are
by the worker's clock, `now()` in views by ClickHouse's."""
SKEW_UNSAFE_MS = 60_000
"""A minute is the grain of the finest rollup: rows would say for good that they arrived in another
minute than they did, and shares of the last hour would be of another hour."""


def clock_check(name: str, other: str, skew_ms: float, error_ms: float) -> Check:
    """Judge how far another clock is from the worker's.

    Args:
        other: Whose clock, such as ``clickhouse``.
        skew_ms: The other's time minus the worker's.
        error_ms: How far off ``skew_ms`` may be: half the round trip.
    """
    certain_ms = max(abs(skew_ms) - error_ms, 0.0)
    found = f"the clock of {other} is {abs(skew_ms) / 1000:.3f} s"
    found += f" {'ahead of' if skew_ms > 0 else 'behind'} this machine's"
    found += f" (known to {error_ms / 1000:.3f} s)"
    if certain_ms <= SKEW_WARNING_MS:
        return ok(name, found)
    fix = "synchronise the clocks of both machines by NTP, for example: chronyc makestep"
    return (unsafe if certain_ms > SKEW_UNSAFE_MS else warning)(name, found, fix)
