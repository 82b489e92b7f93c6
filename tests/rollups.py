"""The rollups, said a second time: a test that read the code's own list would agree with it."""

from collections.abc import Mapping
from typing import Any

OF_ALL = ("usage_1m", "usage_1h", "usage_1d", "usage_context_1h", "usage_located_1d")
"""Those that count every row of usage_events."""
COUNTED: Mapping[str, str] = {
    **dict.fromkeys(OF_ALL, "true"),
    "usage_sampled_1d": "category != 'unknown'",
    "usage_users_1d": "intHash64(user_hash) % 16 = 0",
    "usage_lengths_1d": "tokens_prompt IS NOT NULL AND tokens_completion IS NOT NULL",
}
"""Rollup -> the rows of usage_events that it counts."""
TIMES: Mapping[str, int] = {**dict.fromkeys(COUNTED, 1), "usage_lengths_1d": 3}
"""Rollup -> how often it counts a row."""


def chosen(user: int) -> bool:
    """Return whether a user is one of the sixteenth that usage_users_1d counts.

    intHash64 is the finaliser of MurmurHash3 with this constant (IntHash64Impl in ClickHouse).
    """
    mask = (1 << 64) - 1
    user ^= 0x4CF2D2BAAE6DA887
    user = (user ^ (user >> 33)) * 0xFF51AFD7ED558CCD & mask
    user = (user ^ (user >> 33)) * 0xC4CEB9FE1A85EC53 & mask
    return (user ^ (user >> 33)) % 16 == 0


def is_counted(rollup: str, row: Mapping[str, Any]) -> bool:
    """Return whether a rollup counts a row: `COUNTED`, for rows that are not in ClickHouse."""
    if rollup == "usage_sampled_1d":
        return bool(row["category"] != "unknown")
    if rollup == "usage_users_1d":
        return row["user_hash"] is not None and chosen(row["user_hash"])
    return True
