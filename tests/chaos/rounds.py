"""A round: known records are produced while something goes wrong; then all of them are looked for."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agents.reconcile import complete_rollups, frontier_of
from schemas.topics import DEAD_LETTER_TOPIC
from sinks.reconciling import Engine
from sinks.reconciling_rollups import check_rollups
from streams.topic_offsets import UsageLog
from tests.chaos.ledger import POISON, Ledger, Mix, window, window_now
from tests.chaos.oracle import Place, Scope, Verdict, judge, read_letters, unequal_rollups
from tests.chaos.producing import Production
from tests.chaos.proxy import ANSWER, Rule
from tests.chaos.stage import ASK_KAFKA_SECONDS, DATABASE, GROUP, WAIT_SECONDS_MAX, Stage, until

INCORRECT_DATA = 117
DRAIN_SECONDS_MAX = 300.0


@dataclass
class Round:
    """What one round produces and where it stands; see `running_round`.

    Attributes:
        partitions: How many are produced to, from 0 on; may grow.
        waits: It produces only what it is asked for.
        lost: Places that retention took, to be filled in by what took them.
        verdict: Once it is over.
        drain_seconds: From the end of producing to everything committed.
    """

    stage: Stage
    number: int
    ledger: Ledger
    production: Production
    begins: dict[int, int]
    letter_begins: dict[int, int]
    partitions: int
    waits: bool = False
    lost: set[Place] = field(default_factory=set)
    verdict: Verdict = field(default_factory=Verdict)
    drain_seconds: float = 0.0

    @property
    def poison_rule(self) -> Rule:
        """The proxy refuses the rows that are poison, whatever else it does."""
        return Rule(ANSWER, code=INCORRECT_DATA, marker=POISON.encode())

    def produced(self, records: int, seconds: float = WAIT_SECONDS_MAX) -> None:
        """Wait until so many records of the round are on the topic."""

        def is_there() -> bool:
            self.production.check()
            return self.production.acknowledged >= records

        until(is_there, f"{records} records", seconds)

    def goes_on(self, records: int, seconds: float = WAIT_SECONDS_MAX) -> None:
        """Wait until so many more records are on the topic; as many follow in any case."""
        if self.waits:
            self.production.more(2 * records)
        self.produced(self.production.acknowledged + records, seconds)

    def fill(self, records: int) -> None:
        """Have so many records wait on the topic, of a round that waits to be asked for them."""
        missing = records - self.stage.lag()
        if missing > 0:
            self.produced(self.production.more(missing))

    def lands(self, seconds: float = WAIT_SECONDS_MAX) -> None:
        """Wait until what is on the topic now is committed."""
        ends = self.stage.ends()

        def is_committed() -> bool:
            done = self.stage.committed()
            return all(done.get(partition, 0) >= end for partition, end in ends.items())

        until(is_committed, "records committed", seconds, ASK_KAFKA_SECONDS)

    def judge(self) -> Verdict:
        """Compare what is there now with what was produced; all of it must be committed."""
        scope = Scope(
            self.begins, self.letter_begins, self.ledger.window.days, frozenset(self.lost)
        )
        letters = read_letters(self.stage.servers, self.letter_begins)
        with self.stage.client() as client:
            return judge(self.ledger.expected(), scope, client, letters)


_numbers = iter(range(1 << 30))


@contextmanager
def running_round(
    stage: Stage,
    seed: int,
    *,
    mix: Mix | None = None,
    rate: float = 20_000,
    records_max: int | None = None,
    is_now: bool = False,
    waits: bool = False,
) -> Iterator[Round]:
    """Produce until the block ends; then wait until all is committed, and judge.

    The topic must be drained when it begins. Workers that can do the work must run when it ends.

    Args:
        rate: Records per second.
        records_max: End of the production, or ``None``: when the block ends.
        is_now: Event times that have just been, instead of the round's own days.
        waits: Produce only what `Round.fill` and `Round.goes_on` ask for, so that a machine that is
            slow has no more to do.
    """
    number = next(_numbers)
    now = datetime.now(UTC)
    times = window_now(int(now.timestamp() * 1000)) if is_now else window(number, now.date())
    ledger = Ledger(f"r{number}-{seed}", times, mix or Mix(), seed)
    begins, letter_begins = stage.ends(), stage.ends(DEAD_LETTER_TOPIC)
    production = Production(
        stage.servers,
        ledger,
        partitions=lambda: found.partitions,
        rate=rate,
        records_max=records_max,
        waits=waits,
    )
    found = Round(stage, number, ledger, production, begins, letter_begins, len(begins), waits)
    if mix is not None and mix.poison:
        stage.proxy.set(found.poison_rule)
    production.start()
    try:
        yield found
        production.join() if records_max is not None else production.stop()
    except BaseException:
        production.halt()
        raise
    began = time.monotonic()
    stage.drain(DRAIN_SECONDS_MAX)
    found.drain_seconds = time.monotonic() - began
    found.verdict = found.judge()
    complete(stage, found.verdict, ledger.window.days)
    if mix is not None and mix.poison:
        stage.proxy.lift()


def complete(stage: Stage, verdict: Verdict, days: Sequence[str] | None) -> None:
    """Add what rollups lack, if that is all that is wrong with them, as a worker does by itself.

    A worker's own run comes every five minutes, by when it is dead here.
    """
    if not verdict.rollups or not verdict.lacks_only:
        return
    stage.lost_of_rollups += 1
    with stage.client() as client, UsageLog(stage.servers, GROUP) as usage_log:
        engine = Engine(client, DATABASE)
        frontier = frontier_of(engine, usage_log)
        lacking = check_rollups(engine, frontier).differences
        complete_rollups(engine, frontier, lacking)
        verdict.rollups = unequal_rollups(client, days)
