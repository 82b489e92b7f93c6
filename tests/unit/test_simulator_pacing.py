"""When events are sent: an exact rate, time run faster, repeatable files."""

import itertools
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from deploy.cli.replay import replay
from deploy.cli.simulate import simulate
from deploy.local import published
from deploy.local.replay import azure
from deploy.local.simulator.blocks import BLOCK_EVENTS
from deploy.local.simulator.pacing import at_speed, live_batches
from schemas.errors import ConfigurationError

START_MS = 1_787_529_600_000


class Clock:
    """Gives each of the times in turn, then the last one for ever."""

    def __init__(self, *times_ms: int) -> None:
        self._times_ms = list(times_ms)

    def __call__(self) -> int:
        return self._times_ms.pop(0) if len(self._times_ms) > 1 else self._times_ms[0]


class NeverWaits(threading.Event):
    """A stop event whose waits take no time."""

    def wait(self, timeout: float | None = None) -> bool:
        del timeout
        return self.is_set()


def test_live_rate_is_exact_after_a_delay() -> None:
    """Events are numbered without a gap, due at k / rate, and a pause is caught up with."""
    clock = Clock(START_MS, START_MS + 100, START_MS + 5_000, START_MS + 5_000)
    batches = list(itertools.islice(live_batches(200, None, clock, NeverWaits()), 2))
    assert [(first, len(times)) for first, times in batches] == [(0, 20), (20, 980)]
    times = np.concatenate([times for _, times in batches])
    assert times.tolist() == [START_MS + k * 5 for k in range(1_000)]


def test_live_traffic_ends_after_its_events_and_when_stopped() -> None:
    """The number of events is kept exactly; a stop ends it at once."""
    clock = Clock(START_MS, START_MS + 60_000)
    (batch,) = live_batches(10, 7, clock, NeverWaits())
    assert len(batch[1]) == 7
    stopped = NeverWaits()
    stopped.set()
    assert not list(live_batches(10, 7, clock, stopped))


def test_a_long_pause_is_caught_up_in_blocks() -> None:
    """However far behind, one block holds no more than its limit."""
    clock = Clock(START_MS, START_MS + 1_000_000)
    batches = itertools.islice(live_batches(1_000, None, clock, NeverWaits()), 3)
    assert [len(times) for _, times in batches] == [BLOCK_EVENTS] * 3


def test_time_runs_faster_but_in_order() -> None:
    """At speed 60 a minute of the trace is sent per second, every record once."""
    first_ms = 1_700_158_546_680
    clock = Clock(0, *range(0, 70_000, 500))
    sent = at_speed(azure.blocks(), 60, clock, NeverWaits())
    records = 0
    for tick, part in zip(range(3), sent, strict=False):
        assert part.times_ms[-1] <= first_ms + tick * 500 * 60
        records += len(part.values)
    assert records < 2_000
    assert records + sum(len(part.values) for part in sent) == 28_185


def run_simulate(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(simulate, [*arguments, "--no-publish"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    summary: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return summary


def test_the_same_command_writes_the_same_file(tmp_path: Path) -> None:
    """Two runs with the same arguments give files equal to the byte, other arguments other ids."""
    past = ("--events", "3000", "--from", "2026-08-01", "--to", "2026-08-03", "--seed", "9")
    faults = ("--faults", "duplicates=0.05,malformed=0.05")
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    first = run_simulate(*past, *faults, "--out", str(one))
    second = run_simulate(*past, *faults, "--out", str(two))
    third = run_simulate(*past, "--out", str(other))
    assert one.read_bytes() == two.read_bytes()
    assert first["id_prefix"] == second["id_prefix"] != third["id_prefix"]
    assert one.read_bytes().count(b"\n") == first["records"]


def test_a_rate_fills_the_past_with_that_many_events() -> None:
    """--rate with --from and --to is events per second of the past."""
    past = ("--from", "2026-08-01T00:00:00Z", "--to", "2026-08-01T02:00:00+01:00")
    assert run_simulate("--rate", "0.5", *past)["records"] == 1_800


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("--from", "2026-08-01"), "say how many"),
        (("--from", "2026-08-02", "--to", "2026-08-01", "--events", "1"), "before --to"),
        (("--from", "yesterday", "--events", "1"), "no time: 'yesterday'"),
        (("--events", "1", "--out", "missing/file"), "no directory missing"),
        (("--events", "1", "--out", "/dev/full"), "No space left"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: tuple[str, ...], fact: str) -> None:
    """One line says what is wrong."""
    result = CliRunner().invoke(simulate, [*arguments, "--no-publish"])
    assert fact in str(result.exception)


def test_replay_needs_kafka_to_resume() -> None:
    """A place in the topic makes no sense without the topic."""
    result = CliRunner().invoke(
        replay, ["openrouter-2026", "--no-publish", "--resume", "place.json"]
    )
    assert isinstance(result.exception, ConfigurationError)


def test_damaged_data_is_a_fact_not_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shipped file that is gone or cut off stops with its name."""
    monkeypatch.setattr(published, "DATA", tmp_path)
    with pytest.raises(ConfigurationError, match=r"rankings_daily\.csv"):
        published.openrouter_days()
    file = tmp_path / "openrouter_daily" / "rankings_daily.csv"
    file.parent.mkdir()
    file.write_text(
        "date,rank,model_permaslug,total_tokens,share_of_day\n2026-05-23,1,a/b,many,0.1\n"
    )
    with pytest.raises(ConfigurationError, match=r"rankings_daily\.csv"):
        published.openrouter_days()
