"""Who asks: users of a model by the month of their first request, who come back or do not."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deploy.local.study.tables import COHORTS, USUAL

REQUESTS_PER_USER = 40
"""Of a month's new users, about: an active user is hardly ever missed by chance."""
NEW_USERS_MIN, NEW_USERS_MAX = 20, 3_000
REST = "0" * 48
"""A hash has 64 hexadecimal digits, of which tokentide keeps the first 16."""
Int64s = NDArray[np.int64]


class Users:
    """Users of each model and month; the same for the same arguments.

    Args:
        models: Their names.
        requests: (month, model), expected requests.
        months: ``YYYY-MM``, in order.
    """

    def __init__(
        self, models: Sequence[str], requests: NDArray[np.float64], months: Sequence[str]
    ) -> None:
        self._models = models
        self._months = months
        new = np.clip(requests / REQUESTS_PER_USER, NEW_USERS_MIN, NEW_USERS_MAX)
        self._new_users = np.where(requests > 0, new, 0).astype(np.int64)
        self._month = ""
        self._hashes = pl.Series([""])
        self._first = self._count = np.zeros(0, np.int64)

    def choose(self, month: str, model: Int64s, rng: np.random.Generator) -> pl.Series:
        """Return a user hash for each request of a month."""
        if month != self._month:
            self._enter(month)
        place = (rng.random(len(model)) * self._count[model]).astype(np.int64)
        return self._hashes.gather(self._first[model] + place)

    def _enter(self, month: str) -> None:
        number = self._months.index(month)
        active = [self._active(column, number) for column in range(len(self._models))]
        self._count = np.array([len(each) for each in active])
        self._first = np.cumsum(self._count) - self._count
        self._hashes = pl.Series(
            [f"{user:016x}{REST}" for each in active for user in each.tolist()]
        )
        self._month = month

    def _active(self, column: int, number: int) -> NDArray[np.uint64]:
        """Return the users of a model in a month: all new ones, and those of before who are back."""
        found = []
        for cohort in range(number + 1):
            count = int(self._new_users[cohort, column])
            if not count:
                continue
            first = (column << 48) + (cohort << 32)
            users = np.arange(first, first + count, dtype=np.uint64)
            if cohort < number:
                part = self._returning(column, cohort, number - cohort)
                # Which users: one draw per user, cohort and month, whatever was asked before.
                draw = np.random.default_rng([column, cohort, number]).random(count)
                users = users[draw < part]
            found.append(users * np.uint64(0x9E3779B97F4A7C15))
        return np.concatenate(found) if found else np.zeros(1, np.uint64)

    def _returning(self, column: int, cohort: int, later: int) -> float:
        cohorts = COHORTS.get(self._models[column], USUAL)
        parts = cohorts.special.get(self._months[cohort], cohorts.usual)
        return parts[min(later, len(parts)) - 1]
