"""Everything a chaos test needs: a broker, an engine behind a proxy, and workers to do things to."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import orjson
from clickhouse_connect.driver.httpclient import HttpClient
from kafka import TopicPartition
from kafka.admin import MemberToRemove, OffsetSpec
from kafka.errors import NoError
from kafka.structs import OffsetAndMetadata

from deploy.kafka_admin import admin_client, kafka_answers
from deploy.local.processes import LOOPBACK, Child, last_lines
from schemas.errors import RetryableError
from schemas.topics import USAGE_TOPIC
from sinks.clickhouse import ClickHouseAddress, connect
from streams.settings import PREFIX, Settings
from tests.chaos.nursery import Nursery
from tests.chaos.orders import VARIABLE, Orders
from tests.chaos.proxy import Proxy
from tests.conftest import environment, free_port, http_answers, run_tokentide, tokentide
from tests.rollups import COUNTED, TIMES

GROUP = "tokentide-store-usage"
START_SECONDS_MAX = 180.0
STOP_SECONDS_MAX = 30.0
POLL_SECONDS = 0.03
ASK_KAFKA_SECONDS = 0.15
"""Between two questions to Kafka, which cost it more than the work that is waited for."""
WAIT_SECONDS_MAX = 300.0
SETTLE_SECONDS_MAX = 600.0
PARTITIONS = 4
DATABASE = "tokentide"
WORKER_SETTINGS: Mapping[str, object] = {
    "session_timeout_seconds": 6,
    "batch_rows_max": 2_000,
    "batch_wait_seconds": 0.2,
    "retry_wait_seconds_max": 1,
    "clickhouse_request_timeout_seconds": 4,
    "clickhouse_connect_timeout_seconds": 2,
    "stall_seconds": 8,
    "duplicate_window_seconds": 400 * 86_400,
    "allowed_lateness_seconds": 0.5,
    "revision_wait_seconds": 2,
    "stalled_partition_seconds": 5,
}


class GaveUpError(AssertionError):
    """Something did not happen within its time."""


def until(
    condition: Callable[[], bool],
    what: str,
    seconds: float = WAIT_SECONDS_MAX,
    poll_seconds: float = POLL_SECONDS,
) -> float:
    """Poll until ``condition()`` holds; return the seconds it took.

    Raises:
        GaveUpError: If it does not within ``seconds``.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise GaveUpError(f"not within {seconds:.0f} s: {what}")
        time.sleep(poll_seconds)
    return time.monotonic() - began


@dataclass
class Worker:
    """A worker process, by the name it has in the consumer group; its log may have earlier ones'."""

    name: str
    port: int
    pid: int
    orders: Orders
    log: Path
    log_begins: int


@dataclass
class Stage:
    """A broker, an engine, a proxy before it, and workers.

    Attributes:
        workers: Those started and not forgotten, by slot.
        settings: Of every worker.
        torn: How often the engine died between a table and one of its views.
        lost_of_rollups: Rounds in which the engine kept a token and lost the block, in a rollup.
        lost: Partition and offset of what retention took before it was stored, or `skip_to_end`.
    """

    directory: Path
    kafka_port: int
    engine_port: int
    kafka: Child
    engine: Child
    proxy: Proxy
    nursery: Nursery
    settings: dict[str, Any]
    workers: dict[str, Worker] = field(default_factory=dict)
    torn: int = 0
    lost_of_rollups: int = 0
    lost: set[tuple[int, int]] = field(default_factory=set)
    _ports: dict[str, int] = field(default_factory=dict)

    @property
    def servers(self) -> str:
        """Address of the broker."""
        return f"{LOOPBACK}:{self.kafka_port}"

    @property
    def marks(self) -> Path:
        """File in which processes that kill themselves leave a line."""
        return self.directory / "marks"

    @property
    def clock(self) -> Path:
        """File with the seconds by which the workers' clock is wrong."""
        return self.directory / "clock"

    # --- Workers ---

    def start_worker(self, slot: str, orders: Orders | None = None, **settings: object) -> Worker:
        """Start a worker under the name of its slot, or ``worker_name``."""
        orders = self.orders(orders or Orders())
        port = self._ports.setdefault(slot, free_port())
        own = {**self.settings, "worker_name": slot, "worker_port": port, **settings}
        variables = {f"{PREFIX}{name.upper()}": str(value) for name, value in own.items()}
        log = self.directory / f"{slot}.log"
        log_begins = log.stat().st_size if log.exists() else 0
        pid = self.nursery.fork(slot, log, {**variables, VARIABLE: orders.encode()})
        self.workers[slot] = Worker(slot, port, pid, orders, log, log_begins)
        return self.workers[slot]

    def orders(self, orders: Orders) -> Orders:
        """Return orders with the files of this stage."""
        return replace(orders, marks=self.marks, clock=self.clock)

    def is_running(self, slot: str) -> bool:
        """Return whether a slot's worker lives."""
        return slot in self.workers and self.nursery.exit_code(self.workers[slot].pid) is None

    def signal_worker(self, slot: str, number: int) -> None:
        """Send a signal, unless the worker has ended."""
        if self.is_running(slot):
            with suppress(ProcessLookupError):
                os.kill(self.workers[slot].pid, number)

    def end_worker(self, slot: str, seconds: float = STOP_SECONDS_MAX) -> int:
        """Ask a worker to stop and return its exit code; it is killed if it does not."""
        self.signal_worker(slot, signal.SIGCONT)
        self.signal_worker(slot, signal.SIGTERM)
        return self.wait_worker(slot, seconds)

    def wait_worker(self, slot: str, seconds: float) -> int:
        """Return how a worker ended; one that does not within the time is killed."""
        pid = self.workers[slot].pid
        code = self.nursery.wait(pid, seconds)
        if code is None:
            self.signal_worker(slot, signal.SIGKILL)
            code = self.nursery.wait(pid, seconds)
        self.workers.pop(slot)
        assert code is not None
        return code

    def kill_worker(self, slot: str) -> None:
        """Kill a worker with -9."""
        if slot in self.workers:
            self.signal_worker(slot, signal.SIGKILL)
            self.wait_worker(slot, STOP_SECONDS_MAX)

    def end_workers(self) -> None:
        """Ask all to stop at once, and wait for them."""
        for slot in self.workers:
            self.signal_worker(slot, signal.SIGCONT)
            self.signal_worker(slot, signal.SIGTERM)
        for slot in list(self.workers):
            self.wait_worker(slot, STOP_SECONDS_MAX)

    def marked(self) -> dict[int, str]:
        """Return the processes that have killed or stopped themselves, and at which points."""
        try:
            lines = self.marks.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        found = [orjson.loads(line) for line in lines]
        return {mark["pid"]: mark["point"] for mark in found}

    def logged(self, slot: str, event: str) -> int:
        """Return how often a slot's running worker has logged an event."""
        worker = self.workers[slot]
        with worker.log.open("rb") as log:
            log.seek(worker.log_begins)
            return log.read().count(f'"event":"{event}"'.encode())

    # --- Health ---

    def readiness(self, slot: str) -> tuple[int, list[str]]:
        """Return the status of a worker's /readyz and its reasons; 0 when it does not answer."""
        url = f"http://{LOOPBACK}:{self._ports.get(slot, 1)}/readyz"
        try:
            with urlopen(url, timeout=2) as answer:
                return int(answer.status), orjson.loads(answer.read())["reasons"]
        except HTTPError as error:
            return error.code, orjson.loads(error.read())["reasons"]
        except (URLError, OSError):
            return 0, []

    def is_ready(self, slot: str) -> bool:
        """Return whether a worker is ready."""
        return self.readiness(slot)[0] == 200

    def await_ready(self, *slots: str, seconds: float = WAIT_SECONDS_MAX) -> float:
        """Wait until workers are ready; return the seconds it took."""
        return until(lambda: all(map(self.is_ready, slots)), f"{slots} ready", seconds)

    def metric(self, slot: str, name: str) -> float:
        """Return the sum of a worker's samples of a metric; 0 when it does not answer."""
        try:
            with urlopen(f"http://{LOOPBACK}:{self._ports[slot]}/metrics", timeout=2) as answer:
                lines = answer.read().decode().splitlines()
        except (URLError, OSError):
            return 0.0
        pattern = re.compile(rf"{name}(\{{.*\}})? ")
        return sum(float(line.split()[-1]) for line in lines if pattern.match(line))

    # --- Engine and broker ---

    def start_engine(self) -> None:
        """Start the engine and wait for it."""
        self.engine.start()
        self.await_engine()

    def await_engine(self) -> None:
        """Wait until the engine answers."""
        url = f"http://{LOOPBACK}:{self.engine_port}/ping"
        until(lambda: http_answers(url), f"clickhouse: {last_lines(self.engine.log, 3)}")

    def kill_engine(self) -> None:
        """Kill the engine with -9."""
        assert self.engine.process is not None
        self.engine.process.kill()
        self.engine.process.wait()

    def start_broker(self) -> None:
        """Start the broker and wait for it."""
        self.kafka.start()
        until(lambda: kafka_answers(self.servers), "kafka", START_SECONDS_MAX)

    def revive(self) -> None:
        """Have broker and engine run and answer, whatever was done to them."""
        for part in (self.kafka, self.engine):
            assert part.process is not None
            if part.exit_code is not None:
                part.start()
            os.kill(part.pid, signal.SIGCONT)
        self.await_engine()
        until(lambda: kafka_answers(self.servers), "kafka", START_SECONDS_MAX)

    def settle(self) -> None:
        """Have two workers run, and wait until everything is committed."""
        for slot in ("worker-0", "worker-1"):
            if not self.is_running(slot):
                self.start_worker(slot)
        self.drain(SETTLE_SECONDS_MAX)

    def kill_broker(self) -> None:
        """Kill the broker with -9."""
        assert self.kafka.process is not None
        self.kafka.process.kill()
        self.kafka.process.wait()

    @contextmanager
    def client(self, user: str = "writer") -> Iterator[HttpClient]:
        """A client of the engine itself, not through the proxy."""
        password = "writer-local" if user == "writer" else ""
        client = connect(ClickHouseAddress(LOOPBACK, self.engine_port, user, password, DATABASE))
        try:
            yield client
        finally:
            client.close()

    def sql(self, statement: str) -> Sequence[Sequence[object]]:
        """Run a statement as the writer."""
        with self.client() as client:
            if statement.lstrip().upper().startswith("SELECT"):
                found: Sequence[Sequence[object]] = client.query(statement).result_rows
                return found
            client.command(statement)
            return ()

    def is_behind_rollup(self) -> bool:
        """Return whether a table has a block that a rollup lacks, or the other way round."""
        asked = ", ".join(
            f"(SELECT {TIMES[name]} * countIf({only}) FROM usage_events)"
            f" != (SELECT sum(requests) FROM {name})"
            for name, only in COUNTED.items()
        )
        return any(self.sql(f"SELECT {asked}")[0])

    def has_doubled_rows(self, begins: Mapping[int, int]) -> bool:
        """Return whether a place of the usage topic from ``begins`` on has two rows."""
        places = "uniqExact(kafka_partition, kafka_offset)"
        ((doubled,),) = self.sql(
            f"SELECT count() > {places} FROM usage_events WHERE {_since(begins)}"
        )
        return bool(doubled)

    # --- Offsets ---

    def ends(self, topic: str = USAGE_TOPIC) -> dict[int, int]:
        """Return the end offset of each partition."""
        with admin_client(self.servers) as admin:
            return _offsets(admin, topic, OffsetSpec.LATEST)

    def committed(self) -> dict[int, int]:
        """Return the committed offset of each partition of the usage topic."""
        with admin_client(self.servers) as admin:
            found = admin.list_group_offsets(GROUP)[GROUP]
        return _of_usage(found)

    def assigned(self) -> dict[str, int]:
        """Return how many of the usage topic's partitions each member of the group has, by its name."""
        try:
            with admin_client(self.servers) as admin:
                return _assigned(admin.describe_groups([GROUP])[GROUP])
        except RetryableError:  # Before the first worker there is no coordinator.
            return {}

    def forget_members(self, keep: tuple[str, ...] = ()) -> None:
        """Take members off the group that have died, sooner than their session does."""
        names = [name for name in self.assigned() if name not in keep]
        if names:
            with admin_client(self.servers) as admin:
                members = [MemberToRemove(group_instance_id=name) for name in names]
                admin.remove_group_members(GROUP, members)

    def delete_records(self, until_offsets: Mapping[int, int]) -> None:
        """Take the records before these offsets off the usage topic, as retention does."""
        with admin_client(self.servers) as admin:
            admin.delete_records(
                {TopicPartition(USAGE_TOPIC, p): offset for p, offset in until_offsets.items()}
            )

    def skip_to_end(self) -> None:
        """Kill every worker and commit the end of each partition: what is not stored never will be."""
        for slot in list(self.workers):
            self.kill_worker(slot)
        until(self._is_skipped, "the end committed", poll_seconds=ASK_KAFKA_SECONDS)

    def _is_skipped(self) -> bool:
        """Commit the end of each partition, and return whether that was possible.

        It is not while the broker makes room for offsets, nor while the group has a member: one that
        was killed as it joined may come into it later.
        """
        offsets = {
            TopicPartition(USAGE_TOPIC, p): OffsetAndMetadata(offset, "", -1)
            for p, offset in self.ends().items()
        }
        self.forget_members()
        try:
            with admin_client(self.servers) as admin:
                answers = admin.alter_group_offsets(GROUP, offsets)
        except RetryableError:
            return False
        return all(each is NoError for each in answers.values()) and self.lag() == 0

    def places(self, begins: Mapping[int, int]) -> set[tuple[int, int]]:
        """Return partition and offset of what is in the tables from ``begins`` on."""
        found: set[tuple[int, int]] = set()
        for table in ("usage_events", "usage_duplicates"):
            rows = self.sql(
                f"SELECT kafka_partition, kafka_offset FROM {table} WHERE {_since(begins)}"
            )
            found |= {(int(str(row[0])), int(str(row[1]))) for row in rows}
        return found

    def lag(self) -> int:
        """Return how many offsets are not committed; a large number when Kafka does not answer."""
        try:
            with admin_client(self.servers) as admin:
                ends = _offsets(admin, USAGE_TOPIC, OffsetSpec.LATEST)
                found = admin.list_group_offsets(GROUP)[GROUP]
        except RetryableError:
            return 1 << 60
        done = _of_usage(found)
        return sum(max(end - done.get(partition, 0), 0) for partition, end in ends.items())

    def drain(self, seconds: float = WAIT_SECONDS_MAX) -> float:
        """Wait until all that is on the usage topic is committed; return the seconds it took."""
        try:
            return until(
                lambda: self.lag() == 0, "everything committed", seconds, ASK_KAFKA_SECONDS
            )
        except GaveUpError as error:
            reasons = {slot: self.readiness(slot) for slot in self.workers}
            logs = {slot: last_lines(each.log, 3) for slot, each in self.workers.items()}
            raise GaveUpError(f"{error}; lag {self.lag()}, {reasons}, {logs}") from None


def _of_usage(found: Mapping[Any, Any]) -> dict[int, int]:
    return {
        tp.partition: max(each.offset, 0) for tp, each in found.items() if tp.topic == USAGE_TOPIC
    }


def _since(begins: Mapping[int, int]) -> str:
    return " OR ".join(
        f"(kafka_partition = {p} AND kafka_offset >= {offset})" for p, offset in begins.items()
    )


def _offsets(admin: Any, topic: str, spec: Any) -> dict[int, int]:
    (description,) = admin.describe_topics([topic])
    tps = [TopicPartition(topic, each["partition_index"]) for each in description["partitions"]]
    found = admin.list_partition_offsets(dict.fromkeys(tps, spec))
    return {tp.partition: each.offset for tp, each in found.items()}


@contextmanager
def stage(directory: Path, *, partitions: int = PARTITIONS) -> Iterator[Stage]:
    """Run broker, engine, proxy and nursery until the block ends; topics and tables are there."""
    kafka_port, engine_port, proxy_port = free_port(), free_port(), free_port()
    own: dict[str, Any] = {
        **WORKER_SETTINGS,
        "kafka_bootstrap_servers": f"{LOOPBACK}:{kafka_port}",
        "clickhouse_port": proxy_port,
        "data_dir": directory / "none",
    }
    settings = {name: value for name, value in own.items() if name in Settings.model_fields}
    found = Stage(
        directory,
        kafka_port,
        engine_port,
        _part("kafka", directory, kafka_port),
        _part("clickhouse", directory, engine_port),
        Proxy(proxy_port, engine_port),
        Nursery(directory / "nursery.log"),
        settings,
    )
    found.kafka.start()
    found.engine.start()
    found.proxy.start()
    try:
        found.nursery.start()
        found.await_engine()
        until(lambda: kafka_answers(found.servers), "kafka", START_SECONDS_MAX)
        for command in (("topics",), ("migrate",), ("catalogue", "publish")):
            done = run_tokentide(*command, **{**settings, "usage_partitions": partitions})
            assert done.returncode == 0, done.stderr
        yield found
    finally:
        found.nursery.stop()
        found.proxy.stop()
        for part in (found.kafka, found.engine):
            if part.process is not None:
                with suppress(ProcessLookupError):
                    part.process.send_signal(signal.SIGCONT)
                part.stop(STOP_SECONDS_MAX)


def _part(name: str, directory: Path, port: int) -> Child:
    command = tokentide(name, "--data-dir", str(directory), "--port", str(port))
    return Child(name, command, directory / f"{name}.out", environment())


def _assigned(group: Mapping[str, Any]) -> dict[str, int]:
    return {
        member["group_instance_id"]: sum(
            len(each["partitions"])
            for each in (member["member_assignment"] or {}).get("assigned_partitions", ())
            if each["topic"] == USAGE_TOPIC
        )
        for member in group["members"]
    }
