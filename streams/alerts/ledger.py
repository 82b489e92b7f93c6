"""Which alerts are on, and which transition is a new one.

A detector that was rebuilt, and records that are read again, say again what was said before. A
transition counts only when it is later than the last one known of what it is about, and only as a
change of its state: so nothing fires twice, and an alert keeps its identifier to its end.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from schemas.share_alert import ON_STATES, ShareAlert, epoch_ms
from streams.detection import Transition, alert_id

Key = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Named:
    """The identity and number that a new transition gets."""

    alert_id: str
    version: int
    since_ms: int


@dataclass
class Ledger:
    """The newest transition of everything that alerts were about."""

    _last: dict[Key, ShareAlert] = field(default_factory=dict)

    def load(self, alerts: Iterable[ShareAlert]) -> None:
        """Take what is stored: the newest transition of each alert, in any order."""
        for alert in alerts:
            known = self._last.get(alert.key)
            if known is None or (known.at_ms, known.version) < (alert.at_ms, alert.version):
                self._last[alert.key] = alert

    def name(self, transition: Transition, rule: str = "") -> Named | None:
        """Return what a transition is to be called, or ``None`` when it says nothing new."""
        last = self._last.get(key_of(transition, rule))
        is_on = last is not None and last.is_on
        if last is not None and transition.at_ms <= last.at_ms:
            return None
        if transition.state in ON_STATES:
            if last is not None and last.state == transition.state:
                return None
        elif not is_on:
            return None
        if last is not None and is_on:
            return Named(last.alert_id, last.version + 1, epoch_ms(last.since))
        identity = identity_of(transition, rule)
        version = last.version + 1 if last is not None and last.alert_id == identity else 1
        return Named(identity, version, transition.since_ms)

    def agree(self, said: Sequence[Transition]) -> list[Transition]:
        """Return what a rebuilt detector has still to tell, without what is known here.

        It ends what it does not find on, and names what it does: an alert that it calls by another
        start is the same. An end is later than what it ends.
        """
        on = {key_of(each) for each in said if each.state in ON_STATES}
        found = []
        for each in said:
            last = self._last.get(key_of(each))
            if each.state in ON_STATES:
                found.append(each)
            elif key_of(each) not in on and last is not None:
                found.append(replace(each, at_ms=max(each.at_ms, last.at_ms + 1)))
        return found

    def record(self, alert: ShareAlert) -> None:
        """Note that a transition is stored."""
        self._last[alert.key] = alert

    def on(self) -> Iterator[ShareAlert]:
        """Yield the newest transition of every alert that has not ended."""
        return (alert for alert in self._last.values() if alert.is_on)


def key_of(transition: Transition, rule: str = "") -> Key:
    """Return what a transition is about: the `ShareAlert.key` it will have."""
    return (
        str(transition.kind),
        transition.dimension,
        transition.value,
        transition.direction,
        rule,
    )


def identity_of(transition: Transition, rule: str = "") -> str:
    """Return the identifier of the alert that a transition begins."""
    if not rule:
        return transition.id
    return alert_id(
        transition.kind,
        f"{rule}\0{transition.dimension}",
        transition.value,
        transition.direction,
        transition.since_ms,
    )
