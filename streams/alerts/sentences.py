"""An alert in one short sentence that a person can read at 3 a.m."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from schemas.share_alert import Breakdown, Explanation, ShareAlert, Volume

PART_MIN = 0.5
"""A value or an account is named when it made at least so much of the change."""
SURPRISE_MIN = 0.15
"""And so much more of it than of the series: the only provider of a vendor explains nothing."""
STILL = 0.05
"""A relative change below it is told as none."""
LATE_RATIO_MIN = 0.02
PLURALS = {"model": "models", "app": "apps", "region": "regions", "provider": "providers"}

_ORIGINS = {
    "proprietary": "Proprietary models",
    "chinese_open": "Chinese open models",
    "other_open": "Other open models",
    "unknown": "Models of unknown origin",
}
_NOUNS = {
    "model": "Model",
    "vendor": "Vendor",
    "country": "Vendors from",
    "license": "Models under licence",
    "size_class": "Models of size",
    "reasoning": "Models with reasoning",
    "provider": "Provider",
    "app": "App",
    "category": "Category",
    "region": "Region",
    "tool_use": "Requests with tool use",
}
_TOTALS = {
    "total_drop": "All traffic",
    "total_jump": "All traffic",
    "ingest_lag": "The data",
}


def sentence(alert: ShareAlert) -> str:
    """Return the sentence of a transition; it says when, how much and, if known, why."""
    if alert.state == "firing":
        return f"{_FIRING.get(alert.kind, _share_change)(alert)}."
    if alert.state == "suppressed":
        return f"{_moved(alert)}; part of alert {alert.suppressed_by[:8]}."
    return f"{_ended(alert)}."


def series_name(dimension: str, value: str) -> str:
    """Return what a series is called at the beginning of a sentence."""
    if dimension == "origin" and value in _ORIGINS:
        return _ORIGINS[value]
    if dimension == "vendor_region" and "|" in value:
        vendor, _, region = value.partition("|")
        return f"Vendor {vendor} in {region}"
    if value == "other":
        return f"All smaller {PLURALS.get(dimension, f'values of {dimension}')} together"
    return f"{_NOUNS.get(dimension, dimension)} {value}"


def _subject(alert: ShareAlert) -> str:
    return _TOTALS.get(alert.kind) or series_name(alert.dimension, alert.value)


def _share_change(alert: ShareAlert) -> str:
    parts = [_moved(alert) + _interval(alert)]
    if alert.explanation is not None:
        parts += [text for text in (_cause(alert), _driver(alert.explanation)) if text]
        parts += _doubts(alert.explanation)
    return ": ".join([parts[0], "; ".join(parts[1:])]) if parts[1:] else parts[0]


def _moved(alert: ShareAlert) -> str:
    if alert.kind in _TOTALS or alert.share_before is None or alert.share_after is None:
        return f"{_subject(alert)} changed since {clock(alert.since, alert.at)}"
    verb = "rose" if alert.share_after > alert.share_before else "fell"
    return (
        f"{_subject(alert)} {verb} from {percent(alert.share_before)} to"
        f" {percent(alert.share_after)} of tokens since {clock(alert.since, alert.at)}"
    )


def _interval(alert: ShareAlert) -> str:
    if alert.share_low is None or alert.share_high is None or alert.share_high <= 0:
        return ""
    return f" (95 %: {percent(alert.share_low)} to {percent(alert.share_high)})"


def _cause(alert: ShareAlert) -> str:
    explanation = alert.explanation
    assert explanation is not None
    own = _change(explanation.own_before.requests, explanation.own_after.requests)
    others = _change(explanation.others_before.requests, explanation.others_after.requests)
    if explanation.cause == "own_volume":
        rest = "the others did not change" if _is_still(others) else f"the others {others}"
        return f"its own requests {own}, {rest}"
    if explanation.cause == "others_volume":
        rest = "its own did not change" if _is_still(own) else f"its own {own}"
        return f"the others' requests {others}, {rest}"
    if explanation.cause == "own_and_others":
        return f"its own requests {own}, the others {others}"
    if explanation.cause == "tokens_per_request":
        each = _change(_per_request(explanation.own_before), _per_request(explanation.own_after))
        return f"its tokens per request {each}, its requests {own}"
    return ""


def _per_request(volume: Volume) -> float:
    return volume.tokens / volume.requests if volume.requests else 0.0


def _change(before: float, after: float) -> str:
    """Return a relative change in words: ``fell 46 %``, ``grew 1.9 times``, ``stopped``."""
    if before <= 0:
        return "began" if after > 0 else "stayed at none"
    if after <= 0:
        return "stopped"
    ratio = after / before
    if abs(ratio - 1) < STILL:
        return "did not change"
    if ratio < 1:
        return f"fell {100 * (1 - ratio):.0f} %"
    return f"grew {100 * (ratio - 1):.0f} %" if ratio < 2 else f"grew {ratio:.1f} times"


def _is_still(change: str) -> bool:
    return change in ("did not change", "stayed at none")


def _driver(explanation: Explanation) -> str:
    """Return who made the change: one account, one value, or nobody in particular."""
    account = explanation.account
    if account is not None and account.part >= PART_MIN:
        return f"one account ({account.user_hash[:8]}) made {_part(account.part)} of it"
    change = explanation.share_after - explanation.share_before
    found = max(
        (_leader(breakdown, change) for breakdown in explanation.breakdowns),
        default=None,
        key=lambda each: each[0],
    )
    if found is None or not change:
        return ""
    surprise, part, dimension, value = found
    if surprise >= SURPRISE_MIN and part >= PART_MIN:
        return f"{_part(part)} of it in {dimension} {value}"
    broad = [PLURALS[each.dimension] for each in explanation.breakdowns if _is_broad(each)]
    return f"across all its {_list(broad)}" if broad else ""


def _leader(breakdown: Breakdown, change: float) -> tuple[float, float, str, str]:
    """Return surprise, part of the change, dimension and value of the largest contribution."""
    if not breakdown.contributions or not change:
        return (0.0, 0.0, breakdown.dimension, "")
    top = max(breakdown.contributions, key=lambda each: each.change / change)
    volume = sum(each.share_before + each.share_after for each in breakdown.contributions)
    usual = (top.share_before + top.share_after) / volume if volume else 0.0
    part = top.change / change
    return (part - usual, part, breakdown.dimension, top.value)


def _is_broad(breakdown: Breakdown) -> bool:
    return len([each for each in breakdown.contributions if each.value != "unknown"]) > 1


def _part(part: float) -> str:
    return "all" if part >= 0.995 else f"{100 * part:.0f} %"


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _doubts(explanation: Explanation) -> list[str]:
    """Return what is wrong with the data, if anything is."""
    found = explanation.completeness
    doubts = []
    if not found.is_complete:
        doubts.append("the data is not complete yet")
    if found.partitions_after < found.partitions_before:
        doubts.append(
            f"data from {found.partitions_after} of {found.partitions_before} partitions only"
        )
    if found.late_ratio >= LATE_RATIO_MIN:
        doubts.append(f"{percent(found.late_ratio)} of the events came late")
    return doubts


def _outage(alert: ShareAlert) -> str:
    head = f"{_subject(alert)} is failing since {clock(alert.since, alert.at)}"
    explanation = alert.explanation
    if explanation is None:
        return f"{head}: {_lower(_moved(alert))}"
    own = _change(explanation.own_before.requests, explanation.own_after.requests)
    errors = [_errors(each) for each in (explanation.own_before, explanation.own_after)]
    parts = [f"its requests {own}", f"errors {errors[0]} before, {errors[1]} now"]
    share = f"{percent(explanation.share_before)} to {percent(explanation.share_after)}"
    parts.append(f"its share of requests went from {share}")
    return f"{head}: {'; '.join([*parts, *_doubts(explanation)])}"


def _errors(volume: Volume) -> str:
    return percent(volume.errors / volume.requests) if volume.requests else "none"


def _total(alert: ShareAlert) -> str:
    since = clock(alert.since, alert.at)
    explanation = alert.explanation
    if explanation is None:
        verb = "fell" if alert.kind == "total_drop" else "jumped"
        return f"All traffic {verb} since {since}; shares are not judged meanwhile"
    before, after = explanation.others_before.requests, explanation.others_after.requests
    before += explanation.own_before.requests
    after += explanation.own_after.requests
    head = (
        f"All traffic {_change(before, after)} since {since}, from {before:,.0f} to"
        f" {after:,.0f} requests per minute"
    )
    parts = [_driver(explanation), *_doubts(explanation)]
    parts = [part for part in parts if part]
    return "; ".join([head, *parts])


def _ingest_lag(alert: ShareAlert) -> str:
    since = clock(alert.since, alert.at)
    return f"Data is late or missing since {since}: shares are not judged until it has come"


def _new_model(alert: ShareAlert) -> str:
    share = alert.requests_share_after or alert.share_after or 0.0
    low = f", at least {percent(alert.share_low)}" if alert.share_low else ""
    head = (
        f"New model {alert.value} has {percent(share)} of requests{low},"
        f" {_duration(alert.since_ms, alert.at_ms)} after it was first seen"
    )
    explanation = alert.explanation
    if explanation is None:
        return head
    return "; ".join([head, *filter(None, [_driver(explanation), *_doubts(explanation)])])


def _rule(alert: ShareAlert) -> str:
    value, limit = alert.share_after, alert.threshold
    assert value is not None
    assert limit is not None
    side = "above" if alert.direction == "up" else "below"
    measure = str(alert.parameters.get("measure", "token_share"))
    name = series_name(alert.dimension, alert.value)
    return (
        f"Rule {alert.rule}: {_lower(name)} at {measured(value, measure)},"
        f" {side} {_plain(limit, measure)} since {clock(alert.since, alert.at)}"
    )


def measured(value: float, measure: str) -> str:
    """Return a value of a rule's measure with its unit."""
    if measure.endswith("_share"):
        return f"{percent(value)} of {_UNITS[measure]}"
    if measure == "error_ratio":
        return f"{percent(value)} errors"
    return f"{value:,.0f} {measure}"


def _plain(value: float, measure: str) -> str:
    return percent(value) if measure.endswith(("_share", "_ratio")) else f"{value:,.0f}"


_UNITS = {"token_share": "tokens", "request_share": "requests", "cost_share": "spend"}
_FIRING = {
    "share_change": _share_change,
    "provider_outage": _outage,
    "total_drop": _total,
    "total_jump": _total,
    "ingest_lag": _ingest_lag,
    "new_model": _new_model,
    "rule": _rule,
}


def _ended(alert: ShareAlert) -> str:
    at, lasted = clock(alert.at, alert.at), _duration(alert.since_ms, alert.at_ms)
    if alert.state == "rebaselined":
        share = f" at {percent(alert.share_after)} of tokens" if alert.share_after else ""
        have = "have" if _is_plural(alert) else "has"
        return f"{_subject(alert)} {have} stayed{share} for {lasted}: that is the new normal"
    if alert.kind == "rule":
        return f"Resolved at {at} after {lasted}: rule {alert.rule} holds no more"
    if alert.kind == "ingest_lag":
        return f"Resolved at {at} after {lasted}: the data has come"
    if alert.kind == "total_drop" or alert.kind == "total_jump":
        return f"Resolved at {at} after {lasted}: all traffic is as usual"
    if alert.kind == "provider_outage":
        return f"Resolved at {at} after {lasted}: {_lower(_subject(alert))} serves again"
    share = f" at {percent(alert.share_after)} of tokens" if alert.share_after else ""
    are = "are" if _is_plural(alert) else "is"
    return f"Resolved at {at} after {lasted}: {_lower(_subject(alert))} {are} back{share}"


def _is_plural(alert: ShareAlert) -> bool:
    first = _subject(alert).split()[0]
    return alert.dimension == "origin" or first in ("All", "Models", "Vendors", "Requests")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def percent(share: float) -> str:
    """Return a share as percent with three significant digits at most: 18.4 %, 0.73 %, 100 %."""
    value = 100 * share
    if value >= 99.95 or value == 0:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 1 else f"{value:.2g} %"


def clock(time: str, now: str) -> str:
    """Return a time of day, with its date when it is another day than ``now``; UTC."""
    at, today = datetime.fromisoformat(time), datetime.fromisoformat(now)
    return f"{at:%H:%M} UTC" if at.date() == today.date() else f"{at:%-d %b %H:%M} UTC"


def _duration(from_ms: int, to_ms: int) -> str:
    minutes = (to_ms - from_ms) / 60_000
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


def headline(alert: ShareAlert) -> str:
    """Return a few words that name the alert: for a list, a title, a summary."""
    what: Mapping[str, str] = {
        "share_change": "share change",
        "provider_outage": "outage",
        "total_drop": "traffic drop",
        "total_jump": "traffic jump",
        "ingest_lag": "late data",
        "new_model": "new model",
        "rule": f"rule {alert.rule}",
    }
    return f"{what[alert.kind]}: {_subject(alert)}" if alert.dimension else what[alert.kind]
