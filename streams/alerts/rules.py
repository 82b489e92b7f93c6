"""Rules by hand: a threshold on any share, in a TOML file.

::

    [[rule]]
    name = "Chinese open models above 30 %"
    dimension = "origin"
    value = "chinese_open"
    window_seconds = 3600
    measure = "token_share"   # the default
    above = 0.30
    for_seconds = 3600        # 0, the default: the first window that is above
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from schemas.errors import ConfigurationError
from schemas.panes import DIMENSIONS
from streams.alerts.share_window import ShareWindow
from streams.detection import Kind, State, Transition

WINDOWS_SECONDS = (60, 300, 900, 3600, 86_400, 604_800)
MEASURES = (
    "token_share",
    "request_share",
    "cost_share",
    "requests",
    "tokens",
    "users",
    "error_ratio",
)
RATIOS = tuple(name for name in MEASURES if name.endswith(("_share", "_ratio")))
FOR_SECONDS_MAX = 7 * 86_400
NAME_CHARS_MAX = 120
RULES_MAX = 200


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        measure: Of `MEASURES`; shares and ratios are 0 to 1.
        above, below: One of them is the limit, the other is ``None``.
        for_seconds: How long every window must be beyond the limit before the rule fires.
    """

    name: str
    dimension: str
    value: str
    window_seconds: int
    measure: str
    above: float | None
    below: float | None
    for_seconds: int

    @property
    def direction(self) -> str:
        """``up`` for a limit that must not be exceeded, ``down`` for one that must be reached."""
        return "up" if self.above is not None else "down"

    @property
    def limit(self) -> float:
        limit = self.above if self.above is not None else self.below
        assert limit is not None
        return limit

    @property
    def version(self) -> str:
        """Short hash of the rule."""
        return hashlib.blake2b(repr(self).encode(), digest_size=6).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return the rule as JSON knows it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def holds(self, amount: float) -> bool:
        """Return whether an amount is beyond the limit."""
        return amount > self.limit if self.above is not None else amount < self.limit

    def amount(self, window: ShareWindow) -> float | None:
        """Return the measure of a window, ``None`` when nothing can be said of it."""
        tokens = _at(window, self.value, "tokens_prompt", "tokens_completion")
        requests = _at(window, self.value, "requests")
        parts = {
            "token_share": (tokens, window.tokens_total),
            "request_share": (requests, window.requests_total),
            "cost_share": (_at(window, self.value, "cost_nanousd"), window.cost_nanousd_total),
            "error_ratio": (_at(window, self.value, "errors"), requests),
        }
        if self.measure in parts:
            part, whole = parts[self.measure]
            return part / whole if whole else None
        return float(
            {
                "requests": requests,
                "tokens": tokens,
                "users": _at(window, self.value, "users"),
            }[self.measure]
        )


def _at(window: ShareWindow, value: str, *columns: str) -> int:
    """Return the sum of columns at a value, 0 when it had no request."""
    if value not in window.values:
        return 0
    place = window.values.index(value)
    return sum(getattr(window, column)[place] for column in columns)


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Return the rules of a file.

    Raises:
        ConfigurationError: In one line: which rule, which key, and what it must be.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"is not TOML: {error}") from None
    tables = content.pop("rule", [])
    if content:
        raise ConfigurationError(f"unknown key {sorted(content)[0]!r}: rules begin with [[rule]]")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigurationError("rules begin with [[rule]], in two brackets")
    if len(tables) > RULES_MAX:
        raise ConfigurationError(f"has {len(tables)} rules, at most {RULES_MAX} are watched")
    rules = tuple(_rule(table, number) for number, table in enumerate(tables, 1))
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"two rules are called {name!r}: names tell alerts apart")
    return rules


_KEYS: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "dimension": (str,),
    "value": (str,),
    "window_seconds": (int,),
    "measure": (str,),
    "above": (int, float),
    "below": (int, float),
    "for_seconds": (int,),
}


def _rule(table: Mapping[str, Any], number: int) -> Rule:
    name = table.get("name")
    place = f"rule {number}" + (f" ({name})" if isinstance(name, str) and name else "")

    def refuse(problem: str) -> ConfigurationError:
        return ConfigurationError(f"{place}: {problem}")

    for key, value in table.items():
        if key not in _KEYS:
            raise refuse(f"unknown key {key!r}, known are {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise refuse(f"{key} must be {_KEYS[key][-1].__name__}, not {value!r}")
    for key in ("name", "dimension", "value", "window_seconds"):
        if not table.get(key):
            raise refuse(f"{key} is missing")
    rule = Rule(
        name=table["name"],
        dimension=table["dimension"],
        value=table["value"],
        window_seconds=table["window_seconds"],
        measure=table.get("measure", "token_share"),
        above=table.get("above"),
        below=table.get("below"),
        for_seconds=table.get("for_seconds", 0),
    )
    problem = _problem(rule)
    if problem:
        raise refuse(problem)
    return rule


def _problem(rule: Rule) -> str:
    """Return what is wrong with a rule whose types are right, or nothing."""
    if len(rule.name) > NAME_CHARS_MAX or not rule.name.isprintable():
        return f"name must be at most {NAME_CHARS_MAX} characters that can be printed"
    if rule.dimension not in DIMENSIONS:
        return f"dimension {rule.dimension!r} is none of {', '.join(DIMENSIONS)}"
    if rule.window_seconds not in WINDOWS_SECONDS:
        return f"window_seconds must be one of {', '.join(map(str, WINDOWS_SECONDS))}"
    if rule.measure not in MEASURES:
        return f"measure {rule.measure!r} is none of {', '.join(MEASURES)}"
    if (rule.above is None) == (rule.below is None):
        return "it needs either above or below"
    if rule.measure in RATIOS and not 0 <= rule.limit <= 1:
        return f"{rule.measure} is 0 to 1: a limit of {rule.limit:g} is never or always passed"
    if not 0 <= rule.for_seconds <= FOR_SECONDS_MAX:
        return f"for_seconds must be 0 to {FOR_SECONDS_MAX}"
    return ""


@dataclass
class RuleWatch:
    """Since when each rule holds.

    It says ``firing`` with every window while a rule holds long enough, and ``resolved`` with every
    one while it does not: the `Ledger` tells which of them is new.
    """

    _since_ms: dict[Rule, int | None] = field(default_factory=dict)
    _seen_ms: dict[Rule, int] = field(default_factory=dict)

    def knows(self, rule: Rule) -> bool:
        """Return whether a window of the rule has been observed."""
        return rule in self._seen_ms

    def keep(self, rules: Sequence[Rule]) -> None:
        """Forget all other rules."""
        for states in (self._since_ms, self._seen_ms):
            for rule in states.keys() - set(rules):
                del states[rule]

    def observe(self, rule: Rule, window: ShareWindow) -> Transition | None:
        """Return what a window of the rule's dimension and length says.

        A window that is not complete, or of which nothing can be said, changes nothing; nor does
        one that is not later than the last: a revision, or a record that is read again.
        """
        end_ms = window.window_end_ms
        if end_ms <= self._seen_ms.get(rule, 0):
            return None
        self._seen_ms[rule] = end_ms
        amount = rule.amount(window) if window.is_complete else None
        if amount is None:
            return None
        if not rule.holds(amount):
            self._since_ms[rule] = None
            return _transition(rule, State.RESOLVED, end_ms, end_ms, amount)
        since_ms = self._since_ms.get(rule)
        if since_ms is None:
            since_ms = self._since_ms[rule] = end_ms
        if end_ms - since_ms < rule.for_seconds * 1000:
            return None
        begin_ms = since_ms - rule.window_seconds * 1000
        return _transition(rule, State.FIRING, begin_ms, end_ms, amount)


def removed(dimension: str, value: str, direction: str, at_ms: int) -> Transition:
    """Return the end of an alert whose rule is no longer there."""
    return Transition(Kind.RULE, State.RESOLVED, dimension, value, direction, at_ms, at_ms)


def _transition(rule: Rule, state: State, since_ms: int, at_ms: int, amount: float) -> Transition:
    return Transition(
        Kind.RULE,
        state,
        rule.dimension,
        rule.value,
        rule.direction,
        since_ms,
        at_ms,
        share_after=amount,
        statistic=amount,
        threshold=rule.limit,
    )
