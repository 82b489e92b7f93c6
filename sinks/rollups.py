"""The rollups: their keys, their measures and which rows of ``usage_events`` they count.

For the checks, repairs and restatements, which know no rollup by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

HOUR_SECONDS = 3600
DAY_SECONDS = 86_400

MODEL_KEYS = (
    "model",
    "vendor",
    "vendor_country",
    "license",
    "open_weights",
    "origin",
    "size_class",
    "reasoning",
    "provider",
)
REQUEST_KEYS = ("app_id", "region", "category", "finish_reason", "tool_use")
SAMPLED_KEYS = (
    "category",
    "subcategory",
    "model",
    "vendor",
    "vendor_country",
    "open_weights",
    "origin",
    "size_class",
    "reasoning",
)

# What each measure of a rollup is, by row of usage_events. Said here a second time on purpose: a
# check that read the views' own text would agree with a view that is wrong.
MEASURES: Mapping[str, str] = {
    "requests": "1",
    "tokens_prompt": "ifNull(tokens_prompt, 0)",
    "tokens_completion": "ifNull(tokens_completion, 0)",
    "tokens_reasoning": "ifNull(tokens_reasoning, 0)",
    "tokens_cached": "ifNull(tokens_cached, 0)",
    "cost_nanousd": "ifNull(cost_nanousd, 0)",
    "tool_call_requests": "tool_use = 'called'",
    "errors": "status != 'ok'",
    "tokens_unknown": "isNull(tokens_prompt) OR isNull(tokens_completion)",
    "cost_unknown": "isNull(cost_nanousd)",
}
TOKENS_SQUARED = "tokens_squared"
_BOUNDED = "least(toUInt64(ifNull(tokens_prompt, 0)) + ifNull(tokens_completion, 0), 4000000)"
_LANGUAGE = (
    "extract(JSONExtractString(tags, 'language'), '^[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8}){0,3}$')"
)
_LENGTHS = {
    "prompt": "toUInt64(ifNull(tokens_prompt, 0))",
    "completion": "toUInt64(ifNull(tokens_completion, 0))",
    "both": "(toUInt64(ifNull(tokens_prompt, 0)) + ifNull(tokens_completion, 0))",
}
_SUBCATEGORY = "JSONExtractString(tags, 'subcategory')"


def _leading_bits(number: str) -> str:
    """Return an integer rounded down to its eight leading binary digits, as SQL."""
    dropped = f"toUInt8(greatest(floor(log2(greatest({number}, 1))) - 7, 0))"
    return f"bitShiftLeft(bitShiftRight({number}, {dropped}), {dropped})"


@dataclass(frozen=True)
class Rollup:
    """A rollup table and how it is filled.

    Attributes:
        time: Its column of time; ``row_time`` is the same by row of ``usage_events``.
        bucket_seconds: Size of the buckets that are compared.
        view: The materialised view that fills it from ``source``.
        computed: Keys that are no columns of ``usage_events``, by row of it: for each time that it counts
            a row, which is once but for lengths.
        only: Which rows of ``usage_events`` it counts, SQL.
        measures: By row of ``usage_events``.
    """

    name: str
    time: str
    row_time: str
    bucket_seconds: int
    keys: tuple[str, ...]
    view: str
    source: str = "usage_events"
    computed: tuple[Mapping[str, str], ...] = ({},)
    only: str = "true"
    measures: Mapping[str, str] = field(default_factory=lambda: MEASURES)

    @property
    def times(self) -> int:
        """How often it counts a row."""
        return len(self.computed)

    @property
    def row_keys(self) -> list[tuple[str, ...]]:
        """The keys by row of ``usage_events``, for each time that it counts a row."""
        return [tuple(each.get(key, key) for key in self.keys) for each in self.computed]


ROLLUPS = (
    Rollup(
        "usage_1m",
        "minute",
        "toStartOfMinute(occurred_at)",
        HOUR_SECONDS,
        MODEL_KEYS,
        "usage_events_to_usage_1m",
    ),
    Rollup(
        "usage_1h",
        "hour",
        "toStartOfHour(occurred_at)",
        HOUR_SECONDS,
        MODEL_KEYS,
        "usage_events_to_usage_1h",
    ),
    Rollup(
        "usage_1d",
        "day",
        "toDate(occurred_at)",
        DAY_SECONDS,
        MODEL_KEYS,
        "usage_1h_to_usage_1d",
        "usage_1h",
    ),
    Rollup(
        "usage_context_1h",
        "hour",
        "toStartOfHour(occurred_at)",
        HOUR_SECONDS,
        REQUEST_KEYS,
        "usage_events_to_usage_context_1h",
    ),
    Rollup(
        "usage_sampled_1d",
        "day",
        "toDate(occurred_at)",
        DAY_SECONDS,
        SAMPLED_KEYS,
        "usage_events_to_usage_sampled_1d",
        computed=({"subcategory": f"if({_SUBCATEGORY} = '', 'unknown', {_SUBCATEGORY})"},),
        only="category != 'unknown'",
        measures={**MEASURES, TOKENS_SQUARED: f"{_BOUNDED} * {_BOUNDED}"},
    ),
    Rollup(
        "usage_located_1d",
        "day",
        "toDate(occurred_at)",
        DAY_SECONDS,
        ("caller_country", "language", "vendor", "origin"),
        "usage_events_to_usage_located_1d",
        computed=({"language": f"if({_LANGUAGE} = '', 'unknown', {_LANGUAGE})"},),
    ),
    Rollup(
        "usage_users_1d",
        "day",
        "toDate(occurred_at)",
        DAY_SECONDS,
        ("model", "vendor", "origin", "user_hash"),
        "usage_events_to_usage_users_1d",
        computed=({"user_hash": "ifNull(user_hash, 0)"},),
        only="(isNotNull(user_hash) AND bitAnd(intHash64(ifNull(user_hash, 0)), 15) = 0)",
    ),
    Rollup(
        "usage_lengths_1d",
        "day",
        "toDate(occurred_at)",
        DAY_SECONDS,
        ("measured", "tokens"),
        "usage_events_to_usage_lengths_1d",
        computed=tuple(
            {"measured": f"'{name}'", "tokens": _leading_bits(length)}
            for name, length in _LENGTHS.items()
        ),
        only="(isNotNull(tokens_prompt) AND isNotNull(tokens_completion))",
        measures={"requests": "1"},
    ),
)
