"""What the dashboard asks ClickHouse: one question per chart, and the SQL that anyone can run.

A question is SQL with two kinds of places: ``{name}`` takes one of a closed list of words, and
``%(name)s`` a value, quoted by clickhouse-connect. The text that runs is the text that is shown.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from clickhouse_connect.driver.binding import finalize_query

from schemas.errors import ConfigurationError
from schemas.panes import DIMENSIONS
from sinks.migrate import SHARE_VIEWS
from streams.windows import SIZES

TEXT_CHARS_MAX = 512
SHARES = {view.name: view for view in SHARE_VIEWS}
WEEKLY = {
    view.name: ("study_shares" if view.seconds == 60 else "study_request_shares", view.column)
    for view in SHARE_VIEWS
}
"""Of what a share is asked by the week: rollups of days and hours, so that a year stays cheap."""
DRILL = {
    "vendor": "vendor",
    "model": "model",
    "app": "app_id",
    "region": "region",
    "provider": "provider",
    "country": "caller_country",
    "category": "category",
}
PERIOD_DAYS_MAX = 3660
DRILL_DAYS_MAX = 31
"""Single requests are read, and a chart that takes a minute is no chart."""

Parse = Callable[[str], Any]


class BadQuestionError(ConfigurationError):
    """A parameter is missing, or not one of its values; the text says which."""


@dataclass(frozen=True)
class Question:
    """A question that the page may ask.

    Attributes:
        choices: Place -> words that it may take, and the SQL of each.
        values: Place -> how its text becomes a value; raises `ValueError`.
        optional: Places and what they are when the page does not say.
        kept_seconds: How long an answer is given again; many readers cost one query.
        check: Raises `ValueError` when the values do not go together.
    """

    sql: str
    choices: Mapping[str, Mapping[str, str]]
    values: Mapping[str, Parse]
    optional: Mapping[str, str]
    kept_seconds: float
    check: Callable[[Mapping[str, Any]], None] = lambda _: None

    def text(self, given: Mapping[str, str]) -> str:
        """Return the SQL with everything filled in.

        Raises:
            BadQuestionError: If a parameter is missing, unknown or wrong.
        """
        for name in given:
            if name not in self.choices and name not in self.values:
                raise BadQuestionError(f"{name}: no such parameter")
        words, values = {}, {}
        for name, allowed in self.choices.items():
            word = self._given(given, name)
            if word not in allowed:
                raise BadQuestionError(f"{name}: {word!r} is not one of {', '.join(allowed)}")
            words[name] = allowed[word]
        for name, parse in self.values.items():
            try:
                values[name] = parse(self._given(given, name))
            except ValueError as error:
                raise BadQuestionError(f"{name}: {error}") from None
        try:
            self.check(values)
        except ValueError as error:
            raise BadQuestionError(str(error)) from None
        sql = re.sub(r"\{([a-z_]+)\}", lambda match: words[match[1]], self.sql)
        return str(finalize_query(sql, values))

    def _given(self, given: Mapping[str, str], name: str) -> str:
        word = given.get(name, self.optional.get(name))
        if word is None:
            raise BadQuestionError(f"{name}: missing")
        return word


def moment(text: str) -> datetime:
    """Return a time: seconds since 1970, UTC."""
    return datetime.fromtimestamp(whole(text, 0, 4_102_444_800), UTC).replace(tzinfo=None)


def day(text: str) -> str:
    """Return a date as ClickHouse takes it."""
    return datetime.strptime(text, "%Y-%m-%d").date().isoformat()


def whole(text: str, low: int, high: int) -> int:
    """Return a whole number within bounds."""
    if not re.fullmatch(r"\d{1,12}", text) or not low <= int(text) <= high:
        raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
    return int(text)


def _within(low: int, high: int) -> Parse:
    return lambda text: whole(text, low, high)


def short(text: str) -> str:
    """Return a text that a name can be."""
    if len(text) > TEXT_CHARS_MAX or any(ord(character) < 32 for character in text):
        raise ValueError(f"longer than {TEXT_CHARS_MAX} characters, or with control characters")
    return text


def _period(days_max: int, *pairs: tuple[str, str]) -> Callable[[Mapping[str, Any]], None]:
    def check(values: Mapping[str, Any]) -> None:
        for start, end in pairs or (("from_time", "to_time"),):
            if not values[start] < values[end]:
                raise ValueError(f"{start} is not before {end}")
            if values[end] - values[start] > timedelta(days=days_max):
                raise ValueError(f"{start} to {end}: more than {days_max} days")

    return check


def _days(values: Mapping[str, Any]) -> None:
    if not values["from_day"] < values["to_day"]:
        raise ValueError("from_day is not before to_day")


def _words(names: Any) -> dict[str, str]:
    return {name: name for name in names}


WINDOWS = {
    "dimension": _words(DIMENSIONS),
    "seconds": {str(size.length_ms // 1000): str(size.length_ms // 1000) for size in SIZES},
}
PERIOD: dict[str, Parse] = {"from_time": moment, "to_time": moment}
DAYS: dict[str, Parse] = {"from_day": day, "to_day": day}

_LIVE = """\
SELECT value, tokens, requests, spend_usd, users, token_share, request_share, spend_share,
    token_share_change, request_share_change, spend_share_change,
    tokens_total, requests_total, spend_total_usd, window_start, window_end, watermark,
    is_complete, revision, given_at
FROM share_windows
WHERE dimension = '{dimension}' AND window_seconds = {seconds} AND window_end = (
    SELECT max(window_end) FROM share_window_revisions
    WHERE dimension = '{dimension}' AND window_seconds = {seconds})
ORDER BY tokens DESC, value"""

_LIVE_HISTORY = """\
SELECT window_end, value, tokens, requests, spend_usd, users, token_share, request_share, spend_share
FROM share_windows
WHERE dimension = '{dimension}' AND window_seconds = {seconds} AND window_end > (
    SELECT max(window_end) FROM share_window_revisions
    WHERE dimension = '{dimension}' AND window_seconds = {seconds}) - %(reach_seconds)s
ORDER BY window_end, tokens DESC, value"""

_TREND = """\
SELECT bucket_start, value, tokens, requests, spend_usd, token_share, request_share, spend_share,
    tokens_total, requests_total, spend_total_usd
FROM share_by_{by}(from_time = %(from_time)s, to_time = %(to_time)s,
    grain_seconds = %(grain_seconds)s, top_n = %(top_n)s)"""

_TREND_WEEKS = """\
SELECT week, value, tokens, requests, spend_usd, token_share, request_share, spend_share,
    tokens_total, requests_total, spend_total_usd, is_partial
FROM {weekly}, only = '', top_n = %(top_n)s, from_day = %(from_day)s,
    to_day = %(to_day)s, by_week = true)"""

_COMPARE = """\
SELECT value, a.tokens AS tokens_before, b.tokens AS tokens_after,
    a.requests AS requests_before, b.requests AS requests_after,
    a.spend_usd AS spend_usd_before, b.spend_usd AS spend_usd_after,
    a.token_share AS token_share_before, b.token_share AS token_share_after,
    a.request_share AS request_share_before, b.request_share AS request_share_after,
    a.spend_share AS spend_share_before, b.spend_share AS spend_share_after
FROM share_by_{by}(from_time = %(from_time)s, to_time = %(to_time)s,
    grain_seconds = 0, top_n = 1000) AS a
FULL OUTER JOIN share_by_{by}(from_time = %(from_time_after)s, to_time = %(to_time_after)s,
    grain_seconds = 0, top_n = 1000) AS b USING (value)
ORDER BY greatest(ifNull(b.tokens, 0), ifNull(a.tokens, 0)) DESC, value
LIMIT 200"""

_DRILL = """\
SELECT {next} AS value, count() AS requests,
    sum(ifNull(tokens_prompt, 0) + ifNull(tokens_completion, 0)) AS tokens,
    toDecimal128(sum(ifNull(cost_nanousd, 0)), 9) / 1000000000 AS spend_usd,
    uniq(user_hash) AS users, countIf(status != 'ok') AS errors,
    tokens / sum(tokens) OVER () AS token_share, requests / sum(requests) OVER () AS request_share,
    spend_usd / nullIf(sum(spend_usd) OVER (), 0) AS spend_share
FROM usage_events
WHERE occurred_at >= %(from_time)s AND occurred_at < %(to_time)s
    AND (%(vendor)s = '' OR vendor = %(vendor)s) AND (%(model)s = '' OR model = %(model)s)
    AND (%(app)s = '' OR app_id = %(app)s) AND (%(region)s = '' OR region = %(region)s)
GROUP BY value
ORDER BY tokens DESC, value
LIMIT 100"""

_FRESHNESS = """\
SELECT max(watermark) AS complete_to, max(window_end) AS newest_window,
    argMax(is_complete, given_at) AS is_complete,
    (SELECT max(occurred_at) FROM usage_events) AS newest_event,
    (SELECT count() FROM usage_events
        WHERE occurred_at >= now() - 600 AND occurred_at < now() + 60) AS requests_10m,
    (SELECT countIf(hasToken(quality, 'late')) FROM usage_events
        WHERE occurred_at >= now() - 600 AND occurred_at < now() + 60) AS late_10m,
    now64(3) AS asked_at
FROM share_window_revisions
WHERE window_seconds = 60"""

_ALERTS = """\
SELECT alert_id, state, kind, dimension, value, direction, rule, since, fired_at, at, sentence
FROM share_alert_states
WHERE state != 'suppressed'
ORDER BY state = 'firing' DESC, at DESC
LIMIT 200"""

_ALERT = """\
SELECT version, state, at, recorded_at, share_before, share_after, share_low, share_high,
    requests_share_before, requests_share_after, statistic, threshold, explanation, sentence
FROM share_alerts
WHERE alert_id = %(alert_id)s
ORDER BY version"""

_RETENTION = """\
SELECT cohort, months_later, cohort_users, active_users, retention, is_partial
FROM study_28_retention(model = %(model)s, from_day = %(from_day)s, to_day = %(to_day)s, exact = true)"""

_MODELS = """\
SELECT model, any(vendor) AS vendor, sum(tokens_prompt + tokens_completion) AS tokens
FROM usage_1d
WHERE day >= %(from_day)s AND day < %(to_day)s AND model != 'unknown'
GROUP BY model
ORDER BY tokens DESC, model
LIMIT 200"""

_PRICES = """\
SELECT model, vendor, origin, tokens, requests, spend_usd, usd_per_million_tokens, segment,
    median_usd_per_million_tokens, median_tokens
FROM study_30_price_and_use_of_models(from_day = %(from_day)s, to_day = %(to_day)s, cell_min = 30)"""

_ELASTICITY = """\
SELECT origin, models, elasticity, elasticity_low, elasticity_high, r_squared
FROM study_30_price_elasticity(from_day = %(from_day)s, to_day = %(to_day)s, cell_min = 30)"""

_BY = {"by": _words(SHARES)}
_TOP: dict[str, Parse] = {"top_n": _within(1, 50)}
_ANY = {"vendor": "", "model": "", "app": "", "region": ""}

QUESTIONS: Mapping[str, Question] = {
    "live": Question(_LIVE, WINDOWS, {}, {}, 0.5),
    "live_history": Question(
        _LIVE_HISTORY, WINDOWS, {"reach_seconds": _within(10, 40_000_000)}, {}, 5.0
    ),
    "trend": Question(
        _TREND,
        _BY,
        {**PERIOD, "grain_seconds": _within(60, 604_800), **_TOP},
        {"top_n": "9"},
        2.0,
        _period(PERIOD_DAYS_MAX),
    ),
    "trend_weeks": Question(
        _TREND_WEEKS,
        {"weekly": {by: f"{view}(column = '{column}'" for by, (view, column) in WEEKLY.items()}},
        {**DAYS, **_TOP},
        {"top_n": "9"},
        30.0,
        _days,
    ),
    "compare": Question(
        _COMPARE,
        _BY,
        {**PERIOD, "from_time_after": moment, "to_time_after": moment},
        {},
        2.0,
        _period(PERIOD_DAYS_MAX, ("from_time", "to_time"), ("from_time_after", "to_time_after")),
    ),
    "drill": Question(
        _DRILL,
        {"next": DRILL},
        {**PERIOD, **dict.fromkeys(_ANY, short)},
        _ANY,
        2.0,
        _period(DRILL_DAYS_MAX),
    ),
    "freshness": Question(_FRESHNESS, {}, {}, {}, 0.5),
    "alerts": Question(_ALERTS, {}, {}, {}, 1.0),
    "alert": Question(_ALERT, {}, {"alert_id": short}, {}, 1.0),
    "retention": Question(_RETENTION, {}, {"model": short, **DAYS}, {}, 60.0, _days),
    "models": Question(_MODELS, {}, DAYS, {}, 30.0, _days),
    "prices": Question(_PRICES, {}, DAYS, {}, 30.0, _days),
    "elasticity": Question(_ELASTICITY, {}, DAYS, {}, 30.0, _days),
}
