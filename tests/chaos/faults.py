"""Faults of ClickHouse, of the way to it, and of Kafka: each told by /readyz, told by a metric, survived."""

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sinks.clickhouse import RETRYABLE_CODES
from sinks.usage_events import TABLE
from tests.chaos.proxy import (
    ANSWER,
    CALL,
    CALL_AFTER,
    CUT_ANSWER,
    CUT_REQUEST,
    HOLD_ANSWER,
    HOLD_REQUEST,
    RESET,
    Rule,
)
from tests.chaos.stage import Stage, until

RED_SECONDS_MAX = 30.0
"""Longest time from a fault to a /readyz that is red and says why."""
GREEN_SECONDS_MAX = 60.0
RETRIES = "tokentide_sink_retries_total"
LAG = "tokentide_consumer_lag_records"
CALL_SECONDS_MAX = 0.05
UNNOTICED_TIMES = 3
REPEATS = 6
FIRST_LINE = 0.02
"""Part of an answer that is within its first line."""
Act = Callable[[Stage], None]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong until it is healed, with every worker running.

    Attributes:
        reason: Part of the reason that /readyz must give; ``""`` if the worker does not notice, nor need
            to: then the fault is healed when it has struck some times.
        metric: Must grow while it lasts; ``""`` where there is none.
    """

    name: str
    hurt: Act
    heal: Act
    reason: str
    metric: str


@dataclass(frozen=True)
class Told:
    """How long a fault took to be told, and to be over after it was healed, in seconds."""

    name: str
    red_seconds: float
    green_seconds: float


def suffer(stage: Stage, fault: Fault, slots: Sequence[str]) -> Told:
    """Bring a fault about, see it told by a worker, heal it, see all workers green.

    Records must be produced meanwhile: who has nothing to do notices nothing.

    Raises:
        GaveUpError: If it is not told, or not over, in time.
    """
    stage.await_ready(*slots)
    hits = sum(stage.proxy.hits.values())
    before = {slot: stage.metric(slot, fault.metric) for slot in slots}
    began = time.monotonic()
    fault.hurt(stage)
    told: list[str] = []

    def is_told() -> bool:
        if not fault.reason:
            told[:] = slots[:1]
            return sum(stage.proxy.hits.values()) >= hits + UNNOTICED_TIMES
        for slot in slots:
            status, reasons = stage.readiness(slot)
            if status == 503 and any(fault.reason in each for each in reasons):
                told.append(slot)
                return True
        return False

    try:
        until(is_told, f"/readyz that says {fault.reason!r} of {fault.name}", RED_SECONDS_MAX)
        red_seconds = time.monotonic() - began
        slot = told[0]
        until(
            lambda: not fault.metric or stage.metric(slot, fault.metric) > before[slot],
            f"{fault.metric} that grows with {fault.name}",
            RED_SECONDS_MAX,
        )
    finally:
        fault.heal(stage)
    return Told(fault.name, red_seconds, stage.await_ready(*slots, seconds=GREEN_SECONDS_MAX))


def _by_rule(name: str, rule: Rule, reason: str = "clickhouse: ") -> Fault:
    return Fault(name, lambda s: s.proxy.set(rule), lambda s: s.proxy.lift(), reason, RETRIES)


def refused_with(code: int) -> Fault:
    """ClickHouse answers each insert with an error of this code; 0 is a gateway's 503."""
    name = f"clickhouse answers {code} {RETRYABLE_CODES[code]}" if code else "gateway answers 503"
    reason = f"code {code}" if code else "clickhouse: "
    return _by_rule(name, Rule(ANSWER, code=code), reason)


def cut_request(part: float) -> Fault:
    """The connection ends after a part of the request."""
    return _by_rule(f"request cut at {part:.4%}", Rule(CUT_REQUEST, part=part))


def cut_answer(part: float) -> Fault:
    """The connection ends within the answer's first line: the insert has landed, nobody says so."""
    assert part <= FIRST_LINE
    return _by_rule(f"answer cut at {part:.2%}", Rule(CUT_ANSWER, part=part))


def cut_late(part: float) -> Fault:
    """The connection ends after the line of the answer that says that the insert has landed."""
    name = f"answer cut after its first line, at {part:.2%}"
    return replace(_by_rule(name, Rule(CUT_ANSWER, part=part), ""), metric="")


SILENT = _by_rule("request held, no answer", Rule(HOLD_REQUEST, inserts_only=False))
ANSWER_HELD = _by_rule("insert done, answer held", Rule(HOLD_ANSWER))
RESETS = _by_rule("connections reset", Rule(RESET, inserts_only=False))
NOBODY_LISTENS = Fault(
    "connections refused",
    lambda s: s.proxy.refuse(),
    lambda s: s.proxy.accept(),
    "clickhouse: ",
    RETRIES,
)


def _signal_engine(number: int) -> Act:
    def send(stage: Stage) -> None:
        assert stage.engine.process is not None
        os.kill(stage.engine.process.pid, number)

    return send


def _signal_broker(number: int) -> Act:
    def send(stage: Stage) -> None:
        assert stage.kafka.process is not None
        os.kill(stage.kafka.process.pid, number)

    return send


ENGINE_PAUSED = Fault(
    "clickhouse paused",
    _signal_engine(signal.SIGSTOP),
    _signal_engine(signal.SIGCONT),
    "clickhouse: ",
    RETRIES,
)


def engine_killed(after_seconds: float) -> Fault:
    """The engine dies with -9, ``after_seconds`` into an insert."""

    def hurt(stage: Stage) -> None:
        assert stage.engine.process is not None
        process = stage.engine.process
        kill = Rule(CALL, part=after_seconds, table=TABLE, call=process.kill, times=1)
        stage.proxy.set(kill)
        until(lambda: process.poll() is not None, "the engine dead")

    return Fault("clickhouse killed during an insert", hurt, _heal_engine, "clickhouse: ", RETRIES)


def _heal_engine(stage: Stage) -> None:
    # Nobody repeats anything before it has been looked at.
    stage.proxy.refuse()
    stage.proxy.lift()
    stage.start_engine()
    stage.torn += stage.is_behind_rollup()
    stage.proxy.accept()


def _hang_and_die(stage: Stage) -> None:
    """Hang until inserts are repeated; go on with originals and repeats, die at the first answer."""
    assert stage.engine.process is not None
    process = stage.engine.process
    hits, inserts = stage.proxy.hits[CALL_AFTER], stage.proxy.inserts
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: stage.proxy.inserts >= inserts + REPEATS, "inserts that are repeated")
    stage.proxy.set(Rule(CALL_AFTER, call=process.kill))
    os.kill(process.pid, signal.SIGCONT)
    until(lambda: process.poll() is not None, "the engine dead")
    assert stage.proxy.hits[CALL_AFTER] > hits


ENGINE_HANGS_AND_DIES = Fault(
    "clickhouse hung, killed as it answers the repeats",
    _hang_and_die,
    _heal_engine,
    "clickhouse: ",
    RETRIES,
)


BROKER_PAUSED = Fault(
    "kafka paused",
    _signal_broker(signal.SIGSTOP),
    _signal_broker(signal.SIGCONT),
    "kafka: no answer",
    "",
)
BROKER_KILLED = Fault(
    "kafka killed",
    lambda s: s.kill_broker(),
    lambda s: s.start_broker(),
    "kafka: no answer",
    "",
)


def quick(random_: random.Random) -> list[Fault]:
    """Return one of each kind that is over within seconds."""
    return [
        *map(refused_with, (0, *RETRYABLE_CODES)),
        *(cut_request(part) for part in (0.0, 0.0005, random_.uniform(0.01, 0.99), 0.9999)),
        *(cut_answer(part) for part in (0.0, FIRST_LINE)),
        *(cut_late(part) for part in (random_.uniform(0.2, 0.8), 0.99)),
        RESETS,
        NOBODY_LISTENS,
    ]


def slow(random_: random.Random) -> list[Fault]:
    """Return one of each kind that takes a time-out or a restart."""
    return [
        SILENT,
        ANSWER_HELD,
        ENGINE_PAUSED,
        *(engine_killed(random_.uniform(0, CALL_SECONDS_MAX)) for _ in range(3)),
        ENGINE_HANGS_AND_DIES,
        BROKER_PAUSED,
        BROKER_KILLED,
    ]
