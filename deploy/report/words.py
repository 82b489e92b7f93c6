"""Sentences out of numbers: none says what another market could make wrong."""

from collections.abc import Callable, Iterable
from datetime import date

from deploy.report.periods import Row, Rows, weeks_of, whole_weeks

SHOWN_MAX = 4
UNKNOWN_WORTH_SAYING = 0.005
_OPEN_AUTHORS_SHOWN = 5


def percent(share: float | None) -> str:
    """Return a share as text."""
    return "an unknown part" if share is None else f"{float(share):.1%}".replace("%", " %")


def amount(number: float) -> str:
    """Return a count as a person says it, with three digits."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(number) >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,.0f}"


def listed(texts: Iterable[str]) -> str:
    """Return texts joined as in a sentence."""
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def _week(day: date) -> str:
    return f"the week of {day:%-d %B %Y}"


def _weeks(count: int) -> str:
    return "1 week" if count == 1 else f"{count} weeks"


def shares(key: str, of: str, share: str = "token_share") -> Callable[[Rows], str]:
    """Return what says the largest shares of the last whole week, and who moved most since the first.

    Args:
        key: The column of the values.
        of: What the shares are parts of.
        share: The column of the shares; null where there is too little to say.
    """

    def say(rows: Rows) -> str:
        rows = [row for row in whole_weeks(rows) if row[share] is not None]
        if not rows:
            return f"There is too little in any week to say the shares of {of}."
        weeks = weeks_of(rows)
        last = {row[key]: row for row in rows if row["week"] == weeks[-1]}
        named = [row for value, row in last.items() if value not in ("other", "unknown")]
        named.sort(key=lambda row: -row[share])
        if not named:
            return f"In {_week(weeks[-1])} nothing is known of {of}."
        said = listed(f"{row[key]} {percent(row[share])}" for row in named[:SHOWN_MAX])
        text = f"In {_week(weeks[-1])} the shares of {of} were: {said}."
        unknown = last.get("unknown")
        if unknown is not None and unknown[share] >= UNKNOWN_WORTH_SAYING:
            text += f" {percent(unknown[share])} is of what is not known."
        return text + _moved(rows, key, share, weeks)

    return say


def _moved(rows: Rows, key: str, share: str, weeks: list[date]) -> str:
    """Say which value moved most between the first and the last week."""
    if len(weeks) < 2:
        return ""
    first, last = (
        {row[key]: float(row[share]) for row in rows if row["week"] == week}
        for week in (weeks[0], weeks[-1])
    )
    values = (first.keys() | last.keys()) - {"other", "unknown"}
    if not values:
        return ""
    change = {value: last.get(value, 0.0) - first.get(value, 0.0) for value in values}
    most = max(sorted(values), key=lambda value: abs(change[value]))
    if abs(change[most]) < 0.0005:
        return f" None of them moved by a tenth of a point since {_week(weeks[0])}."
    return (
        f" Since {_week(weeks[0])} {most} moved most: from {percent(first.get(most, 0.0))} to"
        f" {percent(last.get(most, 0.0))}."
    )


def places(key: str) -> Callable[[Rows], str]:
    """Return what says the largest values of a whole period, and what is not known."""

    def say(rows: Rows) -> str:
        named = [row for row in rows if row[key] not in ("other", "unknown")]
        if not named:
            return "No request says where its caller is."
        said = listed(f"{row[key]} {percent(row['token_share'])}" for row in named[:SHOWN_MAX])
        unknown = sum(float(r["token_share"] or 0) for r in rows if r[key] == "unknown")
        return f"Most tokens came from: {said}. Of {percent(unknown)} it is not known."

    return say


def volume(rows: Rows) -> str:
    """Say how much there was, and the means of the weekly shares."""
    totals = {row["week"]: row["tokens_total"] for row in rows}
    means = {row["origin"]: row["mean_weekly_token_share"] for row in rows}
    whole = {row["week"] for row in rows if not row["is_partial"]}
    text = f"{amount(sum(totals.values()))} tokens in {_weeks(len(totals))}."
    if not whole:
        return text + " No week lies in the period as a whole, so there is no mean of weeks."
    busiest = max(sorted(whole), key=lambda week: totals[week])
    ordered = sorted(means, key=lambda origin: -(means[origin] or 0))
    said = listed(f"{origin} {percent(means[origin])}" for origin in ordered)
    return (
        f"{text} The busiest whole week was that of {busiest:%-d %B %Y}, with"
        f" {amount(totals[busiest])}. Mean of the weekly shares of whole weeks ({len(whole)}): {said}."
    )


def authors(rows: Rows) -> str:
    """Say who made the open models that are used."""
    named = [row for row in rows if row["vendor"] not in ("other", "unknown")]
    said = listed(
        f"{row['vendor']} {amount(row['tokens'])} ({percent(row['token_share'])})"
        for row in named[:_OPEN_AUTHORS_SHOWN]
    )
    total = rows[0]["tokens_total"]
    return f"Open models had {amount(total)} tokens. By author: {said}."


def sizes(rows: Rows) -> str:
    """Say how many models of each size were used in the last whole week."""
    rows = whole_weeks(rows)
    week = weeks_of(rows)[-1]
    last = [row for row in rows if row["week"] == week]
    said = listed(f"{row['models']} {row['size_class']}" for row in last)
    densest = max(last, key=lambda row: row["tokens_per_model"])
    return (
        f"In {_week(week)} {said} open models had requests. A model of class"
        f" {densest['size_class']} had most tokens: {amount(densest['tokens_per_model'])} on average."
    )


def tool_models(rows: Rows) -> str:
    """Say which models call tools."""
    rows = whole_weeks(rows)
    week = weeks_of(rows)[-1]
    last = [row for row in rows if row["week"] == week][:SHOWN_MAX]
    said = listed(
        f"{row['model']} {percent(row['share_of_tool_call_requests'])} (in"
        f" {percent(row['part_of_own_requests'])} of its own requests)"
        for row in last
    )
    return f"In {_week(week)} the requests that called a tool were made to: {said}."


def lengths(rows: Rows) -> str:
    """Say how long requests are, and how that changed."""
    rows = whole_weeks(rows)
    first, last = rows[0], rows[-1]

    def of(row: Row) -> str:
        return (
            f"{row['mean_tokens_prompt']:,.0f} prompt and"
            f" {row['mean_tokens_completion']:,.0f} completion tokens"
        )

    text = f"In {_week(last['week'])} a request had {of(last)} on average"
    if first is last:
        return text + "."
    return f"{text}; in {_week(first['week'])}, {of(first)}."


def lengths_by_category(rows: Rows) -> str:
    """Say which tasks have the longest prompts."""
    rows = whole_weeks(rows)
    week = weeks_of(rows)[-1]
    last = [row for row in rows if row["week"] == week]
    shown = [row for row in last if row["mean_tokens_prompt"] is not None]
    if not shown:
        return f"In {_week(week)} no category has enough sampled requests to say."
    shown.sort(key=lambda row: -row["mean_tokens_prompt"])
    said = listed(
        f"{row['category']} {row['mean_tokens_prompt']:,.0f}" for row in shown[:SHOWN_MAX]
    )
    withheld = len(last) - len(shown)
    text = f"Longest prompts of sampled requests in {_week(week)}, tokens on average: {said}."
    return text + (f" {withheld} categories have too few to say." if withheld else "")


def categories(rows: Rows) -> str:
    """Say what requests are about, with the interval of the largest."""
    rows = whole_weeks(rows)
    week = weeks_of(rows)[-1]
    shown = [r for r in rows if r["week"] == week and r["token_share"] is not None]
    if not shown:
        return f"In {_week(week)} no category has enough sampled requests to say."
    shown.sort(key=lambda row: -row["token_share"])
    said = listed(f"{r['category']} {percent(r['token_share'])}" for r in shown[:SHOWN_MAX])
    most = shown[0]
    return (
        f"Of {most['sampled_requests_total']:,} sampled requests in {_week(week)}, by tokens: {said}."
        f" By requests {most['category']} has {percent(most['request_share'])}, with 95 % certainty"
        f" {percent(most['request_share_low'])} to {percent(most['request_share_high'])}."
    )


def prices(key: str, group: str) -> Callable[[Rows], str]:
    """Return what says the median price and who lies where.

    Args:
        key: The column of the names.
        group: The column of the quadrant or segment.
    """

    def say(rows: Rows) -> str:
        median = rows[0]["median_usd_per_million_tokens"]
        text = f"Half of them cost at least ${median:.3g} per million tokens."
        for name in dict.fromkeys(row[group] for row in rows):
            largest = [row[key] for row in rows if row[group] == name][:SHOWN_MAX]
            text += f" {name.capitalize()}: {listed(largest)}."
        return text

    return say


def elasticity(rows: Rows) -> str:
    """Say what a lower price goes with."""
    (every,) = [row for row in rows if row["origin"] == "all"]
    slope = every["elasticity"]
    if slope is None:
        return f"{every['models']} models are too few for a slope."
    is_clear = every["elasticity_low"] > 0 or every["elasticity_high"] < 0
    return (
        f"Over {every['models']} models, a price that is 10 % lower goes with a change of tokens by"
        f" {-10 * slope:+.2g} % (95 %: {-10 * every['elasticity_high']:+.2g} to"
        f" {-10 * every['elasticity_low']:+.2g} %)."
        + ("" if is_clear else " That is not told from none at all.")
        + f" Price explains {percent(every['r_squared'])} of the differences."
    )


def concentration(rows: Rows) -> str:
    """Say how much the largest have, of models and of vendors."""
    rows = whole_weeks(rows)
    weeks = weeks_of(rows)
    texts = []
    for dimension in ("model", "vendor"):
        found = {row["week"]: row for row in rows if row["dimension"] == dimension}
        last, first = found[weeks[-1]], found[weeks[0]]
        text = (
            f"In {_week(weeks[-1])} the largest {dimension} had {percent(last['share_of_largest'])} of"
            f" all tokens and the three largest {percent(last['share_of_largest_3'])}; the index was"
            f" {last['hhi']:,.0f}"
        )
        since = f", after {first['hhi']:,.0f} in {_week(weeks[0])}" if len(weeks) > 1 else ""
        texts.append(f"{text}{since}.")
    return " ".join(texts)


def churn(rows: Rows) -> str:
    """Say how many models came among the largest, and which last."""
    rows = whole_weeks(rows)
    if len(rows) < 2:
        return "One week has nothing before it to compare with."
    # The first week of the period has none before it.
    later = rows[1:]
    entered = sum(row["models_entered"] for row in later)
    text = (
        f"Among the {len(rows[-1]['leaders'])} largest models {entered}"
        f" {'place' if entered == 1 else 'places'} changed hands in {_weeks(len(later))}."
    )
    last = later[-1]
    if last["entered"]:
        text += f" In {_week(last['week'])} {listed(last['entered'][:SHOWN_MAX])} came in"
        text += (
            f" and {listed(last['dropped'][:SHOWN_MAX])} dropped out." if last["dropped"] else "."
        )
    stayed = set(rows[0]["leaders"]).intersection(*(row["leaders"] for row in later))
    return f"{text} {len(stayed)} {'was' if len(stayed) == 1 else 'were'} there in every week."


def launches(rows: Rows) -> str:
    """Say which new models got furthest."""
    said = listed(
        f"{row['model']} (first seen {row['first_day']:%-d %B}) {percent(row['highest_share'])} on"
        f" {row['highest_day']:%-d %B}"
        for row in rows[:SHOWN_MAX]
    )
    text = f"The highest shares of a day's tokens among models new in the period: {said}."
    fallen = [row for row in rows if row["last_share"] < row["highest_share"] / 2]
    if fallen:
        text += f" {len(fallen)} of {len(rows)} had less than half of that on their last day."
    return text


def tags(rows: Rows) -> str:
    """Say what the largest categories are made of."""
    shown = [
        row for row in rows if row["token_share"] is not None and row["subcategory"] != "unknown"
    ]
    if not shown:
        return "No category has enough sampled requests that say more."
    largest: dict[str, Row] = {}
    for row in sorted(shown, key=lambda row: -row["token_share"]):
        largest.setdefault(row["category"], row)
    by_size = sorted(largest.values(), key=lambda row: -row["sampled_requests_total"])
    return (
        "The largest part of each: "
        + listed(
            f"{row['category']} {row['subcategory']} {percent(row['token_share'])}"
            for row in by_size[:SHOWN_MAX]
        )
        + "."
    )


def languages(rows: Rows) -> str:
    """Say the largest languages."""
    said = listed(f"{row['language']} {percent(row['token_share'])}" for row in rows[:SHOWN_MAX])
    return f"By tokens: {said}."


def quantiles(rows: Rows) -> str:
    """Say how long the middle request is, and the longest of a hundred."""
    last = whole_weeks(rows)[-1]
    return (
        f"In {_week(last['week'])} half of the requests had at most {last['tokens_p50']:,} tokens, one"
        f" in ten more than {last['tokens_p90']:,} and one in a hundred more than"
        f" {last['tokens_p99']:,}."
    )


def patterns(rows: Rows) -> str:
    """Say which models show which pattern of retention."""
    by_pattern: dict[str, list[str]] = {}
    for row in rows:
        by_pattern.setdefault(row["pattern"], []).append(row["model"])
    unclear = len(by_pattern.pop("unclear", []))
    texts = [
        f"{name}: {listed(models[:SHOWN_MAX])}"
        + (f" and {len(models) - SHOWN_MAX} more" if len(models) > SHOWN_MAX else "")
        for name, models in sorted(by_pattern.items())
    ]
    said = (
        f"Patterns among {len(rows)} models with enough users: {'; '.join(texts)}." if texts else ""
    )
    return f"{said} Of {unclear} nothing clear can be said.".strip() if unclear else said


def users(rows: Rows) -> str:
    """Return who has most users in the last whole week, of how many."""
    whole = whole_weeks(rows)
    week = weeks_of(whole)[-1]
    last = [row for row in whole if row["week"] == week and row["value"] != "unknown"]
    last.sort(key=lambda row: -row["users"])
    if not last:
        return f"In {_week(week)} nothing is known of who was used."
    said = listed(
        f"{row['value']} {amount(row['users'])} ({percent(row['user_share'])})"
        for row in last[:SHOWN_MAX]
    )
    return f"In {_week(week)}, of {amount(last[0]['users_total'])} users, these used each: {said}."


def returning(rows: Rows) -> str:
    """Return what the users of the last whole week were, and what new ones brought."""
    last = whole_weeks(rows)[-1]
    of_all = max(last["users"], 1)
    tokens = last["new_token_share"]
    return (
        f"In {_week(last['week'])}, of {amount(last['users'])} users,"
        f" {percent(last['users_kept'] / of_all)} had been active the week before,"
        f" {percent(last['users_back'] / of_all)} came back after a gap and"
        f" {percent(last['new_share'])} were new; the new ones made {percent(tokens)} of the tokens."
    )
