"""The whole of tokentide on one machine: which parts, at which addresses, in which order."""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import orjson

from deploy.cli.stack import STACK_FILE
from deploy.kafka_admin import kafka_answers
from deploy.local.processes import LOOPBACK, Child, free_port, port_is_free, require_free_port
from deploy.local.supervisor import Part
from schemas.errors import FatalError

PORTS_FILE = "ports.json"
"""The ports of the last run, for the next one; ``stack.json`` is there only while it runs."""
USUAL_PORTS = {"kafka": 9092, "clickhouse": 8123, "dashboard": 8050, "worker": 6066}
HISTORY_DAYS = 3
"""Published days that the simulator sends before it goes live."""
HISTORY_EVENTS_PER_DAY = 20_000
HTTP_SECONDS_MAX = 5.0
FIRST_START_SECONDS_MAX = 600.0
"""Longest wait for Kafka, whose first start downloads its jars."""


@dataclass(frozen=True)
class Wishes:
    """What ``tokentide up`` is asked for; a port of ``None`` may be any."""

    data_dir: Path
    workers: int = 1
    simulator: bool = True
    rate: float | None = None
    kafka_port: int | None = None
    clickhouse_port: int | None = None
    dashboard_port: int | None = None
    worker_port: int | None = None


def tokentide(*arguments: str) -> list[str]:
    """Return the command line of a ``tokentide`` command of this very installation."""
    return [sys.executable, "-m", "deploy.cli.main", *arguments]


def simulator_command(wishes: Wishes) -> list[str]:
    """Return the command that sends events: the last published days at once, then live ones.

    The file of its place makes a restart go on; no published day is sent twice.
    """
    rate = [] if wishes.rate is None else ["--rate", str(wishes.rate)]
    place = str(wishes.data_dir / "replay.json")
    history = ["--days", str(HISTORY_DAYS), "--events-per-day", str(HISTORY_EVENTS_PER_DAY)]
    return tokentide("replay", "openrouter-2026", "--live", *history, "--resume", place, *rate)


def choose_ports(wishes: Wishes) -> dict[str, int]:
    """Return a free port for each part.

    The port asked for, else that of the last run, else the usual one, else any.

    Raises:
        FatalError: If a port that was asked for is busy.
    """
    asked = {
        "kafka": wishes.kafka_port,
        "clickhouse": wishes.clickhouse_port,
        "dashboard": wishes.dashboard_port,
    }
    usual = {name: USUAL_PORTS[name] for name in asked}
    for index in range(wishes.workers):
        first = wishes.worker_port
        asked[f"worker-{index}"] = None if first is None else first + index
        usual[f"worker-{index}"] = USUAL_PORTS["worker"] + index
    last = _last_ports(wishes.data_dir)
    chosen: dict[str, int] = {}
    for name, port in asked.items():
        if port is not None:
            require_free_port(port, f"--{name.split('-')[0]}-port")
            chosen[name] = port
            continue
        candidates = (last.get(name), usual[name])
        chosen[name] = (
            next(
                (
                    candidate
                    for candidate in candidates
                    if candidate and candidate not in chosen.values() and port_is_free(candidate)
                ),
                0,
            )
            or free_port()
        )
    _write(wishes.data_dir / PORTS_FILE, chosen)
    return chosen


def addresses(ports: Mapping[str, int]) -> dict[str, str]:
    """Return the addresses as ``stack.json`` shows them."""
    return {
        name: f"{LOOPBACK}:{port}" if name == "kafka" else f"http://{LOOPBACK}:{port}"
        for name, port in ports.items()
    }


def parts(wishes: Wishes, ports: Mapping[str, int]) -> list[Part]:
    """Return the parts of the stack in the order of their start."""
    data_dir = str(wishes.data_dir)
    where = addresses(ports)
    environment = _environment(wishes, ports)

    def command(name: str, *arguments: str, after: tuple[str, ...]) -> Part:
        return Part(name, tokentide(*arguments), environment, after)

    stores = [
        Part(
            "kafka",
            tokentide("kafka", "--data-dir", data_dir, "--port", str(ports["kafka"])),
            environment,
            problem=lambda: "" if kafka_answers(where["kafka"]) else "it does not answer",
            start_seconds_max=FIRST_START_SECONDS_MAX,
            stop_seconds_max=30.0,
            hint="the first start downloads 46 MB",
        ),
        Part(
            "clickhouse",
            tokentide("clickhouse", "--data-dir", data_dir, "--port", str(ports["clickhouse"])),
            environment,
            problem=http_problem(f"{where['clickhouse']}/ping"),
            stop_seconds_max=30.0,
        ),
    ]
    preparations = [
        command("topics", "topics", after=("kafka",)),
        command("migrate", "migrate", after=("clickhouse",)),
        command("catalogue", "catalogue", "publish", after=("topics",)),
    ]
    workers = [
        Part(
            f"worker-{index}",
            tokentide("worker"),
            {
                **environment,
                "TOKENTIDE_WORKER_PORT": str(ports[f"worker-{index}"]),
                "TOKENTIDE_WORKER_NAME": f"worker-{index}",
            },
            after=("catalogue", "migrate"),
            problem=http_problem(f"{where[f'worker-{index}']}/readyz"),
            stop_seconds_max=20.0,
        )
        for index in range(wishes.workers)
    ]
    simulator = Part(
        "simulator",
        simulator_command(wishes),
        environment,
        after=tuple(worker.name for worker in workers),
        problem=lambda: "",
        may_finish=True,
    )
    page = Part(
        "dashboard",
        tokentide("dashboard"),
        environment,
        after=("migrate",),
        problem=http_problem(f"{where['dashboard']}/livez"),
    )
    return [*stores, *preparations, *workers, page, *([simulator] if wishes.simulator else [])]


def http_problem(url: str) -> Callable[[], str]:
    """Return a check that answers ``""`` when a GET of ``url`` does, else why it does not."""

    def problem() -> str:
        try:
            with urlopen(url, timeout=HTTP_SECONDS_MAX):
                return ""
        except HTTPError as error:
            with error:
                return " ".join(error.read(500).decode(errors="replace").split()) or str(error)
        except (URLError, OSError):
            return f"{url} does not answer"

    return problem


@contextmanager
def only_stack(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for one stack; a crash frees it too.

    Raises:
        FatalError: If another stack runs on it.
    """
    with (data_dir / "stack.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FatalError(
                f"a stack already runs on {data_dir}: stop it or choose another --data-dir"
            ) from None
        try:
            yield
        finally:
            (data_dir / STACK_FILE).unlink(missing_ok=True)


def write_stack_file(data_dir: Path, where: Mapping[str, str], children: Sequence[Child]) -> None:
    """Write ``stack.json`` whole: a reader sees the old or the new one."""
    processes = [{"name": child.name, "pid": child.pid} for child in children]
    _write(data_dir / STACK_FILE, {"addresses": dict(where), "processes": processes})


def _write(file: Path, content: object) -> None:
    new = file.with_name(f"{file.name}.new")
    new.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    new.replace(file)


def _last_ports(data_dir: Path) -> dict[str, int]:
    with suppress(OSError, orjson.JSONDecodeError):
        found = orjson.loads((data_dir / PORTS_FILE).read_bytes())
        if isinstance(found, dict):
            return {name: port for name, port in found.items() if isinstance(port, int)}
    return {}


def _environment(wishes: Wishes, ports: Mapping[str, int]) -> dict[str, str]:
    project = str(Path(__file__).parents[2])
    return {
        **os.environ,
        # A folder named deploy/ where the user happens to be must not be taken for ours.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "TOKENTIDE_DATA_DIR": str(wishes.data_dir),
        "TOKENTIDE_KAFKA_BOOTSTRAP_SERVERS": f"{LOOPBACK}:{ports['kafka']}",
        "TOKENTIDE_CLICKHOUSE_HOST": LOOPBACK,
        "TOKENTIDE_CLICKHOUSE_PORT": str(ports["clickhouse"]),
        "TOKENTIDE_CLICKHOUSE_SECURE": "false",
        "TOKENTIDE_DASHBOARD_HOST": LOOPBACK,
        "TOKENTIDE_DASHBOARD_PORT": str(ports["dashboard"]),
        "TOKENTIDE_WORKER_HOST": LOOPBACK,
    }
