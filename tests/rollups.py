"""The rollups, said a second time: a test that read the code's own list would agree with it."""

from collections.abc import Mapping

OF_ALL = ("usage_1m", "usage_1h", "usage_1d", "usage_context_1h", "usage_located_1d")
"""Those that count every row of usage_events."""
COUNTED: Mapping[str, str] = {
    **dict.fromkeys(OF_ALL, "true"),
    "usage_sampled_1d": "category != 'unknown'",
    "usage_users_1d": "intHash64(user_hash) % 16 = 0",
}
"""Rollup -> the rows of usage_events that it counts."""
