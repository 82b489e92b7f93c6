"""Rules by hand: what a file may say, when a rule fires, and a file that changes."""

from dataclasses import replace
from pathlib import Path

import pytest

from agents.rule_file import RuleFile, read_rules
from schemas.errors import ConfigurationError
from streams.alerts.rules import Rule, RuleWatch, parse_rules
from streams.alerts.share_window import ShareWindow
from streams.detection import State

GOOD = """
[[rule]]
name = "China above 30 %"
dimension = "origin"
value = "chinese_open"
window_seconds = 3600
above = 0.30
for_seconds = 3600
"""
RULE = Rule("r", "origin", "chinese_open", 3600, "token_share", 0.3, None, 600)
T0 = 1_764_000_000_000


def window(
    end_ms: int, share: float, *, is_complete: bool = True, total: int = 1000
) -> ShareWindow:
    tokens = round(share * total)
    return ShareWindow(
        version=1,
        dimension="origin",
        window_seconds=3600,
        window_end_ms=end_ms,
        revision=0,
        is_complete=is_complete,
        watermark_ms=end_ms,
        requests_total=100,
        tokens_total=total,
        cost_nanousd_total=0,
        values=["chinese_open", "other"],
        requests=[40, 60],
        tokens_prompt=[tokens, total - tokens],
        tokens_completion=[0, 0],
        cost_nanousd=[0, 0],
        errors=[10, 0],
        tokens_capped=[0, 0],
        tokens_capped_squared=[0, 0],
        users=[7, 9],
    )


def test_a_rule_is_read() -> None:
    """What is not said has its default."""
    (rule,) = parse_rules(GOOD)
    assert rule == Rule(
        "China above 30 %", "origin", "chinese_open", 3600, "token_share", 0.3, None, 3600
    )
    assert parse_rules("") == ()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("above = 0.30", "above = 30", r"rule 1 \(China above 30 %\): token_share is 0 to 1"),
        ("above = 0.30", "", "needs either above or below"),
        ("above = 0.30", "above = 0.3\nbelow = 0.1", "needs either above or below"),
        ("above = 0.30", 'above = "0.3"', "above must be float, not '0.3'"),
        ("above = 0.30", "abvoe = 0.3", "unknown key 'abvoe'"),
        ("3600\nabove", "300.5\nabove", "window_seconds must be int"),
        ("3600\nabove", "1234\nabove", "window_seconds must be one of 60, 300"),
        ('"origin"', '"vendors"', "dimension 'vendors' is none of model, vendor"),
        ('value = "chinese_open"', "", "value is missing"),
        ("for_seconds = 3600", "for_seconds = -1", "for_seconds must be 0 to"),
        ("[[rule]]", "[rule]", "in two brackets"),
        ("[[rule]]", "[[rules]]", "unknown key 'rules'"),
        ("[[rule]]", "[[rule", "is not TOML"),
        ("for_seconds = 3600", 'measure = "share"', "measure 'share' is none of"),
        ("for_seconds = 3600", GOOD, "two rules are called 'China above 30 %'"),
    ],
)
def test_a_file_that_is_wrong_says_where(old: str, new: str, says: str) -> None:
    """Each mistake is refused with the rule, the key and what it must be."""
    assert old in GOOD
    with pytest.raises(ConfigurationError, match=says):
        parse_rules(GOOD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("token_share", 0.25),
        ("request_share", 0.4),
        ("error_ratio", 0.25),
        ("cost_share", None),
        ("requests", 40),
        ("tokens", 250),
        ("users", 7),
    ],
)
def test_measures(measure: str, expected: float | None) -> None:
    """Each is what its name says; of a total of 0 there is no share."""
    assert replace(RULE, measure=measure).amount(window(T0, 0.25)) == expected


def test_a_value_without_requests_has_share_zero() -> None:
    """It is absent from the window, which must not look like missing data."""
    assert replace(RULE, value="other_open").amount(window(T0, 0.25)) == 0.0


def told(watch: RuleWatch, *windows: ShareWindow, rule: Rule = RULE) -> list[str | None]:
    found = [watch.observe(rule, each) for each in windows]
    return [str(each.state) if each else None for each in found]


def test_it_fires_when_it_held_long_enough() -> None:
    """600 s long, without a window that says otherwise; then it says so until it ends."""
    step = 300_000
    watch = RuleWatch()
    shares = (0.31, 0.32, 0.29, 0.31, 0.31, 0.35, 0.35, 0.3)
    windows = [window(T0 + number * step, share) for number, share in enumerate(shares)]
    states = [None, None, "resolved", None, None, "firing", "firing", "resolved"]
    assert told(watch, *windows) == states
    fired = RuleWatch()
    for each in windows[3:5]:
        fired.observe(RULE, each)
    transition = fired.observe(RULE, windows[5])
    assert transition is not None
    assert transition.state is State.FIRING
    # From the start of the first window that was above.
    assert transition.since_ms == windows[3].window_end_ms - 3_600_000
    assert transition.share_after == 0.35


def test_below_fires_below() -> None:
    """A rule may also want a share not to fall."""
    rule = replace(RULE, above=None, below=0.1, for_seconds=0)
    windows = [window(T0 + number, share) for number, share in enumerate((0.1, 0.09))]
    assert told(RuleWatch(), *windows, rule=rule) == ["resolved", "firing"]


def test_a_window_that_says_nothing_changes_nothing() -> None:
    """Incomplete and empty ones, and those that are read again, do not end what holds."""
    watch = RuleWatch()
    windows = [
        window(T0, 0.4),
        window(T0 + 300_000, 0.0, is_complete=False),
        window(T0 + 400_000, 0.0, total=0),
        window(T0 + 600_000, 0.4),
        window(T0 + 300_000, 0.0),
    ]
    assert told(watch, *windows) == [None, None, None, "firing", None]


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A broken one keeps the rules and says why; a good one ends that; one that is away is broken."""
    path = tmp_path / "rules.toml"
    path.write_text(GOOD)
    rules = RuleFile(path)
    rules.load()
    before = rules.current()
    assert len(before) == 1
    path.write_text("[[rule]]\nname = 1")
    assert rules.current() == before
    assert "name must be str" in rules.fault
    path.write_text(GOOD + GOOD.replace("China", "Also China"))
    assert len(rules.current()) == 2
    assert rules.fault == ""
    path.unlink()
    assert len(rules.current()) == 2
    assert "No such file" in rules.fault
    replacement = tmp_path / "new.toml"
    replacement.write_text(GOOD)
    replacement.replace(path)
    assert len(rules.current()) == 1


def test_a_start_with_a_broken_file_is_refused(tmp_path: Path) -> None:
    """In one line that names the file."""
    with pytest.raises(ConfigurationError, match=r"alert rules .*missing\.toml: No such file"):
        read_rules(tmp_path / "missing.toml")
    assert RuleFile(None).current() == ()
