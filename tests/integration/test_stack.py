"""The supervisor with real processes: order, restarts, and nobody left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from deploy.kafka_admin import kafka_answers
from deploy.local.processes import Child, wait_until
from deploy.local.supervisor import Part, Stopped, Supervisor, open_log
from schemas.errors import FatalError
from tests.conftest import (
    PROJECT,
    environment,
    http_answers,
    run_tokentide,
    running_stack,
    stack_addresses,
    stack_pids,
)

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    " print('up', flush=True); time.sleep(600)"
)


class Silent:
    """Progress that remembers the names it was told."""

    def __init__(self) -> None:
        self.readied: list[str] = []
        self.stopped: list[list[str]] = []

    def started(self, part: Part) -> None:
        pass

    def ready(self, part: Part, _seconds: float) -> None:
        self.readied.append(part.name)

    def stopping(self, names: Sequence[str]) -> None:
        self.stopped.append(list(names))


class Stack:
    """A supervisor with what it said."""

    def __init__(self, logs: Path, log: Any, parts: Sequence[Part]) -> None:
        self.progress = Silent()
        self.running: dict[str, int] = {}
        self.stops = 0
        self.logs = logs
        self.supervisor = Supervisor(
            parts,
            logs,
            log,
            changed=self._changed,
            stop_asked=lambda: self.stops,
            progress=self.progress,
        )

    def _changed(self, children: Sequence[Child]) -> None:
        self.running = {child.name: child.pid for child in children}

    def events(self, event: str) -> list[dict[str, object]]:
        lines = (self.logs / "stack.log").read_bytes().splitlines()
        return [line for line in map(orjson.loads, lines) if line["event"] == event]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Make a stack of parts whose logs are in ``tmp_path``."""
    with open_log(tmp_path / "stack.log") as log:
        yield lambda *parts: Stack(tmp_path, log, parts)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def service(name: str, logs: Path, code: str = SLEEPER, after: tuple[str, ...] = ()) -> Part:
    """Return a part that is ready when it has printed a line."""
    log = logs / f"{name}.log"

    def problem() -> str:
        return "" if log.exists() and "up" in log.read_text() else "silent"

    return Part(name, python(code), environment(), after, problem, stop_seconds_max=10)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and was not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_parts_start_after_what_they_need(tmp_path: Path, make: Callable[..., Stack]) -> None:
    """A command runs after its store is ready and before the worker; all that serve stay."""
    stack = make(
        service("store", tmp_path),
        Part("prepare", python("print('done')"), environment(), ("store",)),
        service("worker", tmp_path, after=("prepare",)),
    )
    try:
        stack.supervisor.start()
        assert stack.progress.readied == ["store", "prepare", "worker"]
        assert set(stack.running) == {"store", "worker"}
        started = list(stack.running.values())
        assert all(map(is_alive, started))
    finally:
        stack.supervisor.stop()
    assert stack.progress.stopped == [["worker"], ["store"]]
    assert not any(map(is_alive, started))


def test_dead_part_is_restarted(tmp_path: Path, make: Callable[..., Stack]) -> None:
    """A killed part runs again under a new id, the change is told and the restart is logged."""
    stack = make(service("worker", tmp_path))
    try:
        stack.supervisor.start()
        first = stack.running["worker"]
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 60

        def still() -> bool:
            assert time.monotonic() < deadline
            return stack.running.get("worker", first) == first

        stack.supervisor.watch(still)
        assert is_alive(stack.running["worker"])
        (died,) = stack.events("process.died")
        assert (died["pid"], died["exit_code"]) == (first, -signal.SIGKILL)
        (restarted,) = stack.events("process.restarted")
        assert (restarted["name"], restarted["pid"]) == ("worker", stack.running["worker"])
    finally:
        stack.supervisor.stop()


def test_finished_part_stays_finished(tmp_path: Path, make: Callable[..., Stack]) -> None:
    """A simulator that has sent all it had to send is not started again."""
    part = Part("simulator", python("pass"), environment(), problem=lambda: "", may_finish=True)
    stack = make(service("worker", tmp_path), part)
    try:
        stack.supervisor.start()
        deadline = time.monotonic() + 60

        def still() -> bool:
            assert time.monotonic() < deadline
            return not stack.events("process.finished")

        stack.supervisor.watch(still)
        assert list(stack.running) == ["worker"]
        assert not stack.events("process.died")
    finally:
        stack.supervisor.stop()


def test_part_that_fails_at_start_is_reported(tmp_path: Path, make: Callable[..., Stack]) -> None:
    """The error has the part's name, its last log line and where the log is."""
    code = "import sys; print('Error: no room'); sys.exit(1)"
    stack = make(service("store", tmp_path, code))
    with pytest.raises(FatalError, match=r"store stopped at its start: no room; see .*store\.log"):
        stack.supervisor.start()
    stack.supervisor.stop()


def test_part_that_never_gets_ready_is_reported(make: Callable[..., Stack]) -> None:
    """A part that runs and never answers ends the start with the reason it gives."""
    part = Part(
        "worker",
        python(SLEEPER),
        environment(),
        problem=lambda: "no partitions",
        start_seconds_max=0.2,
    )
    stack = make(part)
    try:
        with pytest.raises(FatalError, match="worker is not ready after 0 s: no partitions"):
            stack.supervisor.start()
    finally:
        stack.supervisor.stop()
    assert not is_alive(stack.running["worker"])


def test_stop_during_the_start_is_obeyed(make: Callable[..., Stack]) -> None:
    """A signal while parts are starting ends the start; what had started is stopped."""
    part = Part("worker", python(SLEEPER), environment(), problem=lambda: "starting")
    stack = make(part)
    stack.stops = 1
    with pytest.raises(Stopped):
        stack.supervisor.start()
    stack.supervisor.stop()
    assert not is_alive(stack.running["worker"])


def test_second_signal_kills_what_does_not_stop(tmp_path: Path, make: Callable[..., Stack]) -> None:
    """A part that ignores SIGTERM is killed at the second request, long before its time is up."""
    part = service("worker", tmp_path, STUBBORN)
    stack = make(part)
    stack.supervisor.start()
    stack.stops = 2
    stack.supervisor.stop()
    assert not is_alive(stack.running["worker"])
    assert [event["names"] for event in stack.events("process.killed")] == [["worker"]]


def test_no_child_survives_its_killed_parent(tmp_path: Path) -> None:
    """Children end with a supervisor that is killed with -9, even one that ignores SIGTERM."""
    code = f"""
import os, time
from pathlib import Path
from deploy.local.processes import Child
child = Child("child", {python(STUBBORN)!r}, Path({str(tmp_path / "child.log")!r}))
child.start()
print(child.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(
        python(code), stdout=subprocess.PIPE, text=True, env=environment(), cwd=PROJECT
    )
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert wait_until(lambda: (tmp_path / "child.log").read_text() == "up\n", 30)
        assert is_alive(pid)
    finally:
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()
    assert wait_until(lambda: not is_alive(pid), 30)


def everything_answers(where: dict[str, str]) -> bool:
    """Return whether broker, engine and both workers of a stack are ready."""
    return (
        kafka_answers(where["kafka"])
        and http_answers(f"{where['clickhouse']}/ping")
        and http_answers(f"{where['worker-0']}/readyz")
        and http_answers(f"{where['worker-1']}/readyz")
    )


def test_up_keeps_the_contract_of_scripts(tmp_path: Path) -> None:
    """``up --headless`` prints ``ready`` when all answer, restarts what dies, leaves nobody.

    One test for the whole life of a stack: a start takes many seconds.
    """
    with running_stack(tmp_path, "--no-simulator", "--workers", "2") as process:
        where, running = stack_addresses(tmp_path), stack_pids(tmp_path)
        parts = {"kafka", "clickhouse", "dashboard", "worker-0", "worker-1"}
        assert set(running) == parts == set(where)
        assert all(map(is_alive, running.values()))
        assert everything_answers(where)

        second = run_tokentide("up", "--headless", "--data-dir", str(tmp_path))
        assert second.returncode == 1
        assert "a stack already runs on" in second.stderr
        assert stack_pids(tmp_path) == running

        def restarted(name: str) -> bool:
            return stack_pids(tmp_path).get(name, running[name]) != running[name]

        for name in ("worker-1", "clickhouse", "kafka"):
            os.kill(running[name], signal.SIGKILL)
            assert wait_until(lambda: restarted(name), 60)  # noqa: B023
        assert wait_until(lambda: everything_answers(where), 120)
        assert set(stack_pids(tmp_path)) == set(running)

        running.update(stack_pids(tmp_path))
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    assert not any(map(is_alive, running.values()))
    assert not (tmp_path / "stack.json").exists()
    log = (tmp_path / "logs" / "stack.log").read_text()
    assert '"process.restarted"' in log
    assert '"process.killed"' not in log


@pytest.mark.parametrize("options", [["--data-dir", "/proc/nowhere"], ["--workers", "0"]])
def test_up_refuses_what_cannot_work(options: list[str]) -> None:
    """A directory that cannot be made and a number out of range are told at once."""
    done = run_tokentide("up", "--headless", *options)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
