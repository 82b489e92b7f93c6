"""``tokentide produce`` and the producers' page, against a real broker."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from kafka.future import Future

from deploy.cli import produce as module
from deploy.cli.produce import CLOSE_SECONDS_MAX, WAITING_RECORDS_MAX, Sending
from deploy.local.processes import wait_until
from schemas.producers_page import PAGE_FILE
from schemas.topics import USAGE_TOPIC
from schemas.usage_event import VALUE_BYTES_MAX, decode
from tests.conftest import environment, free_port, tokentide
from tests.unit.test_validate import event

Topic = Callable[..., str]
RUN_SECONDS_MAX = 120


def run(
    bootstrap: str, *arguments: str, stdin: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    """Run ``tokentide produce`` to its end."""
    return subprocess.run(
        tokentide("produce", *arguments),
        env=environment(kafka_bootstrap_servers=bootstrap),
        input=stdin,
        capture_output=True,
        timeout=RUN_SECONDS_MAX,
        check=False,
    )


def account(result: "subprocess.CompletedProcess[bytes]") -> dict[str, Any]:
    """Return the account of ``--format json``."""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def end_offset(bootstrap: str, topic: str) -> int:
    """Return how many records are in partition 0."""
    with KafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        tp = TopicPartition(topic, 0)
        return int(consumer.end_offsets([tp])[tp])


def records(bootstrap: str, topic: str) -> list[Any]:
    """Return every record of partition 0."""
    with KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        tp = TopicPartition(topic, 0)
        consumer.assign([tp])
        end = consumer.end_offsets([tp])[tp]
        found: list[Any] = []
        while consumer.position(tp) < end:
            found += consumer.poll(timeout_ms=1000).get(tp, [])
        return found


def test_lines_are_sent_as_they_are(
    kafka_bootstrap: str, fresh_topic: Topic, tmp_path: Path
) -> None:
    """Valid or not, a line arrives byte for byte and in order, under the key of its session, user or id."""
    topic = fresh_topic()
    session, user = "5" * 64, "6" * 64
    sent = [
        (event(session_hash=session, user_hash=user), session.encode()),
        (event(user_hash=user), user.encode()),
        (event(event_id="é"), "é".encode()),
        (b'{"event_id":"no version"}', b"no version"),
        (b'{"cut', None),
        (b"\xff\xfe\x00", None),
        (b"[1]", None),
        (b' {"event_id" : "spaced"} \r', b"spaced"),
        (b'{"event_id":"last"}', b"last"),
    ]
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n \n".join(value for value, _ in sent))
    result = run(kafka_bootstrap, str(file), "--topic", topic)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(b"9 acknowledged, 0 failed, ")
    assert [(r.value, r.key) for r in records(kafka_bootstrap, topic)] == sent


def test_standard_input_is_published(kafka_bootstrap: str, fresh_topic: Topic) -> None:
    """More lines than may wait at once are all acknowledged, once each, from a pipe."""
    topic = fresh_topic()
    count = WAITING_RECORDS_MAX + 1000
    lines = b"\n".join(b'{"event_id":"%d"}' % number for number in range(count))
    result = run(kafka_bootstrap, "-", "--topic", topic, "--format", "json", stdin=lines)
    assert result.returncode == 0, result.stderr
    assert account(result)["acknowledged"] == count
    keys = Counter(record.key for record in records(kafka_bootstrap, topic))
    assert keys == Counter(b"%d" % number for number in range(count))


def test_validate_sends_nothing_when_a_line_is_refused(
    kafka_bootstrap: str, fresh_topic: Topic, tmp_path: Path
) -> None:
    """With --validate one refused line stops all, from a file and from a pipe."""
    topic = fresh_topic()
    lines = event() + b"\n" + event(status=None)
    file = tmp_path / "events.jsonl"
    file.write_bytes(lines)
    for name in (str(file), "-"):
        result = run(kafka_bootstrap, name, "--validate", "--topic", topic, stdin=lines)
        assert result.returncode == 1
        assert result.stdout == b""
        assert b"line 2: status: missing_field (required)\nnothing sent: 2 events" in result.stderr
    assert end_offset(kafka_bootstrap, topic) == 0


def test_validate_sends_everything_when_all_is_valid(
    kafka_bootstrap: str, fresh_topic: Topic, tmp_path: Path
) -> None:
    """With --validate a valid input is read twice and sent once, from a file and from a pipe."""
    topic = fresh_topic()
    lines = event() + b"\n" + event() + b"\n"
    file = tmp_path / "events.jsonl"
    file.write_bytes(lines)
    for name in (str(file), "-"):
        result = run(kafka_bootstrap, name, "--validate", "--topic", topic, stdin=lines)
        assert result.returncode == 0, result.stderr
    assert [r.value for r in records(kafka_bootstrap, topic)] == lines.splitlines() * 2


def test_a_line_too_long_fails_alone(kafka_bootstrap: str, fresh_topic: Topic) -> None:
    """What no broker takes is reported with its line; its neighbours arrive."""
    topic = fresh_topic()
    lines = b'{"event_id":"a"}\n"' + b"x" * (VALUE_BYTES_MAX + 1) + b'"\n{"event_id":"b"}'
    result = run(kafka_bootstrap, "-", "--topic", topic, "--format", "json", stdin=lines)
    assert result.returncode == 1
    assert b"line 2: not acknowledged: " in result.stderr
    found = account(result)
    assert (found["acknowledged"], found["failed"], found["fault"]) == (2, 1, "")
    assert [r.key for r in records(kafka_bootstrap, topic)] == [b"a", b"b"]


def test_an_interrupt_is_accounted_for(kafka_bootstrap: str, fresh_topic: Topic) -> None:
    """Ctrl-C while waiting for input ends with an account of what had been sent."""
    topic = fresh_topic()
    with subprocess.Popen(
        tokentide("produce", "-", "--topic", topic),
        env=environment(kafka_bootstrap_servers=kafka_bootstrap),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(event() + b"\n" + event() + b"\n")
        process.stdin.flush()
        assert wait_until(lambda: end_offset(kafka_bootstrap, topic) == 2, RUN_SECONDS_MAX)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=RUN_SECONDS_MAX)
    assert process.returncode == 1
    assert out.startswith(b"2 acknowledged, 0 failed, ")
    assert b"stopped: interrupted" in out
    assert error == b""


def test_what_is_not_there_is_said_in_one_line(kafka_bootstrap: str) -> None:
    """Without Kafka, or without the topic, one line says what to do."""
    nobody = f"127.0.0.1:{free_port()}"
    for bootstrap, said in ((nobody, b"no kafka at"), (kafka_bootstrap, b"no topic missing at")):
        result = run(bootstrap, "-", "--topic", "missing", stdin=event())
        assert result.returncode == 1
        assert result.stdout == b""
        assert result.stderr.startswith(b"Error: " + said)
        assert result.stderr.count(b"\n") == 1


# --- Kafka going away while sending, with a producer that fails on command -----------------------


class FailingProducer:
    """Acknowledges up to a record, then fails every one as kafka-python does after its timeout."""

    def __init__(self, good: int, error: Exception) -> None:
        self.good = good
        self.error = error
        self.sent = 0

    def send(self, topic: str, value: bytes, key: bytes | None) -> Any:  # noqa: ARG002
        self.sent += 1
        future = DoneFuture()
        return future.failure(self.error) if self.sent > self.good else future.success(None)

    def close(self, timeout: float) -> None:
        assert timeout == CLOSE_SECONDS_MAX


class DoneFuture(Future):  # type: ignore[misc]  # kafka-python has no types
    """A future whose ``get`` is that of a record's."""

    def get(self, timeout: float) -> Any:  # noqa: ARG002
        if self.failed():
            raise self.exception
        return self.value


@pytest.fixture
def sending(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Exception], Sending]:
    def make(good: int, error: Exception) -> Sending:
        monkeypatch.setattr(module, "KafkaProducer", lambda **_: FailingProducer(good, error))
        monkeypatch.setattr(module, "WAITING_RECORDS_MAX", 10)
        return Sending("nowhere:1", "topic")

    return make


def send_numbers(sending: Sending, count: int, directory: Path) -> None:
    file = directory / "numbers.jsonl"
    file.write_text("\n".join(map(str, range(1, count + 1))))
    with file.open("rb") as lines:
        sending.send_all(lines)
    sending.close()


def test_sending_ends_when_kafka_goes_away(
    sending: Callable[[int, Exception], Sending],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After a timeout nothing more is sent, and every line is accounted for."""
    gone = sending(100, KafkaTimeoutError("20000 ms has passed"))
    send_numbers(gone, 1000, tmp_path)
    assert gone.acknowledged == 100
    assert not gone.is_complete
    assert "20000 ms has passed" in gone.fault
    assert gone.first_line_not_sent is not None
    assert gone.acknowledged + gone.failed == gone.first_line_not_sent - 1
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("line 101: not acknowledged: ")
    assert len(shown) == module.FAULTS_SHOWN_MAX


def test_sending_goes_on_after_the_fault_of_a_record(
    sending: Callable[[int, Exception], Sending], tmp_path: Path
) -> None:
    """Records that Kafka finds too large fail one by one; the rest of the file is still sent."""
    large = sending(100, MessageSizeTooLargeError())
    send_numbers(large, 150, tmp_path)
    assert (large.acknowledged, large.failed) == (100, 50)
    assert (large.first_line_not_sent, large.fault, large.is_complete) == (None, "", False)


# --- The page --------------------------------------------------------------------------------


def test_the_example_for_producers_runs(
    kafka_bootstrap: str, fresh_topic: Topic, tmp_path: Path
) -> None:
    """The page's code, copied and run, publishes a valid event under the key of its session."""
    topic = fresh_topic(message_timestamp_type="LogAppendTime")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE_FILE.read_text(), re.DOTALL)
    assert code.count(USAGE_TOPIC) == 1
    script = tmp_path / "publish.py"
    script.write_text(code.replace(USAGE_TOPIC, topic))
    result = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "TOKENTIDE_KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS_MAX,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "acknowledged: partition 0, offset 0\n"
    (record,) = records(kafka_bootstrap, topic)
    stored = decode(record.value, append_time_ms=record.timestamp)
    assert stored.quality == ()
    assert stored.session_hash == int(record.key[:16], 16)
    assert record.key == json.loads(record.value)["session_hash"].encode()


def test_commands_on_the_page_exist() -> None:
    """The page shows commands and options that the command line has."""
    shown = re.findall(r"^\$ tokentide (\w+) \S+(.*)$", PAGE_FILE.read_text(), re.MULTILINE)
    assert {name for name, _ in shown} == {"validate", "produce"}
    assert isinstance(module.produce, click.Command)
    options = {option for each in module.produce.params for option in each.opts}
    assert {option for _, rest in shown for option in rest.split()} <= options
