"""``make chaos``: rounds of kills, faults and stories for as long as wanted; a report of all of them.

Every step has a seed made of the run's and its number, and is written down as it ends: a run that is
stopped goes on with the next step. Exit code 1 if anything was lost, doubled, unexpected or unequal.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tests.chaos import faults
from tests.chaos.episodes import FIRST, SECOND, STORIES, missing, only
from tests.chaos.kills import (
    AT_RANDOM,
    BUSY_POINTS,
    IDLE_POINTS,
    IDLE_RATE,
    POISON_POINTS,
    WINDOW_POINTS,
    Outcome,
    kill_round,
)
from tests.chaos.oracle import (
    SHOWN_MAX,
    read_letters,
    unaccounted,
    unequal_rollups,
    unequal_windows,
)
from tests.chaos.report import write_report
from tests.chaos.rounds import running_round
from tests.chaos.stage import Stage, stage

RESULT = Path("build/chaos.jsonl")
BATCH_ROWS_MAX = 10_000
QUICK_FAULTS = 12
BULK_RATE = 60_000
LAST_WORDS_SECONDS = 240.0
"""Left of a run's time for the comparison of everything at its end."""

WINDOWS_MS = 360_000
WINDOWS_SAMPLE = 7
WINDOWS_SECONDS_MAX = 120.0
WINDOWS_PAUSE_SECONDS = 5.0


@dataclass
class Step:
    """What one step did and found.

    Attributes:
        records: By what must have become of them: stored, duplicate, refused.
        told: Name of a fault, seconds until it was told, seconds until it was over.
        failure: Why the step could not be carried through; ``""`` when it was.
    """

    number: int
    kind: str
    seed: int
    seconds: float = 0.0
    kills: dict[str, int] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    told: list[tuple[str, float, float]] = field(default_factory=list)
    torn: int = 0
    lost_of_rollups: int = 0
    records: dict[str, int] = field(default_factory=dict)
    differences: dict[str, int] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    drain_seconds: float = 0.0
    failure: str = ""

    @property
    def is_good(self) -> bool:
        """Return whether everything was as it must be."""
        return not self.failure and not any(self.differences.values())


Act = Callable[[Stage, Step], None]


def _kills(points: Sequence[str], rate: float, *, is_now: bool = False) -> Act:
    def act(found: Stage, step: Step) -> None:
        outcome = kill_round(found, step.seed, points, rate=rate, is_now=is_now)
        _note(step, outcome)

    return act


def _note(step: Step, outcome: Outcome) -> None:
    step.kills, step.missed = dict(outcome.kills), dict(outcome.missed)
    step.drain_seconds = outcome.drain_seconds
    _judge(step, outcome.verdict)


def _judge(step: Step, verdict: Any) -> None:
    step.records = dict(verdict.records)
    step.differences = verdict.counts()
    step.shown = verdict.differences[:SHOWN_MAX]


def _faults(found: Stage, step: Step) -> None:
    """A dozen quick faults and a slow one, then nothing wrong and as much as goes through."""
    random_ = random.Random(step.seed)
    chosen = random_.sample(faults.quick(random_), QUICK_FAULTS)
    chosen.append(random_.choice(faults.slow(random_)))
    only(found, FIRST, SECOND)
    torn = found.torn
    with running_round(found, step.seed, rate=5_000, is_now=step.seed % 2 == 0) as round_:
        for fault in chosen:
            told = faults.suffer(found, fault, (FIRST, SECOND))
            step.told.append((told.name, told.red_seconds, told.green_seconds))
    step.torn = found.torn - torn
    step.drain_seconds = round_.drain_seconds
    _judge(step, round_.verdict)


def _bulk(found: Stage, step: Step) -> None:
    """A backlog of half a million while both workers are killed at random."""
    outcome = kill_round(found, step.seed, [AT_RANDOM] * 12, rate=BULK_RATE, is_now=True)
    _note(step, outcome)


def _story(name: str) -> Act:
    def act(found: Stage, step: Step) -> None:
        _judge(step, STORIES[name](found, step.seed, ""))

    return act


def _everything(found: Stage, step: Step) -> None:
    """Every offset of the topic is in exactly one place; every rollup equals the table."""
    letters = read_letters(found.servers, {})
    ends = found.ends()
    with found.client() as client:
        offsets, wrong = unaccounted(client, ends, letters, frozenset(found.lost))
        unequal = unequal_rollups(client, None)
    windows = _windows(found)
    step.records = {"offsets": offsets}
    step.differences = {
        "unexpected": len(wrong),
        "rollups": len(unequal),
        "windows": len(windows),
    }
    step.shown = [*wrong, *unequal, *windows][:SHOWN_MAX]


def _windows(found: Stage) -> list[str]:
    """Return what is wrong with windows of the last minutes once all that came late is in them."""
    only(found, FIRST, SECOND)
    from_ms = time.time_ns() // 1_000_000 - WINDOWS_MS
    deadline = time.monotonic() + WINDOWS_SECONDS_MAX
    while True:
        with found.client() as client:
            unequal = unequal_windows(client, from_ms, sample=WINDOWS_SAMPLE)
        if not unequal or time.monotonic() > deadline:
            return unequal
        time.sleep(WINDOWS_PAUSE_SECONDS)


def plan() -> Iterator[tuple[str, Act]]:
    """Yield steps without end."""
    randomly = [AT_RANDOM] * 4
    not_now = ("between_blocks",)
    now_points = [point for point in BUSY_POINTS if point not in not_now]
    stories = iter(())  # type: Iterator[str]
    while True:
        yield "kills under load", _kills([*BUSY_POINTS, *randomly], 4_000)
        yield "faults", _faults
        yield (
            "kills, events of now",
            _kills([*now_points, *WINDOW_POINTS, *randomly], 20_000, is_now=True),
        )
        for _ in range(2):
            name = next(stories, "")
            if not name:
                stories = iter(STORIES)
                name = next(stories)
            yield f"story: {name}", _story(name)
        yield "kills, idle", _kills([*IDLE_POINTS, *IDLE_POINTS], IDLE_RATE)
        yield "faults", _faults
        yield "kills, rows refused", _kills([*POISON_POINTS, *POISON_POINTS], 1_000)
        yield "kills in a backlog", _bulk


# --- Running -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """When a run is long enough; 0 is no goal."""

    kills: int
    faults: int
    events: int

    def is_reached(self, steps: Sequence[Step]) -> bool:
        """Return whether there is a goal, and enough of everything."""
        if not (self.kills or self.faults or self.events):
            return False
        done = totals(steps)
        return (
            done["kills"] >= self.kills
            and done["faults"] >= self.faults
            and done["events"] >= self.events
        )


def totals(steps: Sequence[Step]) -> Counter[str]:
    """Return kills, other faults, events and differences of all steps."""
    done: Counter[str] = Counter()
    for step in steps:
        done["kills"] += sum(step.kills.values())
        done["faults"] += len(step.told) + step.kind.startswith("story: ")
        done["events"] += sum(
            step.records.get(kind, 0) for kind in ("stored", "duplicate", "refused")
        )
        done["failures"] += bool(step.failure)
        for kind, count in step.differences.items():
            done[kind] += count
    return done


def carry_out(found: Stage, number: int, kind: str, seed: int, act: Act) -> Step:
    """Do one step; what it fails with is its outcome."""
    step = Step(number, kind, seed)
    began, lost_of_rollups = time.monotonic(), found.lost_of_rollups
    try:
        act(found, step)
    except Exception as error:  # It is written down, and the next step begins anew.
        step.failure = f"{type(error).__name__}: {error}"[:2000]
        found.proxy.set()
        found.proxy.accept()
        found.revive()
        pass_over(found)
    step.seconds = time.monotonic() - began
    step.lost_of_rollups = found.lost_of_rollups - lost_of_rollups
    return step


def pass_over(found: Stage) -> None:
    """Begin anew behind what a failed step has left: it is not stored, and that is no loss."""
    for slot in list(found.workers):
        found.kill_worker(slot)
    found.lost |= missing(found, found.committed(), found.ends(), {})
    found.skip_to_end()


def say(step: Step, steps: Sequence[Step], began: float) -> None:
    """Print a line about a step and the sums so far."""
    done = totals(steps)
    wrong = step.failure or ", ".join(f"{k} {n}" for k, n in step.differences.items() if n)
    print(
        f"{time.monotonic() - began:7.0f} s  {step.number:4} {step.kind:45} {step.seconds:5.0f} s"
        f"  {sum(step.kills.values()):3} kills {len(step.told):3} faults"
        f"  {sum(step.records.values()):9,} records"
        f"  {'ok' if step.is_good else 'WRONG (seed ' + str(step.seed) + '): ' + wrong}"
        f"   [{done['kills']} kills, {done['faults']} faults, {done['events']:,} events]",
        flush=True,
    )
    for line in step.shown:
        print(f"           {line}", flush=True)


def load(result: Path) -> list[Step]:
    """Return the steps of earlier runs."""
    if not result.exists():
        return []
    return [Step(**orjson.loads(line)) for line in result.read_bytes().splitlines()]


def run(seconds: float, seed: int, goal: Goal, result: Path, directory: Path) -> list[Step]:
    """Run steps until the time is over or the goal reached; then compare everything."""
    steps, began = load(result), time.monotonic()
    result.parent.mkdir(parents=True, exist_ok=True)

    def record(step: Step) -> None:
        steps.append(step)
        with result.open("ab") as file:
            file.write(orjson.dumps(asdict(step)) + b"\n")
        say(step, steps, began)

    print(f"seed {seed}; {len(steps)} steps before; results in {result}", flush=True)
    with stage(directory) as found:
        found.settings["batch_rows_max"] = BATCH_ROWS_MAX
        number = len(steps)
        for kind, act in plan():
            left = seconds - (time.monotonic() - began)
            if left < min(LAST_WORDS_SECONDS, seconds / 4) or goal.is_reached(steps):
                break
            record(carry_out(found, number, kind, seed * 10_000 + number, act))
            number += 1
        found.settle()
        record(carry_out(found, number, "everything", seed, _everything))
        found.end_workers()
    return steps


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0, help="end once there are so many, and")
    parser.add_argument("--faults", type=int, default=0, help="so many other faults, and")
    parser.add_argument("--events", type=int, default=0, help="so many events")
    parser.add_argument("--result", type=Path, default=RESULT, help="a line of JSON per step")
    parser.add_argument("--report", type=Path, help="write a report of all steps there")
    wanted = parser.parse_args()
    goal = Goal(wanted.kills, wanted.faults, wanted.events)
    with tempfile.TemporaryDirectory(prefix="tokentide-chaos-") as directory:
        steps = run(wanted.seconds, wanted.seed, goal, wanted.result, Path(directory))
    if wanted.report:
        write_report(wanted.report, [asdict(step) for step in steps], wanted.seed)
    bad = [step for step in steps if not step.is_good]
    done = totals(steps)
    print(
        f"{done['kills']} kills, {done['faults']} other faults, {done['events']:,} events:"
        f" {done['lost']} lost, {done['doubled']} doubled, {done['unexpected']} unexpected,"
        f" {done['rollups']} sums and {done['windows']} windows unequal,"
        f" {done['failures']} steps not carried through"
    )
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
