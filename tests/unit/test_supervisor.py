"""Backoff and the choice of ports: rules without processes."""

import socket
from pathlib import Path

import orjson
import pytest

from deploy.local.processes import free_port
from deploy.local.stack import Wishes, addresses, choose_ports, only_stack, parts
from deploy.local.supervisor import BACKOFF_SECONDS_MAX, STEADY_SECONDS, Restart
from schemas.errors import FatalError


def test_backoff_doubles_up_to_its_limit() -> None:
    """The wait before a restart doubles while the part keeps dying, and never exceeds the limit."""
    restart = Restart()
    waits = [restart.schedule(now_seconds=100.0, ran_seconds=1.0) for _ in range(12)]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == BACKOFF_SECONDS_MAX
    assert restart.due_seconds == 100.0 + BACKOFF_SECONDS_MAX


def test_backoff_starts_anew_after_a_steady_run() -> None:
    """A part that ran long enough is restarted at once, however often it died before."""
    restart = Restart(count=9)
    assert restart.schedule(now_seconds=0.0, ran_seconds=STEADY_SECONDS) == 0.5


def test_ports_are_free_distinct_and_kept(tmp_path: Path) -> None:
    """Every part gets a port of its own, and the same one in the next run."""
    wishes = Wishes(tmp_path, workers=3)
    ports = choose_ports(wishes)
    assert list(ports) == ["kafka", "clickhouse", "dashboard", "worker-0", "worker-1", "worker-2"]
    assert len(set(ports.values())) == 6
    assert choose_ports(wishes) == ports


def test_busy_port_of_the_last_run_is_replaced(tmp_path: Path) -> None:
    """A port that someone took meanwhile is not insisted on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        (tmp_path / "ports.json").write_bytes(orjson.dumps({"clickhouse": busy}))
        assert choose_ports(Wishes(tmp_path))["clickhouse"] != busy


def test_broken_file_of_ports_is_ignored(tmp_path: Path) -> None:
    """The remembered ports are a convenience: a broken file costs nothing."""
    (tmp_path / "ports.json").write_text('{"kafka": "x"')
    assert choose_ports(Wishes(tmp_path))["kafka"] > 0


def test_busy_port_asked_for_is_refused(tmp_path: Path) -> None:
    """A port named on the command line is used or refused, with its option."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        with pytest.raises(FatalError, match=f"port {busy} is busy.*--worker-port"):
            choose_ports(Wishes(tmp_path, worker_port=busy))


def test_one_stack_per_directory(tmp_path: Path) -> None:
    """A second stack on the same directory is refused; after the first ended it may start."""
    with only_stack(tmp_path):
        (tmp_path / "stack.json").touch()
        with pytest.raises(FatalError, match="a stack already runs"), only_stack(tmp_path):
            pass
        assert (tmp_path / "stack.json").exists()
    assert not (tmp_path / "stack.json").exists()
    with only_stack(tmp_path):
        pass


@pytest.mark.parametrize("simulator", [True, False])
def test_parts_come_after_what_they_need(tmp_path: Path, simulator: bool) -> None:
    """The order of the parts fulfils their needs; the simulator is left out when not wanted."""
    wishes = Wishes(tmp_path, workers=2, simulator=simulator)
    ports = {"kafka": 1, "clickhouse": 2, "dashboard": 5, "worker-0": 3, "worker-1": 4}
    stack = parts(wishes, ports)
    names = [part.name for part in stack]
    for index, part in enumerate(stack):
        assert set(part.after) <= set(names[:index])
    assert ("simulator" in names) is simulator
    assert {"kafka", "clickhouse", "worker-0", "worker-1"} <= set(names)


def test_workers_differ_in_their_port_and_name_only(tmp_path: Path) -> None:
    """Each worker gets the addresses of the stack, a port and a name of its own."""
    ports = {"kafka": 1, "clickhouse": 2, "dashboard": 5, "worker-0": 3, "worker-1": 4}
    first, second = [
        dict(part.environment)
        for part in parts(Wishes(tmp_path, workers=2), ports)
        if part.name.startswith("worker")
    ]
    assert first.pop("TOKENTIDE_WORKER_PORT") == "3"
    assert second.pop("TOKENTIDE_WORKER_PORT") == "4"
    assert first.pop("TOKENTIDE_WORKER_NAME") == "worker-0"
    assert second.pop("TOKENTIDE_WORKER_NAME") == "worker-1"
    assert first == second
    assert first["TOKENTIDE_KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:1"


def test_addresses_are_those_of_the_contract() -> None:
    """Kafka's address is host:port, the others are URLs."""
    assert addresses({"kafka": 9092, "clickhouse": 8123, "worker-0": 6066}) == {
        "kafka": "127.0.0.1:9092",
        "clickhouse": "http://127.0.0.1:8123",
        "worker-0": "http://127.0.0.1:6066",
    }


def test_free_port_can_be_bound() -> None:
    """A free port is one that a server can take."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
