"""A process that forks workers: the imports, half of a worker's start, are paid once.

Each worker is a process of its own and dies like one. Nothing has been computed before the fork, so no
thread of a library is missing in it but the allocators', which start theirs again.

Standard input takes a line of JSON per worker, ``{"name", "log", "environment"}``; standard output
says ``{"name", "pid"}`` when it is forked and ``{"pid", "code"}`` when it has ended.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.cli.worker import ENVIRONMENT
from deploy.local.processes import die_with
from tests.conftest import PROJECT, environment

POLL_SECONDS = 0.02
FORK_SECONDS_MAX = 60.0


def serve() -> None:
    """Fork workers until standard input ends."""
    from tests.chaos import worker  # noqa: F401  The imports that are paid once.

    waiting = b""
    while True:
        readable, _, _ = select.select([0], [], [], POLL_SECONDS)
        if readable:
            chunk = os.read(0, 1 << 16)
            if not chunk:
                return
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                _fork(json.loads(line))
        _reap()


def _fork(wanted: Mapping[str, Any]) -> None:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        _say({"name": wanted["name"], "pid": pid})
        return
    code = 1
    try:
        die_with(parent)()
        os.setsid()
        log = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.environ.update(wanted["environment"])
        from tests.chaos.worker import main

        code = main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _say({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(message: Mapping[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


@dataclass
class Nursery:
    """The runner's side: starts workers, knows which have ended."""

    log: Path
    _process: "subprocess.Popen[bytes] | None" = None
    _codes: dict[int, int] = field(default_factory=dict)
    _pids: dict[str, int] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> None:
        """Start the process that forks. From a thread that lives as long as the workers shall."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.nursery"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**environment(), **ENVIRONMENT},
                cwd=PROJECT,
                preexec_fn=die_with(os.getpid()),
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def stop(self) -> None:
        """End it, and with it every worker that is left."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()

    def fork(self, name: str, log: Path, settings: Mapping[str, str]) -> int:
        """Start a worker and return its process id."""
        assert self._process is not None
        assert self._process.stdin is not None
        wanted = {"name": name, "log": str(log), "environment": dict(settings)}
        with self._changed:
            self._pids.pop(name, None)
            self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
            self._process.stdin.flush()
            assert self._changed.wait_for(lambda: name in self._pids, FORK_SECONDS_MAX), self.log
            return self._pids[name]

    def exit_code(self, pid: int) -> int | None:
        """Return how a worker ended, negative for a signal, or ``None`` while it runs."""
        with self._changed:
            return self._codes.get(pid)

    def wait(self, pid: int, timeout_seconds: float) -> int | None:
        """Return how a worker ended, or ``None`` if it has not within the time."""
        with self._changed:
            self._changed.wait_for(lambda: pid in self._codes, timeout_seconds)
            return self._codes.get(pid)

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                message = json.loads(line)
                with self._changed:
                    if "code" in message:
                        self._codes[message["pid"]] = message["code"]
                    else:
                        self._codes.pop(message["pid"], None)  # A number may come again.
                        self._pids[message["name"]] = message["pid"]
                    self._changed.notify_all()
                time.sleep(0)


if __name__ == "__main__":
    serve()
