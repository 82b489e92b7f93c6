"""Child processes of the local stack: started, watched and stopped, none outliving its parent."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import FatalError

LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.05
LOG_BYTES_MAX = 16 << 20
"""A log longer than this is set aside as ``NAME.log.1`` when its process starts again."""
LOG_TAIL_BYTES = 4096
PROBE_BYTES = 1 << 16
"""What a directory must have room for to count as writable."""
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    """Return whether a server could listen on ``port`` now."""
    with socket.socket() as probe:
        # As servers do: a connection of the past in TIME_WAIT does not make a port busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def require_free_port(port: int, option: str) -> None:
    """Raise a ``FatalError`` that names ``option`` if ``port`` is busy."""
    if not port_is_free(port):
        raise FatalError(f"port {port} is busy: stop what listens on it or choose another {option}")


def writable_directory(directory: Path) -> Path:
    """Create ``directory`` and its parents if needed and return its absolute path.

    Raises:
        FatalError: If it cannot be created or written.
    """
    directory = directory.absolute()
    probe = directory / f".probe-{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise FatalError(
            f"directory {directory} cannot be written: {error.strerror};"
            " choose another with --data-dir"
        ) from None
    return directory


@contextmanager
def disk_errors_in_one_line(directory: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a ``FatalError`` that names the file, or else ``directory``."""
    try:
        yield
    except OSError as error:
        raise FatalError(f"{error.filename or directory}: {error.strerror or error}") from None


def last_lines(log: Path, count: int = 1) -> list[str]:
    """Return the last ``count`` lines of a log that are not empty, or [] without a log."""
    try:
        with log.open("rb") as handle:
            handle.seek(max(log.stat().st_size - LOG_TAIL_BYTES, 0))
            text = handle.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def set_aside(log: Path) -> None:
    """Rename a log that has become long, so that logs stay bounded over many starts."""
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_name(f"{log.name}.1"))


def die_with(parent: int) -> Callable[[], None]:
    """Return what a child runs before exec: the kernel kills it when its parent's thread ends.

    Linux only; elsewhere a parent killed with -9 leaves its children.
    """

    def bind() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # It died before the line above.
                os._exit(1)

    return bind


@dataclass
class Child:
    """A process with a log, in a session of its own so that Ctrl-C reaches only its parent.

    Start it from a thread that lives as long as the child shall: Linux ends the child with that
    thread.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, its output appended to the log.

        Raises:
            FatalError: If the command or the log cannot be opened.
        """
        set_aside(self.log)
        try:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,
                    preexec_fn=die_with(os.getpid()),
                )
        except OSError as error:
            raise FatalError(f"{self.name} cannot be started: {error}") from None

    @property
    def pid(self) -> int:
        """Process id of the running or last process."""
        assert self.process is not None
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal, or ``None`` while the process runs."""
        assert self.process is not None
        return self.process.poll()

    def stop(self, grace_seconds: float) -> bool:
        """End the process: SIGTERM, after ``grace_seconds`` SIGKILL; return whether it obeyed."""
        return not stop_all([self], grace_seconds)


def stop_all(
    children: Sequence[Child], grace_seconds: float, in_a_hurry: Callable[[], bool] = lambda: False
) -> list[str]:
    """End processes side by side and return the names of those that had to be killed.

    SIGTERM to all; SIGKILL to what is left after ``grace_seconds`` or when ``in_a_hurry``.
    """
    running = [child.process for child in children if child.process and child.exit_code is None]
    for process in running:
        process.terminate()

    def ended() -> bool:
        return all(process.poll() is not None for process in running)

    wait_until(lambda: ended() or in_a_hurry(), grace_seconds)
    killed = [child.name for child in children if child.process and child.exit_code is None]
    for process in running:
        process.kill()  # Does nothing to one that has been waited for.
        process.wait()
    return killed


def wait_until(
    condition: Callable[[], bool], timeout_seconds: float, poll_seconds: float = POLL_SECONDS
) -> bool:
    """Poll ``condition`` until it is true; return whether it became so within the time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_seconds)
    return True
