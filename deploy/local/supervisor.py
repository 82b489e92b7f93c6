"""Starts parts in the order of their needs, restarts what dies, stops them in reverse.

Delivery does not depend on it: every part may be killed at any time and goes on where it was.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson
import structlog

from deploy.local.processes import POLL_SECONDS, Child, last_lines, stop_all
from schemas.errors import FatalError

BACKOFF_SECONDS_MIN = 0.5
BACKOFF_SECONDS_MAX = 30.0
STEADY_SECONDS = 60.0
"""A part that ran this long starts its backoff anew when it dies."""


@dataclass(frozen=True)
class Part:
    """One process of a stack.

    Attributes:
        after: Names of the parts that must be ready before it starts.
        problem: Why it is not ready, ``""`` when it is. ``None``: a command that is ready when it
            has ended with exit code 0.
        start_seconds_max: Longest time from its start to readiness.
        stop_seconds_max: Time between SIGTERM and SIGKILL.
        may_finish: Exit code 0 means that its work is done, not that it died.
        hint: What a person who waits for it should know.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    after: tuple[str, ...] = ()
    problem: Callable[[], str] | None = None
    start_seconds_max: float = 120.0
    stop_seconds_max: float = 10.0
    may_finish: bool = False
    hint: str = ""


class Progress(Protocol):
    """Is told how the start and the stop go on."""

    def started(self, part: Part) -> None:
        """``part`` is starting."""

    def ready(self, part: Part, seconds: float) -> None:
        """``part`` is ready, ``seconds`` after its start."""

    def stopping(self, names: Sequence[str]) -> None:
        """The parts called ``names`` are asked to stop."""


class Stopped(Exception):  # noqa: N818  (not an error: someone asked for it)
    """The start was called off by a signal."""


@dataclass
class Restart:
    """When a dead part may start again; seconds of the monotonic clock."""

    count: int = 0
    due_seconds: float | None = None

    def schedule(self, now_seconds: float, ran_seconds: float) -> float:
        """Plan the next start and return the wait: it doubles while the part keeps dying."""
        self.count = 1 if ran_seconds >= STEADY_SECONDS else self.count + 1
        wait = min(BACKOFF_SECONDS_MIN * 2.0 ** (self.count - 1), BACKOFF_SECONDS_MAX)
        self.due_seconds = now_seconds + wait
        return wait


@dataclass
class Supervised:
    """A part with its process and what happened to it."""

    part: Part
    child: Child
    started_seconds: float = 0.0
    is_ready: bool = False
    is_finished: bool = False
    restart: Restart = field(default_factory=Restart)


@contextmanager
def open_log(file: Path) -> Iterator[Any]:
    """Yield a structlog logger that appends JSON lines to ``file``."""

    def dumps(event: Any, **_: Any) -> str:
        return orjson.dumps(event, default=str).decode()

    with file.open("a", buffering=1) as handle:
        yield structlog.wrap_logger(
            structlog.WriteLogger(handle),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(serializer=dumps),
            ],
        )


class Supervisor:
    """Runs the parts of one stack. Call it from the main thread only: see ``Child``."""

    def __init__(
        self,
        parts: Sequence[Part],
        logs: Path,
        log: Any,
        *,
        changed: Callable[[Sequence[Child]], None],
        stop_asked: Callable[[], int],
        progress: Progress,
    ) -> None:
        """Take what to run.

        Args:
            parts: In an order that fulfils ``after``; stopped in the reverse order.
            logs: Directory of ``NAME.log``.
            log: The supervisor's own structlog logger.
            changed: Told the long-running processes whenever one starts or ends.
            stop_asked: How often a stop has been asked for; the second kills what still runs.
            progress: Told how start and stop go on.
        """
        self._all = [
            Supervised(
                part, Child(part.name, part.command, logs / f"{part.name}.log", part.environment)
            )
            for part in parts
        ]
        self._log = log
        self._changed = changed
        self._stop_asked = stop_asked
        self._progress = progress

    def start(self) -> None:
        """Start all parts, each as soon as what it needs is ready.

        Raises:
            FatalError: If a part ends or is not ready in time; the message has its last log line.
            Stopped: If a stop is asked for meanwhile.
        """
        ready: set[str] = set()
        while len(ready) < len(self._all):
            for one in self._all:
                if one.is_ready:
                    continue
                if one.child.process is None:
                    if ready.issuperset(one.part.after):
                        self._start(one)
                        self._progress.started(one.part)
                elif self._is_ready(one):
                    one.is_ready = True
                    ready.add(one.part.name)
                    seconds = time.monotonic() - one.started_seconds
                    self._progress.ready(one.part, seconds)
                    self._log.info("process.ready", name=one.part.name, seconds=round(seconds, 2))
                if self._stop_asked():
                    raise Stopped
            time.sleep(POLL_SECONDS)

    def watch(self, still: Callable[[], bool]) -> None:
        """Restart what dies, until a stop is asked for or ``still`` is false."""
        while still() and not self._stop_asked():
            for one in self._all:
                if one.part.problem is not None and not one.is_finished:
                    self._look_after(one)
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop everything, what started last first; nothing is left when it returns."""
        for group in self._stop_groups():
            names = [one.part.name for one in group]
            self._progress.stopping(names)
            killed = stop_all(
                [one.child for one in group],
                max(one.part.stop_seconds_max for one in group),
                in_a_hurry=lambda: self._stop_asked() > 1,
            )
            self._log.info("process.stopped", names=names)
            if killed:
                self._log.warning("process.killed", names=killed)

    def _start(self, one: Supervised) -> None:
        one.child.start()
        one.started_seconds = time.monotonic()
        self._log.info("process.started", name=one.part.name, pid=one.child.pid)
        self._tell()

    def _is_ready(self, one: Supervised) -> bool:
        """Return whether a started part is ready; ends the start if it never will be."""
        part, code = one.part, one.child.exit_code
        if code == 0 and (part.problem is None or part.may_finish):
            return True
        if code is not None:
            raise FatalError(f"{part.name} stopped at its start: {_reason(one.child, code)}")
        problem = part.problem() if part.problem is not None else "it still runs"
        if problem and time.monotonic() - one.started_seconds > part.start_seconds_max:
            raise FatalError(
                f"{part.name} is not ready after {part.start_seconds_max:.0f} s: {problem};"
                f" see {one.child.log}"
            )
        return not problem

    def _look_after(self, one: Supervised) -> None:
        code, now = one.child.exit_code, time.monotonic()
        if code is None:
            return
        if code == 0 and one.part.may_finish:
            one.is_finished = True
            self._log.info("process.finished", name=one.part.name)
            self._tell()
        elif one.restart.due_seconds is None:
            wait = one.restart.schedule(now, now - one.started_seconds)
            self._log.warning(
                "process.died",
                name=one.part.name,
                pid=one.child.pid,
                exit_code=code,
                restart_in_seconds=wait,
                last_line=" ".join(last_lines(one.child.log))[:300],
            )
            self._tell()
        elif now >= one.restart.due_seconds:
            one.restart.due_seconds = None
            self._start(one)
            self._log.warning(
                "process.restarted",
                name=one.part.name,
                pid=one.child.pid,
                restarts=one.restart.count,
            )

    def _tell(self) -> None:
        self._changed(
            [
                one.child
                for one in self._all
                if one.part.problem is not None
                and one.child.process is not None
                and one.child.exit_code is None
            ]
        )

    def _stop_groups(self) -> list[list[Supervised]]:
        """Return the running parts, those that nothing needs first; equals are stopped together."""
        groups: dict[tuple[str, ...], list[Supervised]] = {}
        for one in reversed(self._all):
            if one.child.process is not None and one.child.exit_code is None:
                # Two stores need nothing: each still gets a turn of its own.
                groups.setdefault(one.part.after or (one.part.name,), []).append(one)
        return list(groups.values())


def _reason(child: Child, code: int) -> str:
    lines = [line.removeprefix("Error: ") for line in last_lines(child.log)]
    return f"{' '.join(lines) or f'exit code {code}'}; see {child.log}"
