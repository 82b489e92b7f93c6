"""Sentences of a report follow the numbers, whatever these are."""

from datetime import date, timedelta
from typing import Any

import pytest

from deploy.report import words
from deploy.report.comparing import changes
from deploy.report.periods import Period

MONDAY = date(2026, 9, 7)


def week(
    number: int, shares: dict[str, float | None], *, partial: bool = False
) -> list[dict[str, Any]]:
    """Rows of one week."""
    start = MONDAY + timedelta(days=7 * number)
    return [
        {"week": start, "origin": value, "token_share": share, "is_partial": partial}
        for value, share in shares.items()
    ]


say = words.shares("origin", "all tokens")


def test_shares_and_who_moved() -> None:
    """The last whole week counts, not the one that is running."""
    rows = [
        *week(0, {"a": 0.6, "b": 0.4}),
        *week(1, {"b": 0.55, "a": 0.25, "c": 0.2}),
        *week(2, {"c": 1.0}, partial=True),
    ]
    assert say(rows) == (
        "In the week of 14 September 2026 the shares of all tokens were: b 55.0 %, a 25.0 % and c 20.0 %."
        " Since the week of 7 September 2026 a moved most: from 60.0 % to 25.0 %."
    )


def test_one_week_moves_nobody() -> None:
    """And a partial week is better than none."""
    text = say(week(0, {"a": 0.7, "other": 0.3}, partial=True))
    assert text == "In the week of 7 September 2026 the shares of all tokens were: a 70.0 %."


def test_equal_weeks() -> None:
    """Nobody is named for nothing."""
    text = say([*week(0, {"a": 0.5, "b": 0.5}), *week(1, {"a": 0.5, "b": 0.5})])
    assert text.endswith(
        "None of them moved by a tenth of a point since the week of 7 September 2026."
    )


@pytest.mark.parametrize(("share", "is_said"), [(0.004, False), (0.006, True)])
def test_what_is_not_known_is_said_if_it_is_worth_it(share: float, is_said: bool) -> None:
    """From half a per cent on."""
    text = say(week(0, {"a": 1 - share, "unknown": share}))
    assert ("of what is not known" in text) == is_said


def test_places_say_how_much_is_not_known() -> None:
    """A producer that does not say where callers are is no continent."""
    rows = [
        {"continent": "Europe", "token_share": 0.6},
        {"continent": "unknown", "token_share": 0.4},
    ]
    assert words.places("continent")(rows) == (
        "Most tokens came from: Europe 60.0 %. Of 40.0 % it is not known."
    )
    assert "No request" in words.places("continent")(rows[1:])


def test_a_week_that_is_withheld_is_not_the_last() -> None:
    """What is null is not 0, and moved nowhere."""
    text = say([*week(0, {"a": 0.7, "b": 0.3}), *week(1, {"a": None, "b": None})])
    assert text.startswith("In the week of 7 September 2026")
    assert "moved" not in text


def test_nothing_is_known() -> None:
    """No value has a name, or a week has no tokens."""
    assert "nothing is known" in say(week(0, {"unknown": 1.0}))
    assert "too little" in say(week(0, {"a": None}))


def test_a_volume_without_a_whole_week() -> None:
    """There is no mean of weeks then."""
    rows = [
        {**row, "tokens_total": 3_000_000_000, "mean_weekly_token_share": None}
        for row in week(0, {"a": 1.0}, partial=True)
    ]
    assert words.volume(rows) == (
        "3 billion tokens in 1 week. No week lies in the period as a whole, so there is no mean of weeks."
    )


@pytest.mark.parametrize(
    ("slope", "low", "high", "said", "is_clear"),
    [
        (-0.06, -0.08, -0.04, "+0.6 %", True),
        (0.5, 0.1, 0.9, "-5 %", True),
        (-0.06, -0.2, 0.1, "+0.6 %", False),
    ],
)
def test_elasticity(slope: float, low: float, high: float, said: str, is_clear: bool) -> None:
    """The sign is that of the tokens; an interval around nothing is called so."""
    row = {
        "origin": "all",
        "models": 9,
        "elasticity": slope,
        "elasticity_low": low,
        "elasticity_high": high,
        "r_squared": 0.2,
    }
    text = words.elasticity([row])
    assert f"tokens by {said} (95 %:" in text
    assert ("not told from none" in text) != is_clear
    assert "too few" in words.elasticity([{**row, "elasticity": None}])


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999_999, "999,999"), (1_234_567, "1.23 million"), (13.7e12, "13.7 trillion")],
)
def test_amounts(number: float, text: str) -> None:
    """Three digits, and the words of the study."""
    assert words.amount(number) == text


def test_a_period_says_its_last_day() -> None:
    """The end is not in it."""
    period = Period(date(2026, 8, 1), date(2026, 9, 1))
    assert period.text == "1 August 2026 to 31 August 2026"
    assert period.arguments(top_n=3) == "from_day = '2026-08-01', to_day = '2026-09-01', top_n = 3"


def test_changes_between_periods() -> None:
    """Who came and who went is there; without tokens there is no share, not a zero."""
    before = [{"value": "a", "token_share": 0.75}, {"value": "gone", "token_share": 0.25}]
    now = [{"value": "a", "token_share": 0.5}, {"value": "new", "token_share": 0.5}]
    found = {each.value: (each.before, each.now, each.points) for each in changes(before, now)}
    assert found == {"a": (0.75, 0.5, -25), "new": (0.0, 0.5, 50), "gone": (0.25, 0.0, -25)}
    (only,) = changes([], [{"value": "a", "token_share": 1}])
    assert (only.before, only.now, only.points) == (None, 1, None)


def test_patterns_of_retention_are_counted_by_name() -> None:
    """The first of each pattern, how many more, and how many are unclear."""
    rows = [
        *({"model": f"a/{n}", "pattern": "no fit"} for n in range(6)),
        {"model": "b/one", "pattern": "boomerang"},
        {"model": "b/two", "pattern": "unclear"},
    ]
    assert words.patterns(rows) == (
        "Patterns among 8 models with enough users: boomerang: b/one; no fit: a/0, a/1, a/2 and a/3"
        " and 2 more. Of 1 nothing clear can be said."
    )
    assert words.patterns(rows[-1:]) == "Of 1 nothing clear can be said."


def test_churn_counts_from_the_second_week_on() -> None:
    """The first week has none before it; who stayed was there in every week."""
    weeks = [date(2026, 9, 7) + timedelta(days=7 * n) for n in range(3)]
    leaders = [["a", "b"], ["a", "c"], ["a", "c"]]
    rows = [
        {
            "week": week,
            "leaders": now,
            "entered": sorted(set(now) - set(before)) if before else [],
            "dropped": sorted(set(before) - set(now)),
            "models_entered": len(set(now) - set(before)) if before else 0,
            "is_partial": False,
        }
        for week, now, before in zip(weeks, leaders, [[], *leaders], strict=False)
    ]
    assert words.churn(rows) == (
        "Among the 2 largest models 1 place changed hands in 2 weeks. 1 was there in every week."
    )
    assert "In the week of 14 September 2026 c came in and b dropped out." in words.churn(rows[:2])
    assert words.churn(rows[:1]) == "One week has nothing before it to compare with."


def test_launches_say_how_many_fell_again() -> None:
    """Those whose last day has less than half of their best."""
    day = date(2026, 9, 7)
    row = {"model": "a/one", "first_day": day, "highest_day": day, "highest_share": 0.1}
    said = words.launches([{**row, "last_share": 0.04}, {**row, "last_share": 0.06}])
    assert said.startswith(
        "The highest shares of a day's tokens among models new in the period: a/one (first seen 7"
        " September) 10.0 % on 7 September"
    )
    assert said.endswith("1 of 2 had less than half of that on their last day.")


def test_users_of_the_last_week() -> None:
    """The largest first, of all users of the week; what is not known is not named."""
    row = {"week": date(2026, 9, 7), "users_total": 4000, "is_partial": False}
    rows = [
        {**row, "value": "a", "users": 900, "user_share": 0.225},
        {**row, "value": "b", "users": 3200, "user_share": 0.8},
        {**row, "value": "unknown", "users": 3900, "user_share": 0.975},
        {**row, "week": date(2026, 9, 14), "value": "c", "users": 1, "is_partial": True},
    ]
    assert words.users(rows) == (
        "In the week of 7 September 2026, of 4,000 users, these used each: b 3,200 (80.0 %) and a 900"
        " (22.5 %)."
    )
    assert words.users(rows[2:3]).endswith("nothing is known of who was used.")


def test_new_users_and_those_who_stay() -> None:
    """Parts of the users of the last whole week; without any tokens nobody's part is known."""
    row = {
        "week": date(2026, 9, 7),
        "users": 200,
        "users_new": 50,
        "users_kept": 120,
        "users_back": 30,
        "new_share": 0.25,
        "new_token_share": None,
        "is_partial": False,
    }
    assert words.returning([row]) == (
        "In the week of 7 September 2026, of 200 users, 60.0 % had been active the week before, 15.0 %"
        " came back after a gap and 25.0 % were new; the new ones made an unknown part of the tokens."
    )
