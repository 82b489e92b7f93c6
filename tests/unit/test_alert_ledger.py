"""Nothing fires twice, and an alert keeps its identifier to its end."""

from dataclasses import replace

from schemas.share_alert import ShareAlert
from streams.alerts.building import build, transition_of
from streams.alerts.ledger import Ledger
from streams.detection import BIN_MS, Kind, State, Transition

T0 = 1_764_000_000_000
FIRED = Transition(
    Kind.SHARE_CHANGE, State.FIRING, "vendor", "acme", "down", T0, T0 + 3 * BIN_MS, 0.3, 0.2
)


def at(bins: int, state: State, **changes: object) -> Transition:
    return replace(FIRED, state=state, at_ms=T0 + bins * BIN_MS, **changes)  # type: ignore[arg-type]


def say(ledger: Ledger, transition: Transition, rule: str = "") -> ShareAlert | None:
    """Store what is new; return it."""
    named = ledger.name(transition, rule)
    if named is None:
        return None
    alert = build(
        transition,
        named,
        parameters_version="p",
        parameters={"measure": "token_share"},
        rule=rule,
    )
    ledger.record(alert)
    return alert


def versions(ledger: Ledger, *transitions: Transition) -> list[tuple[str, int] | None]:
    alerts = [say(ledger, each) for each in transitions]
    return [(each.state, each.version) if each else None for each in alerts]


def test_a_life_from_firing_to_its_end() -> None:
    """Each change of state is the next version of one alert."""
    ledger = Ledger()
    assert versions(
        ledger,
        at(3, State.FIRING),
        at(4, State.SUPPRESSED, suppressed_by="f" * 32),
        at(5, State.FIRING),
        at(9, State.RESOLVED),
        at(12, State.FIRING),
        at(80, State.REBASELINED),
    ) == [
        ("firing", 1),
        ("suppressed", 2),
        ("firing", 3),
        ("resolved", 4),
        ("firing", 5),
        ("rebaselined", 6),
    ]
    assert list(ledger.on()) == []


def test_what_was_said_before_is_not_said_again() -> None:
    """Records that are read again, and a detector that was rebuilt, add nothing."""
    ledger = Ledger()
    life = [at(3, State.FIRING), at(9, State.RESOLVED)]
    assert versions(ledger, *life) == [("firing", 1), ("resolved", 2)]
    assert versions(ledger, *life) == [None, None]
    assert versions(ledger, at(9, State.FIRING), at(10, State.RESOLVED)) == [None, None]


def test_a_new_owner_goes_on_with_what_is_stored() -> None:
    """A ledger that is loaded knows the newest transition of each, in whatever order they come."""
    ledger = Ledger()
    stored = [say(ledger, each) for each in (at(3, State.FIRING), at(9, State.RESOLVED))]
    stored += [say(ledger, at(30, State.FIRING, since_ms=T0 + 25 * BIN_MS))]
    successor = Ledger()
    successor.load(each for each in reversed(stored) if each)
    assert versions(successor, at(30, State.FIRING), at(31, State.FIRING)) == [None, None]
    ended = say(successor, at(40, State.RESOLVED))
    assert ended is not None
    assert stored[2] is not None
    assert (ended.alert_id, ended.version) == (stored[2].alert_id, 2)


def test_another_start_of_what_is_on_is_the_same_alert() -> None:
    """A detector that finds an earlier start after a restart ends the alert that people know."""
    ledger = Ledger()
    first = say(ledger, FIRED)
    other = replace(FIRED, since_ms=T0 - BIN_MS)
    assert say(ledger, replace(other, at_ms=T0 + 4 * BIN_MS)) is None
    ended = say(ledger, replace(other, state=State.RESOLVED, at_ms=T0 + 9 * BIN_MS))
    assert first is not None
    assert ended is not None
    assert (ended.alert_id, ended.since, ended.version) == (first.alert_id, first.since, 2)


def test_a_later_change_is_another_alert() -> None:
    """After its end the next change has an identifier and versions of its own."""
    ledger = Ledger()
    first = say(ledger, at(3, State.FIRING))
    say(ledger, at(9, State.RESOLVED))
    second = say(ledger, at(99, State.FIRING, since_ms=T0 + 96 * BIN_MS))
    assert first is not None
    assert second is not None
    assert second.version == 1
    assert second.alert_id != first.alert_id
    assert second.alert_id == replace(FIRED, since_ms=T0 + 96 * BIN_MS).id


def test_nothing_ends_that_is_not_on() -> None:
    """An end without a beginning is not told."""
    assert versions(Ledger(), at(3, State.RESOLVED), at(4, State.REBASELINED)) == [None, None]


def test_rules_are_told_apart_by_name() -> None:
    """Two rules on one series are two alerts."""
    ledger = Ledger()
    rule = replace(FIRED, kind=Kind.RULE, threshold=0.3)
    one, two = say(ledger, rule, "one"), say(ledger, rule, "two")
    assert one is not None
    assert two is not None
    assert one.alert_id != two.alert_id
    assert say(ledger, rule, "one") is None


def test_a_rebuilt_detector_ends_what_it_does_not_find() -> None:
    """Its end is told although it is of the bin at which the alert fired; what it finds is not."""
    ledger = Ledger()
    gone = say(ledger, FIRED)
    found = say(ledger, replace(FIRED, value="tiger"))
    assert gone is not None
    assert found is not None
    said = [
        replace(FIRED, state=State.RESOLVED),
        # It calls the other one by another start: over and new at once.
        replace(transition_of(found), state=State.RESOLVED),
        replace(transition_of(found), since_ms=T0 + BIN_MS),
    ]
    assert versions(ledger, *ledger.agree(said)) == [("resolved", 2), None]
    assert [alert.value for alert in ledger.on()] == ["tiger"]


def test_a_stored_alert_is_what_the_detector_said() -> None:
    """Its identifier can be made again from what is stored, which is how a detector knows it."""
    alert = say(Ledger(), FIRED)
    assert alert is not None
    assert transition_of(alert) == FIRED
    assert transition_of(alert).id == alert.alert_id
