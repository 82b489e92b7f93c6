"""The report of a run of ``make chaos``, in Markdown."""

import os
import platform
import statistics
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deploy.local.kafka_jars import read_lock
from tests.chaos.orders import BREAKAGES, KILL_POINTS

Steps = Sequence[Mapping[str, Any]]
KINDS = ("stored", "duplicate", "refused")


def write_report(file: Path, steps: Steps, seed: int) -> None:
    """Write what was run and what was found."""
    parts = [
        _head(steps, seed),
        _kills(steps),
        _faults(steps),
        _stories(steps),
        _differences(steps),
        _breakages(),
    ]
    file.write_text("\n".join(parts))


def _head(steps: Steps, seed: int) -> str:
    kills = sum(sum(step["kills"].values()) for step in steps)
    stories = [step for step in steps if step["kind"].startswith("story: ")]
    told = sum(len(step["told"]) for step in steps)
    events = {kind: sum(step["records"].get(kind, 0) for step in steps) for kind in KINDS}
    found: Counter[str] = Counter()
    for step in steps:
        found.update(step["differences"])
    hours = sum(step["seconds"] for step in steps) / 3600
    drains = [step["drain_seconds"] for step in steps if step["drain_seconds"]]
    offsets = sum(step["records"].get("offsets", 0) for step in steps)
    lines = [
        "# Chaos: what was done to it, and what was found",
        "",
        "Written by `make chaos`; the method is in the docstrings of `tests/chaos`. A *difference* is"
        " a record or a sum that is not exactly what was produced. Records are compared by place"
        " (partition, offset) and content, rollups by every dimension together, rolling windows of the"
        " last minutes with a recount.",
        "",
        _table(
            ("", ""),
            [
                ("events produced", f"{sum(events.values()):,}"),
                ("of them stored once", f"{events['stored']:,}"),
                ("sent again, set aside", f"{events['duplicate']:,}"),
                ("refused, dead-lettered", f"{events['refused']:,}"),
                ("`kill -9` of a worker", f"{kills:,}"),
                ("other faults", f"{told + len(stories):,}"),
                (
                    "engine found dead between a table and its view",
                    f"{sum(step['torn'] for step in steps)}",
                ),
                (
                    "rounds in which it lost a block of a rollup, which was added",
                    f"{sum(step['lost_of_rollups'] for step in steps)}",
                ),
                ("**lost**", f"**{found['lost']}**"),
                ("**doubled**", f"**{found['doubled']}**"),
                ("**unexpected**", f"**{found['unexpected']}**"),
                ("**sums that differ**", f"**{found['rollups']}**"),
                ("**rolling windows that differ**", f"**{found['windows']}**"),
                ("steps not carried through", str(sum(bool(s["failure"]) for s in steps))),
                ("offsets looked at once more at the end of a run", f"{offsets:,}"),
            ],
        ),
        "",
        f"{len(steps)} steps in {hours:.1f} hours, seed {seed}, commit {_commit()},"
        f" {datetime.now(UTC):%Y-%m-%d}. {_machine()}",
    ]
    if drains:
        lines += [
            "",
            f"From the last fault of a step to everything committed: median"
            f" {statistics.median(drains):.1f} s, longest {max(drains):.1f} s.",
        ]
    return "\n".join(lines) + "\n"


def _kills(steps: Steps) -> str:
    kills: Counter[str] = Counter()
    for step in steps:
        kills.update(step["kills"])
    rows = [(f"`{point}`", what, str(kills[point])) for point, what in KILL_POINTS.items()]
    rows.append(("at random", "anywhere, start-up included", str(kills["at random"])))
    head = ("killed at", "state of the range", "times")
    return f"## Kills\n\n{_table(head, rows)}\n"


def _faults(steps: Steps) -> str:
    told: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for step in steps:
        for name, red_seconds, green_seconds in step["told"]:
            told[_grouped(name)].append((red_seconds, green_seconds))
    rows = [
        (
            name,
            str(len(times)),
            f"{statistics.median(red for red, _ in times):.1f}",
            f"{max(red for red, _ in times):.1f}",
            f"{statistics.median(green for _, green in times):.1f}",
            f"{max(green for _, green in times):.1f}",
        )
        for name, times in sorted(told.items())
    ]
    head = ("fault", "times", "red after s", "at most", "green after s", "at most")
    text = "Red: `/readyz` gives the reason. Green: all workers are ready again after the fault is over."
    return f"## Faults\n\n{text}\n\n{_table(head, rows)}\n"


def _grouped(name: str) -> str:
    """Return the name of a fault without the place of a cut, which is drawn."""
    return name.rpartition(" at ")[0].rstrip(",") if " cut " in name else name


def _stories(steps: Steps) -> str:
    times: dict[str, list[float]] = defaultdict(list)
    for step in steps:
        if step["kind"].startswith("story: "):
            times[step["kind"].removeprefix("story: ")].append(step["seconds"])
    rows = [
        (name, str(len(each)), f"{statistics.median(each):.0f}") for name, each in times.items()
    ]
    return f"## Stories\n\n{_table(('story', 'times', 'seconds'), rows)}\n"


def _differences(steps: Steps) -> str:
    lines = ["## Differences", ""]
    bad = [s for s in steps if s["failure"] or any(s["differences"].values())]
    if not bad:
        return "\n".join([*lines, "None.", ""])
    for step in bad:
        lines.append(
            f"* step {step['number']}, {step['kind']}, seed {step['seed']}: {step['failure']}"
        )
        lines += [f"  * {each}" for each in step["shown"]]
    return "\n".join([*lines, ""])


def _breakages() -> str:
    rows = [(f"`{name}`", what) for name, what in BREAKAGES.items()]
    text = "Each of these was broken on purpose, and the same oracle said so (`tests/chaos/test_breakages.py`)."
    return f"## Breakages\n\n{text}\n\n{_table(('switch', 'what is broken'), rows)}\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GB, everything on it; Python"
        f" {platform.python_version()}, chDB {version('chdb')}, Kafka {_kafka_version()},"
        f" faust-streaming {version('faust-streaming')}, aiokafka {version('aiokafka')}."
    )


def _kafka_version() -> str:
    return next(jar.version for jar in read_lock() if jar.artifact == "kafka-clients")
