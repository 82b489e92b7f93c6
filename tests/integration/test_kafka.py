"""The real broker of one machine: it stores, survives kill -9 and refuses what cannot work."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as PythonTopicPartition
from kafka.errors import KafkaError

from deploy.kafka_admin import admin_client, ensure_topics, kafka_answers
from deploy.local.processes import wait_until
from schemas.errors import ConfigurationError, RetryableError
from schemas.topics import TOPICS, Topic
from tests.conftest import free_port, fresh_name, run_tokentide, running, tokentide

VALUES = [b'{"n":%d}' % n for n in range(1000)]


def produce(address: str, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(
        bootstrap_servers=address, acks="all", enable_idempotence=True, compression_type="lz4"
    )
    try:
        for sent in [producer.send(topic, value) for value in values]:
            sent.get(timeout=30)
    finally:
        producer.close()


def consume(address: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
    try:
        consumer.assign([PythonTopicPartition(topic, 0)])
        values: list[bytes] = []

        def complete() -> bool:
            for records in consumer.poll(timeout_ms=200).values():
                values.extend(record.value for record in records)
            return len(values) >= count

        assert wait_until(complete, 60)
        return values
    finally:
        consumer.close()


async def consume_async(address: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


async def produce_async(address: str, topic: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=address, compression_type="lz4", enable_idempotence=True
    )
    await producer.start()
    try:
        sent = [await producer.send(topic, value) for value in values]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


def test_both_clients_read_what_the_other_wrote(
    kafka_bootstrap: str, fresh_topic: Callable[..., str]
) -> None:
    """Values in lz4 batches come back equal and in order, between kafka-python and aiokafka."""
    first, second = fresh_topic(), fresh_topic()
    produce(kafka_bootstrap, first, VALUES)
    asyncio.run(produce_async(kafka_bootstrap, second, VALUES))
    assert asyncio.run(consume_async(kafka_bootstrap, first, len(VALUES))) == VALUES
    assert consume(kafka_bootstrap, second, len(VALUES)) == VALUES


def test_topics_are_not_created_by_use(kafka_bootstrap: str) -> None:
    """A misspelt topic name is an error, not a new topic."""
    name = fresh_name("never")
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap, max_block_ms=2000)
    try:
        with pytest.raises(KafkaError):
            producer.send(name, b"x").get(timeout=10)
    finally:
        producer.close()
    with admin_client(kafka_bootstrap) as admin:
        assert name not in admin.list_topics()


def test_acknowledged_records_survive_kill_9(tmp_path: Path) -> None:
    """A killed broker starts again on its directory, on another port, with every record.

    The directory's name has what paths may have: spaces, a comma, an accent.
    """
    directory = tmp_path / "a, b é"
    topic = Topic("kept", 1)

    def address(port: int) -> str:
        return f"127.0.0.1:{port}"

    def broker(port: int) -> list[str]:
        return tokentide("kafka", "--data-dir", str(directory), "--port", str(port))

    log = tmp_path / "out.log"
    port = free_port()
    with running("kafka", broker(port), log, lambda: kafka_answers(address(port))) as child:
        ensure_topics(address(port), usage_partitions=1, replication_factor=1, topics=[topic])
        produce(address(port), topic.name, VALUES)
        # The process is the broker itself, not a launcher that leaves one behind.
        os.kill(child.pid, signal.SIGKILL)
        assert wait_until(lambda: child.exit_code is not None, 30)
        assert not kafka_answers(address(port))
    other = free_port()
    with running("kafka", broker(other), log, lambda: kafka_answers(address(other))) as child:
        assert consume(address(other), topic.name, len(VALUES)) == VALUES
        second = run_tokentide("kafka", "--data-dir", str(directory), "--port", str(free_port()))
        assert second.returncode == 1
        assert "another broker runs on" in second.stderr
        assert child.stop(60), "SIGTERM was not enough"
    assert "kafka answers at" in log.read_text()


def test_busy_port_is_refused(tmp_path: Path) -> None:
    """One line names the port and the option; no broker is left behind."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_tokentide("kafka", "--data-dir", str(tmp_path), "--port", str(port))
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: port {port} is busy: stop what listens on it or choose another --port\n"
    )


def test_unusable_directory_is_refused(tmp_path: Path) -> None:
    """A data directory below a file is one line, not a stack trace."""
    (tmp_path / "file").touch()
    done = run_tokentide("kafka", "--data-dir", str(tmp_path / "file" / "x"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr


def test_broken_storage_is_reported(tmp_path: Path) -> None:
    """A broker that stops at its start leaves the reason on stderr and exits with an error."""
    data = tmp_path / "kafka" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=x\n")
    done = run_tokentide("kafka", "--data-dir", str(tmp_path), "--port", str(free_port()))
    assert done.returncode == 1
    assert "kafka stopped at start" in done.stderr


def test_topics_command_is_idempotent(kafka_bootstrap: str) -> None:
    """The second run creates nothing and shows the same topics."""
    first = run_tokentide("topics", kafka_bootstrap_servers=kafka_bootstrap)
    second = run_tokentide("topics", kafka_bootstrap_servers=kafka_bootstrap)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "created" not in second.stdout
    for topic in TOPICS:
        assert topic.name in second.stdout
    with admin_client(kafka_bootstrap) as admin:
        assert {topic.name for topic in TOPICS} <= set(admin.list_topics())


def test_topic_settings_reach_the_broker(kafka_bootstrap: str) -> None:
    """A created topic has the partitions and settings that were asked for."""
    topic = Topic(fresh_name("set"), None, {"cleanup.policy": "compact"})
    (state,) = ensure_topics(
        kafka_bootstrap, usage_partitions=3, replication_factor=1, topics=[topic]
    )
    assert (state.created, state.partitions, state.config["cleanup.policy"]) == (True, 3, "compact")


@pytest.mark.parametrize(
    ("existing", "wanted"),
    [
        ({}, {"cleanup.policy": "compact"}),
        ({"cleanup.policy": "compact"}, {}),
        ({}, {"message.timestamp.type": "LogAppendTime"}),
    ],
)
def test_unsafe_topic_is_refused(
    kafka_bootstrap: str, existing: dict[str, str], wanted: dict[str, str]
) -> None:
    """A topic whose settings would change what is kept is refused by name, and left alone."""
    name = fresh_name("unsafe")
    both = {"usage_partitions": 1, "replication_factor": 1}
    ensure_topics(kafka_bootstrap, topics=[Topic(name, 1, existing)], **both)
    with pytest.raises(ConfigurationError, match=rf"topic {name} has .* it must be"):
        ensure_topics(kafka_bootstrap, topics=[Topic(name, 1, wanted)], **both)
    ensure_topics(kafka_bootstrap, topics=[Topic(name, 1, existing)], **both)


def test_no_broker_is_one_line() -> None:
    """Without Kafka the command says where it looked and what to do."""
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(RetryableError, match=f"no kafka at {address}"):
        ensure_topics(address, usage_partitions=1, replication_factor=1)
    done = run_tokentide("topics", kafka_bootstrap_servers=address)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
