"""Simulator and replay against a real broker: everything arrives, once, where it belongs."""

import asyncio
import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from kafka.partitioner.default import murmur2

from deploy.cli.replay import history_of
from deploy.kafka_admin import ensure_topics, kafka_answers
from deploy.local.processes import wait_until
from deploy.local.published import openrouter_days
from deploy.local.replay import resume
from deploy.local.replay.openrouter import scaled_tokens
from deploy.local.simulator.publisher import Publisher
from deploy.local.simulator.records_file import read_records
from schemas.topics import USAGE_TOPIC
from tests.conftest import environment, free_port, run_tokentide, running, tokentide

PARTITIONS = 4


@dataclass(frozen=True)
class Stored:
    """A record as the topic has it."""

    partition: int
    offset: int
    key: bytes
    value: bytes


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker of its own: the commands write to the one usage topic."""
    directory = tmp_path_factory.mktemp("kafka")
    address = f"127.0.0.1:{free_port()}"
    command = tokentide("kafka", "--data-dir", str(directory), "--port", address.split(":")[1])
    with running("kafka", command, directory / "out.log", lambda: kafka_answers(address)):
        ensure_topics(address, usage_partitions=PARTITIONS, replication_factor=1)
        yield address


def read_topic(address: str, after: dict[int, int] | None = None) -> list[Stored]:
    """Return every record of the usage topic from those offsets on, by partition and offset."""

    async def read() -> list[Stored]:
        consumer = AIOKafkaConsumer(USAGE_TOPIC, bootstrap_servers=address)
        await consumer.start()
        try:
            partitions = [TopicPartition(USAGE_TOPIC, number) for number in range(PARTITIONS)]
            ends = await consumer.end_offsets(partitions)
            for tp in partitions:
                consumer.seek(tp, (after or {}).get(tp.partition, 0))
            found = []
            while any([await consumer.position(tp) < ends[tp] for tp in partitions]):
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += [Stored(r.partition, r.offset, r.key, r.value) for r in batch]
            return sorted(found, key=lambda record: (record.partition, record.offset))
        finally:
            await consumer.stop()

    return asyncio.run(read())


def end_offsets(address: str) -> dict[int, int]:
    return asyncio.run(resume.end_offsets(address, USAGE_TOPIC))


def test_everything_simulated_is_in_the_topic_as_it_is_in_the_file(
    broker: str, tmp_path: Path
) -> None:
    """Values and keys arrive byte for byte, in Kafka's default partition, and are all accounted."""
    before = end_offsets(broker)
    done = run_tokentide(
        *("simulate", "--events", "30000", "--from", "2026-08-01", "--to", "2026-08-02"),
        *("--faults", "duplicates=0.02,late=0.01,malformed=0.02,unknown_model=0.01,multiline=0.01"),
        *("--out", str(tmp_path / "out"), "--truth", str(tmp_path / "truth.json")),
        kafka_bootstrap_servers=broker,
    )
    assert done.returncode == 0, done.stderr
    truth = json.loads((tmp_path / "truth.json").read_bytes())
    stored = read_topic(broker, before)
    assert truth["complete"] is True
    assert truth["records"] == truth["acknowledged"] == len(stored)
    assert Counter(record.value for record in stored) == Counter(read_records(tmp_path / "out"))
    for record in stored:
        assert record.partition == (murmur2(record.key) & 0x7FFFFFFF) % PARTITIONS
    again = [value for value, times in Counter(r.value for r in stored).items() if times > 1]
    places = [[(r.partition, r.offset) for r in stored if r.value == value] for value in again[:20]]
    assert all(first[0] == second[0] for first, second, *_ in places)


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_every_compression_can_be_read(broker: str, compression: str) -> None:
    """The broker takes each of them, and readers get the records back."""
    before = end_offsets(broker)
    done = run_tokentide(
        *("simulate", "--events", "3000", "--compression", compression),
        kafka_bootstrap_servers=broker,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    stored = read_topic(broker, before)
    assert len(stored) == summary["records"] == 3_000
    assert sum(len(record.value) for record in stored) == summary["bytes"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_live_traffic_with_everything_acknowledged(
    broker: str, tmp_path: Path, number: signal.Signals
) -> None:
    """The exit code is 0, and the truth file counts exactly what is in the topic."""
    before = end_offsets(broker)
    truth_file = tmp_path / "truth.json"
    process = subprocess.Popen(
        tokentide("simulate", "--rate", "2000", "--truth", str(truth_file)),
        env=environment(kafka_bootstrap_servers=broker),
        stdout=subprocess.DEVNULL,
    )
    assert wait_until(lambda: sum(end_offsets(broker).values()) > sum(before.values()), 60)
    process.send_signal(number)
    assert process.wait(60) == 0
    truth = json.loads(truth_file.read_bytes())
    stored = read_topic(broker, before)
    assert truth["complete"] is False
    assert truth["records"] == truth["acknowledged"] == len(stored)
    assert all(truth["id_prefix"].encode() in record.value for record in stored)


def test_a_killed_replay_goes_on_and_sends_nothing_twice(broker: str, tmp_path: Path) -> None:
    """After kill -9 and a restart each event is in the topic once, and the sums are the published."""
    before = end_offsets(broker)
    place = tmp_path / "place.json"
    command = ("replay", "openrouter-2026", "--days", "6", "--events-per-day", "40000")
    process = subprocess.Popen(
        tokentide(*command, "--resume", str(place)),
        env=environment(kafka_bootstrap_servers=broker),
        stdout=subprocess.DEVNULL,
    )
    first = 85 * 40_000

    def under_way() -> bool:
        return place.exists() and json.loads(place.read_bytes())["next_number"] > first

    assert wait_until(under_way, 60)
    process.kill()
    process.wait(60)
    reached = json.loads(place.read_bytes())["next_number"]
    assert reached < 91 * 40_000, "killed too late to prove anything"
    done = run_tokentide(*command, "--resume", str(place), kafka_bootstrap_servers=broker)
    assert done.returncode == 0, done.stderr
    divisor = json.loads(done.stdout.splitlines()[0])["divisor"]
    events = [json.loads(record.value) for record in read_topic(broker, before)]
    assert len({event["event_id"] for event in events}) == len(events) == 240_000
    found: Counter[tuple[str, str]] = Counter()
    for event in events:
        tokens = event["tokens_prompt"] + event["tokens_completion"]
        found[event["occurred_at"][:10], event["model_raw"]] += tokens
    assert found == {
        (day.date, name): tokens
        for day in openrouter_days()[-6:]
        for name, tokens in zip(day.models, scaled_tokens(day, divisor), strict=True)
    }
    third = run_tokentide(*command, "--resume", str(place), kafka_bootstrap_servers=broker)
    assert json.loads(third.stdout.splitlines()[-1])["records"] == 0


def test_events_sent_after_the_last_note_are_not_sent_again(broker: str, tmp_path: Path) -> None:
    """What a killed replay sent of a block it could not note any more is found in the topic."""
    history = history_of(3_000)
    ((first, block),) = history.blocks(history.first_number(1))
    before = end_offsets(broker)
    resume.Place(history.id_prefix, first, before).save(tmp_path / "place.json")
    part = block.take(list(range(500, 1_700)))

    async def send_part() -> None:
        async with Publisher(broker, USAGE_TOPIC) as publisher:
            await publisher.send(part.values, part.keys, part.key_hashes)
            await publisher.flush()

    asyncio.run(send_part())
    done = run_tokentide(
        *("replay", "openrouter-2026", "--days", "1", "--events-per-day", "3000"),
        *("--resume", str(tmp_path / "place.json")),
        kafka_bootstrap_servers=broker,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["records"] == 1_800
    stored = [record.value for record in read_topic(broker, before)]
    assert sorted(stored) == sorted(block.values)


def test_live_traffic_follows_the_published_days(broker: str, tmp_path: Path) -> None:
    """With --live, events of now follow those of the published day under ids of their own."""
    before = end_offsets(broker)
    process = subprocess.Popen(
        tokentide(
            *("replay", "openrouter-2026", "--days", "1", "--events-per-day", "1000"),
            *("--live", "--rate", "500", "--resume", str(tmp_path / "place.json")),
        ),
        env=environment(kafka_bootstrap_servers=broker),
        stdout=subprocess.PIPE,
    )
    start = sum(before.values())
    assert wait_until(lambda: sum(end_offsets(broker).values()) > start + 1_100, 60)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    events = [json.loads(record.value) for record in read_topic(broker, before)]
    live = [event for event in events if ":openrouter-2026-live-" in event["event_id"]]
    assert len(events) - len(live) == 1_000
    assert len(events) == json.loads(output.splitlines()[-1])["acknowledged"]
    assert min(event["occurred_at"] for event in live) > "2026-08-22"


def test_traces_are_sent_request_by_request(broker: str) -> None:
    """All 28,185 requests of Azure's traces arrive, and a repeat re-sends the same ids."""
    before = end_offsets(broker)
    for _ in range(2):
        done = run_tokentide("replay", "azure-2023", kafka_bootstrap_servers=broker)
        assert done.returncode == 0, done.stderr
    stored = Counter(record.value for record in read_topic(broker, before))
    assert len(stored) == 28_185
    assert set(stored.values()) == {2}


def test_no_broker_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    """Without Kafka the command says where it looked and what to do; the truth says nothing went."""
    address = f"127.0.0.1:{free_port()}"
    truth = tmp_path / "truth.json"
    for command in (("simulate", "--events", "5"), ("replay", "azure-2023")):
        done = run_tokentide(*command, "--truth", str(truth), kafka_bootstrap_servers=address)
        assert done.returncode == 1
        assert done.stderr == (
            f"Error: no kafka at {address}: cannot connect; start it with: tokentide up\n"
        )
        assert json.loads(truth.read_bytes())["acknowledged"] == 0
