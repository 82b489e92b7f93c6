"""The parts of a benchmark: broker, engine and worker as processes, with what they cost."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import clickhouse_connect
from clickhouse_connect.driver import Client
from kafka import TopicPartition
from kafka.admin import OffsetSpec

from deploy.kafka_admin import admin_client, kafka_answers
from deploy.local.processes import LOOPBACK, Child, free_port, last_lines
from schemas.topics import USAGE_TOPIC

START_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 20.0
POLL_SECONDS = 0.02
PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Machine:
    """Broker and engine of one benchmark run.

    Attributes:
        project: The checkout whose code commands run.
    """

    directory: Path
    kafka: str
    clickhouse_port: int
    kafka_pid: int
    clickhouse_pid: int
    project: Path = PROJECT

    def environment(self, **settings: object) -> dict[str, str]:
        """Return the environment of a command that works with these parts."""
        own = {
            "kafka_bootstrap_servers": self.kafka,
            "clickhouse_port": self.clickhouse_port,
            "data_dir": self.directory / "none",
            **settings,
        }
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TOKENTIDE_")}
        named = {f"TOKENTIDE_{name.upper()}": str(value) for name, value in own.items()}
        # Safe: the working directory, this checkout, must not come before the one that is named.
        paths = {"PYTHONPATH": str(self.project), "PYTHONSAFEPATH": "1"}
        return {**inherited, **paths, **named}


def tokentide(*arguments: str) -> list[str]:
    """Return the command line of a ``tokentide`` command of this checkout."""
    return [sys.executable, "-m", "deploy.cli.main", *arguments]


@contextmanager
def machine(directory: Path) -> Iterator[Machine]:
    """Start a broker and an engine in ``directory``."""
    ports = free_port(), free_port()
    kafka = f"{LOOPBACK}:{ports[0]}"
    url = f"http://{LOOPBACK}:{ports[1]}/ping"
    parts = {
        name: Child(
            name,
            tokentide(name, "--data-dir", str(directory), "--port", str(port)),
            directory / f"{name}.out",
        )
        for name, port in zip(("kafka", "clickhouse"), ports, strict=True)
    }
    try:
        for part in parts.values():
            part.start()
        wait_for(lambda: kafka_answers(kafka) and http_text(url) is not None, parts["kafka"])
        pids = [main_pid(part) for part in parts.values()]
        yield Machine(directory, kafka, ports[1], pids[0], pids[1])
    finally:
        for part in parts.values():
            part.stop(STOP_SECONDS_MAX)


def main_pid(part: Child) -> int:
    """Return the process that does the work of a part."""
    assert part.process is not None
    return part.process.pid


def run(machine_: Machine, *arguments: str, **settings: object) -> str:
    """Run a command to its end and return its output; fails if the command does."""
    done = subprocess.run(
        tokentide(*arguments),
        env=machine_.environment(**settings),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def wait_for(
    condition: Callable[[], bool], part: Child, seconds: float = START_SECONDS_MAX
) -> None:
    """Poll until ``condition()`` holds; stops the benchmark if the part dies or time runs out."""
    deadline = time.monotonic() + seconds
    while not condition():
        if part.exit_code is not None or time.monotonic() > deadline:
            raise SystemExit(f"{part.name}: {' | '.join(last_lines(part.log, 3))}")
        time.sleep(POLL_SECONDS)


def http_text(url: str) -> str | None:
    """Return the body of a GET, or ``None`` if there is no answer."""
    try:
        with urlopen(url, timeout=2) as response:
            return str(response.read().decode())
    except (URLError, OSError):
        return None


def client(port: int, database: str) -> Client:
    """Return a client of the engine as its writer."""
    return clickhouse_connect.get_client(
        host=LOOPBACK,
        port=port,
        username="writer",
        password="writer-local",
        database=database,
        autogenerate_session_id=False,
    )


def put_away(port: int, database: str) -> None:
    """Close the database of a run; its files go when the benchmark ends.

    Deleted now they would make the next run dearer: for minutes ext4 looks at each file that is gone
    before it creates one.

    Source:
        Linux, fs/ext4/ialloc.c, recently_deleted.
    """
    client(port, "default").command(f"DETACH DATABASE {database}")


def metrics(url: str) -> Mapping[str, float]:
    """Return the samples of a /metrics page, by name with labels."""
    text = http_text(url) or ""
    return {
        name: float(value)
        for name, value in re.findall(r"^(tokentide_\S+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)
    }


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process so far, its threads included.

    Source:
        proc(5), /proc/pid/stat: fields 14 and 15, in clock ticks.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process.

    Source:
        proc(5), /proc/pid/statm: the second field, in pages.
    """
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def end_offsets(kafka: str) -> dict[int, int]:
    """Return the end offset of each partition of the usage topic."""
    with admin_client(kafka) as admin:
        (topic,) = admin.describe_topics([USAGE_TOPIC])
        tps = [TopicPartition(USAGE_TOPIC, each["partition_index"]) for each in topic["partitions"]]
        found = admin.list_partition_offsets(dict.fromkeys(tps, OffsetSpec.LATEST))
    return {tp.partition: position.offset for tp, position in found.items()}
