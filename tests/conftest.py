"""Real parts for tests: a Kafka broker and a ClickHouse engine, each started once per session."""

import itertools
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import orjson
import pytest
from click.testing import CliRunner, Result
from hypothesis import settings as hypothesis_settings

from deploy.cli.main import LazyCommands
from deploy.kafka_admin import admin_client, kafka_answers
from deploy.local.processes import Child, last_lines, port_is_free

START_SECONDS_MAX = 180.0
"""Longest wait for a part; the first start on a machine downloads Kafka's jars."""
STOP_SECONDS_MAX = 30.0
STACK_STOP_SECONDS_MAX = 120.0
LOG_LINES = 20
PROJECT = Path(__file__).parent.parent
LONG = frozenset({"chaos", "e2e", "fuzz"})
"""Folders of tests that take minutes each: ``make test-long``."""
FIRST_PORT, PORTS = 10_000, 20_000
# How long an example takes says nothing on a busy machine, and the first one compiles.
hypothesis_settings.register_profile("tokentide", deadline=None)
hypothesis_settings.load_profile("tokentide")
_ports = itertools.count(secrets.randbelow(PORTS))


@pytest.hookimpl(tryfirst=True)  # Before what is not wanted is taken out.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of `LONG`, and begin with files that start brokers and engines.

    Else one processor would wait for the other at the end.
    """
    items.sort(key=lambda item: item.path.parent.name != "integration")
    for item in items:
        if item.path.parent.name in LONG:
            item.add_marker("long")


@dataclass(frozen=True)
class ClickHouseAddress:
    """Where the session's ClickHouse is and who may use it."""

    host: str
    port: int
    writer_user: str
    writer_password: str
    reader_user: str
    reader_password: str


def free_port() -> int:
    """Return a port that nothing listens on, another one each time.

    None that Linux gives to connections or to who asks for any port: a part that is started later,
    or once more, finds it free though other tests run beside it.
    """
    while not port_is_free(port := FIRST_PORT + next(_ports) % PORTS):
        pass
    return port


def tokentide(*arguments: str) -> list[str]:
    """Return the command line of a ``tokentide`` command of this checkout."""
    return [sys.executable, "-m", "deploy.cli.main", *arguments]


def environment(**settings: object) -> dict[str, str]:
    """Return the environment with only the given ``TOKENTIDE_`` settings, names in lower case."""
    own = {f"TOKENTIDE_{name.upper()}": str(value) for name, value in settings.items()}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TOKENTIDE_")}
    return {**inherited, "PYTHONPATH": str(PROJECT), **own}


def run_tokentide(
    *arguments: str, timeout_seconds: float = START_SECONDS_MAX, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a ``tokentide`` command to its end."""
    return subprocess.run(
        tokentide(*arguments),
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def invoke_tokentide(*arguments: str, **settings: object) -> Result:
    """Run a ``tokentide`` command in this process, where starting one takes longer than its work."""
    command = LazyCommands(name="tokentide")
    return CliRunner().invoke(command, arguments, env=environment(**settings))


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    log: Path,
    answers: Callable[[], bool],
    **settings: object,
) -> Iterator[Child]:
    """Run a part until the block ends; fails with its last log lines if it does not answer."""
    child = Child(name, command, log, environment(**settings))
    child.start()
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not answers():
            if child.exit_code is not None or time.monotonic() > deadline:
                pytest.fail(f"{name} does not answer: {' | '.join(last_lines(log, 5))}")
            time.sleep(0.1)
        yield child
    finally:
        child.stop(STOP_SECONDS_MAX)


@contextmanager
def running_stack(
    directory: Path, *options: str, **settings: object
) -> Iterator[subprocess.Popen[str]]:
    """Run ``tokentide up --headless`` on free ports until the block ends; ready when it is entered.

    ``stack_addresses(directory)`` and ``stack_pids(directory)`` tell what runs.
    """
    ports = [
        f"--{name}-port={free_port()}" for name in ("kafka", "clickhouse", "dashboard", "worker")
    ]
    command = tokentide("up", "--headless", "--data-dir", str(directory), *ports, *options)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**settings),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            if process.stdout.readline() != "ready\n":
                pytest.fail(f"the stack did not start: {process.stderr.read()}")
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STACK_STOP_SECONDS_MAX)
            finally:
                process.kill()
                # Shown by pytest with a failure only.
                for log in sorted((directory / "logs").glob("*.log")):
                    print(f"{log.name}:", *last_lines(log, LOG_LINES), sep="\n")


def stack_addresses(directory: Path) -> dict[str, str]:
    """Return the addresses of a running stack by name."""
    found: dict[str, str] = _stack_file(directory)["addresses"]
    return found


def stack_pids(directory: Path) -> dict[str, int]:
    """Return the process ids of a running stack by name."""
    return {process["name"]: process["pid"] for process in _stack_file(directory)["processes"]}


def _stack_file(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads((directory / "stack.json").read_bytes())
    return found


def http_answers(url: str) -> bool:
    """Return whether a GET of ``url`` succeeds."""
    try:
        with urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real broker, the same for the whole session: use fresh topics and groups."""
    directory = tmp_path_factory.mktemp("kafka")
    address = f"127.0.0.1:{free_port()}"
    command = tokentide("kafka", "--data-dir", str(directory), "--port", address.split(":")[1])
    with running("kafka", command, directory / "out.log", lambda: kafka_answers(address)):
        yield address


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseAddress]:
    """A real ClickHouse engine, the same for the whole session: use fresh databases."""
    directory = tmp_path_factory.mktemp("clickhouse")
    address = ClickHouseAddress("127.0.0.1", free_port(), "writer", "writer-local", "reader", "")
    command = tokentide("clickhouse", "--data-dir", str(directory), "--port", str(address.port))
    url = f"http://{address.host}:{address.port}/ping"
    with running("clickhouse", command, directory / "out.log", lambda: http_answers(url)):
        yield address


def fresh_name(prefix: str) -> str:
    """Return a name nobody has used: random, the session's parts are shared."""
    return f"{prefix}_{secrets.token_hex(6)}"


@pytest.fixture
def fresh_database() -> str:
    """Name of a ClickHouse database that does not exist."""
    return fresh_name("test")


@pytest.fixture
def fresh_group() -> str:
    """Name of a consumer group that does not exist."""
    return fresh_name("group")


@pytest.fixture
def fresh_topic(kafka_bootstrap: str) -> Callable[..., str]:
    """Create a topic under a fresh name: ``fresh_topic(partitions=4, **config)``.

    Underscores in a setting's name stand for dots: ``cleanup_policy="compact"``.
    """

    def create(partitions: int = 1, **config: str) -> str:
        name = fresh_name("topic").replace("_", "-")
        configs = {key.replace("_", "."): value for key, value in config.items()}
        wanted = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
        with admin_client(kafka_bootstrap) as admin:
            admin.create_topics({name: wanted}, wait_for_metadata=True)
        return name

    return create
