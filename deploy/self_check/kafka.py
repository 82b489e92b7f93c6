"""Kafka as a worker needs it: topics that keep what was acknowledged, offsets that mean the same.

Every check reads; nothing is written to any topic.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import KafkaError

from deploy.self_check.check import Check, State, clock_check, ok, unless, unsafe, warning
from schemas.errors import FatalError
from schemas.topics import DAY_MS, DEAD_LETTER_TOPIC, PANES_TOPIC, TOPICS, USAGE_TOPIC
from streams.delivery import declared

RETENTION_MS_MIN = DAY_MS
"""An outage of ClickHouse that lasts longer than the usage topic keeps its records loses some."""
GROUP_SECONDS_MAX = 5.0
"""Longest wait for the group's coordinator: a new broker makes it at the first question."""
_RETRY_SECONDS = 0.1


@dataclass(frozen=True)
class TopicFacts:
    """A topic as the broker describes it; ``config`` is every setting, inherited ones too."""

    name: str
    partitions: int
    replicas: int
    config: Mapping[str, str]


@dataclass(frozen=True)
class PartitionFacts:
    """A partition of the usage topic, as Kafka, the group and ClickHouse see it.

    Attributes:
        begin_offset: Of the oldest record that is kept.
        end_offset: Of the next record; 0 when the topic has no such partition.
        committed_offset: ``None`` when the group has committed nothing.
        metadata: Of that commit.
        stored_offset: Highest offset among the newest rows in ClickHouse, ``None`` without any.
    """

    partition: int
    begin_offset: int
    end_offset: int
    committed_offset: int | None
    metadata: str
    stored_offset: int | None


def kafka_checks(
    admin: Any,
    *,
    bootstrap_servers: str,
    group: str,
    worker_name: str,
    stored: Mapping[int, int],
    now_ms: Callable[[], float] = lambda: time.time() * 1000,
) -> list[Check]:
    """Return what was found, topics first.

    Args:
        admin: A connected ``KafkaAdminClient``.
        stored: Highest stored offset by partition, read *before* this call: a running worker
            commits or declares an offset before it stores it.
        now_ms: This machine's clock, epoch milliseconds.

    Raises:
        KafkaError: Kafka does not answer; ``admin_client`` makes a RetryableError of it.
    """
    brokers = len(admin.describe_cluster()["brokers"])
    topics = _topics(admin)
    found = unless(
        [
            unsafe("topics", f"topic {topic.name} does not exist", "run: tokentide topics")
            for topic in TOPICS
            if topic.name not in topics
        ],
        "topics",
        ", ".join(f"{topic.name} ({topic.partitions})" for topic in topics.values()),
    )
    for topic in topics.values():
        problems = topic_checks(topic, brokers, bootstrap_servers)
        found += unless(problems, f"topic {topic.name}", _summary(topic))
    if DEAD_LETTER_TOPIC in topics and USAGE_TOPIC in topics:
        usage, dead = topics[USAGE_TOPIC], topics[DEAD_LETTER_TOPIC]
        fine = f"{usage.partitions} of events, {dead.partitions} of dead letters"
        found += unless(pair_checks(usage, dead, bootstrap_servers), "partitions", fine)
    if USAGE_TOPIC in topics:
        found += _offsets(admin, topics[USAGE_TOPIC].partitions, group, stored, bootstrap_servers)
        found.append(_clock(admin, topics[USAGE_TOPIC].partitions, now_ms))
    found.append(_worker_name(admin, group, worker_name))
    return found


def _topics(admin: Any) -> dict[str, TopicFacts]:
    """Return those of our topics that exist, in the order of ``TOPICS``."""
    described = {
        topic["name"]: topic["partitions"]
        for topic in admin.describe_topics([topic.name for topic in TOPICS])
        if not topic["error_code"]
    }
    names = [topic.name for topic in TOPICS if topic.name in described]
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs = admin.describe_configs(resources, config_filter="all")["topic"]
    return {
        name: TopicFacts(
            name,
            len(described[name]),
            min(len(partition["replica_nodes"]) for partition in described[name]),
            {key: str(entry["value"]) for key, entry in configs[name].items()},
        )
        for name in names
    }


def _summary(topic: TopicFacts) -> str:
    kept = topic.config.get("cleanup.policy", "?")
    if kept == "delete":
        retention_ms = int(topic.config.get("retention.ms", -1))
        kept = "kept for ever" if retention_ms < 0 else f"kept {retention_ms / DAY_MS:g} days"
    return f"{topic.partitions} partitions, replicas {topic.replicas}, {kept}"


def topic_checks(topic: TopicFacts, brokers: int, bootstrap_servers: str) -> Iterator[Check]:
    """Yield which settings of a topic could lose or change what it holds."""
    name, config = f"topic {topic.name}", topic.config
    alter = f"run: kafka-configs.sh --bootstrap-server {bootstrap_servers} --alter"
    alter += f" --entity-type topics --entity-name {topic.name} --add-config"
    policy = next(
        (t.config.get("cleanup.policy", "delete") for t in TOPICS if t.name == topic.name), "delete"
    )
    if set(config["cleanup.policy"].split(",")) != set(policy.split(",")):
        found = f"{name} has cleanup.policy={config['cleanup.policy']}, it must be {policy}"
        yield unsafe(name, found, f"{alter} cleanup.policy=[{policy}]")
    if topic.name == USAGE_TOPIC:
        yield from _usage_checks(name, config, alter)
    if topic.name == PANES_TOPIC and config["message.timestamp.type"] != "LogAppendTime":
        found = f"{name} has message.timestamp.type={config['message.timestamp.type']}: a worker"
        fix = f"{alter} message.timestamp.type=LogAppendTime"
        yield warning(name, f"{found} whose clock is ahead closes windows too early", fix)
    replicas, in_sync = topic.replicas, int(config["min.insync.replicas"])
    if in_sync > replicas:
        found = f"{name} has {replicas} replicas and min.insync.replicas={in_sync}: no record"
        yield unsafe(
            name, f"{found} can be acknowledged", f"{alter} min.insync.replicas={replicas}"
        )
    if replicas >= 3 and in_sync == 1:
        found = (
            f"{name} has min.insync.replicas=1: an acknowledged record may be on one broker only"
        )
        yield warning(name, found, f"{alter} min.insync.replicas=2")
    if replicas > 1 and config["unclean.leader.election.enable"] == "true":
        found = f"{name} has unclean.leader.election.enable=true: it may drop acknowledged records"
        yield warning(name, found, f"{alter} unclean.leader.election.enable=false")
    if replicas == 1 and brokers >= 3:
        found = f"{name} has one replica on {brokers} brokers: its records go with one disk"
        fix = "raise it with kafka-reassign-partitions.sh, or set TOKENTIDE_REPLICATION_FACTOR=3"
        yield warning(name, found, f"{fix} before tokentide topics creates it")


def _usage_checks(name: str, config: Mapping[str, str], alter: str) -> Iterator[Check]:
    stamp = config["message.timestamp.type"]
    if stamp != "LogAppendTime":
        found = f"{name} has message.timestamp.type={stamp}: a record's outcome would depend on the"
        fix = f"{alter} message.timestamp.type=LogAppendTime"
        yield unsafe(name, f"{found} producer's clock", fix)
    retention_ms = int(config["retention.ms"])
    if 0 <= retention_ms < RETENTION_MS_MIN:
        found = f"{name} keeps records for {retention_ms / 3_600_000:g} h: a longer outage of"
        fix = f"{alter} retention.ms={7 * DAY_MS}"
        yield warning(name, f"{found} ClickHouse or of the workers loses some", fix)
    if int(config["retention.bytes"]) >= 0:
        found = f"{name} keeps {config['retention.bytes']} bytes per partition: in an outage it may"
        fix = f"{alter} retention.bytes=-1"
        yield warning(name, f"{found} drop records that nobody has stored", fix)


HEADERS_BYTES_MAX = 4096
"""Room for what a dead letter has beside its record's value."""


def pair_checks(usage: TopicFacts, dead: TopicFacts, bootstrap_servers: str) -> Iterator[Check]:
    """Yield how the usage and the dead-letter topic do not fit, as when partitions were added."""
    if dead.partitions < usage.partitions:
        found = f"topic {dead.name} has {dead.partitions} partitions, {usage.name} has"
        fix = f"run: kafka-topics.sh --bootstrap-server {bootstrap_servers} --alter"
        fix += f" --topic {dead.name} --partitions {usage.partitions}"
        yield unsafe(
            "partitions", f"{found} {usage.partitions}: a dead letter keeps its partition", fix
        )
    largest = [int(each.config["max.message.bytes"]) for each in (usage, dead)]
    if largest[1] < largest[0] + HEADERS_BYTES_MAX:
        found = (
            f"topic {dead.name} has max.message.bytes={largest[1]}, {usage.name} has {largest[0]}:"
        )
        fix = f"run: kafka-configs.sh --bootstrap-server {bootstrap_servers} --alter --entity-type"
        fix += f" topics --entity-name {dead.name} --add-config max.message.bytes={2 * largest[0]}"
        yield unsafe(
            "message size", f"{found} a refused record of that size would stop the worker", fix
        )


def _offsets(
    admin: Any, partitions: int, group: str, stored: Mapping[int, int], bootstrap_servers: str
) -> list[Check]:
    tps = [_tp(number) for number in range(partitions)]
    committed = _committed(admin, group)
    begins = admin.list_partition_offsets(dict.fromkeys(tps, OffsetSpec.EARLIEST))
    # Last: neither commits nor rows can be ahead of it then.
    ends = admin.list_partition_offsets(dict.fromkeys(tps, OffsetSpec.LATEST))
    nothing = (None, "")
    facts = [
        PartitionFacts(
            number,
            begin_offset=begins[tp].offset if (tp := _tp(number)) in begins else 0,
            end_offset=ends[tp].offset if tp in ends else 0,
            committed_offset=committed.get(number, nothing)[0],
            metadata=committed.get(number, nothing)[1],
            stored_offset=stored.get(number),
        )
        for number in sorted({*range(partitions), *committed, *stored})
    ]
    problems = [
        problem for each in facts for problem in offset_checks(each, group, bootstrap_servers)
    ]
    lag = sum(each.end_offset - (each.committed_offset or each.begin_offset) for each in facts)
    return unless(problems, "offsets", f"group {group} and rows agree with the topic, lag {lag:,}")


def _tp(partition: int) -> Any:
    return TopicPartition(USAGE_TOPIC, partition)


def _committed(admin: Any, group: str) -> dict[int, tuple[int, str]]:
    """Return committed offset and metadata by partition of the usage topic."""
    found = _of_group(lambda: admin.list_group_offsets(group)[group])
    return {
        tp.partition: (each.offset, each.metadata or "")
        for tp, each in found.items()
        if tp.topic == USAGE_TOPIC and each.offset >= 0
    }


def _of_group(ask: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + GROUP_SECONDS_MAX
    while True:
        try:
            return ask()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_SECONDS)


def offset_checks(facts: PartitionFacts, group: str, bootstrap_servers: str) -> Iterator[Check]:
    """Yield how offsets of a partition contradict each other.

    A worker commits or declares an offset before it stores it, and no offset is ever past the end.
    What is otherwise would be stored twice, or dropped unseen under the token of other records.
    """
    name, place = "offsets", f"{USAGE_TOPIC}/{facts.partition}"
    next_offset = facts.committed_offset or 0
    try:
        if range_declared := declared(facts.metadata, next_offset):
            next_offset = range_declared.next_offset
    except FatalError as error:
        found, _, fix = str(error).partition(": ")
        yield unsafe(name, f"{place}: {found}", fix)
        return
    stored_next = -1 if facts.stored_offset is None else facts.stored_offset + 1
    other = "set TOKENTIDE_CONSUMER_GROUP and TOKENTIDE_CLICKHOUSE_DATABASE to new names and run:"
    other += " tokentide migrate"
    if max(next_offset, stored_next) > facts.end_offset:
        who = f"group {group} has committed" if next_offset > facts.end_offset else "rows go to"
        found = f"{who} offset {max(next_offset, stored_next)} of {place}, which ends at"
        yield unsafe(name, f"{found} {facts.end_offset}: the topic is not the one it was", other)
    elif stored_next > max(next_offset, facts.begin_offset):
        found = f"rows of {place} go to offset {stored_next}, group {group} is at"
        fix = f"run: kafka-consumer-groups.sh --bootstrap-server {bootstrap_servers}"
        fix += f" --group {group} --topic {place.replace('/', ':')} --reset-offsets"
        fix += f" --to-offset {stored_next} --execute; or {other}"
        yield unsafe(name, f"{found} {next_offset}: it would store them again", fix)
    elif facts.committed_offset is not None and facts.committed_offset < facts.begin_offset:
        lost = facts.begin_offset - facts.committed_offset
        found = f"{lost:,} records of {place} are gone: the topic begins at {facts.begin_offset},"
        fix = "have producers send them again; raise retention.ms before the next outage"
        yield warning(name, f"{found} group {group} is at {facts.committed_offset}", fix)


def _clock(admin: Any, partitions: int, now_ms: Callable[[], float]) -> Check:
    """Compare with the newest record: it shows a broker's clock that is ahead, never one behind."""
    tps = [_tp(number) for number in range(partitions)]
    found = admin.list_partition_offsets(dict.fromkeys(tps, OffsetSpec.MAX_TIMESTAMP))
    newest_ms = max(each.timestamp for each in found.values())
    return broker_clock_check(newest_ms, now_ms())


def broker_clock_check(newest_ms: int, now_ms: float) -> Check:
    """Judge the broker's clock by the newest record's append time, -1 when there is none.

    Never unsafe: that record stays the newest after the clock was set right.
    """
    name = "kafka clock"
    if newest_ms < 0:
        return ok(name, "no record yet that would tell")
    check = clock_check(name, "the broker, by its newest record,", newest_ms - now_ms, 0.0)
    if newest_ms <= now_ms or check.state is State.OK:
        return ok(name, f"the newest record is {(now_ms - newest_ms) / 1000:.0f} s old")
    return warning(name, check.found, check.fix)


def _worker_name(admin: Any, group: str, worker_name: str) -> Check:
    name = "worker name"
    if not worker_name:
        return ok(name, "none: set TOKENTIDE_WORKER_NAME to get partitions back at once")
    members = _of_group(lambda: admin.describe_groups([group])[group])["members"]
    names = [member.get("group_instance_id") for member in members]
    if worker_name not in names:
        return ok(name, f"{worker_name} is free in group {group}")
    # No more than a warning: after kill -9 it is the worker's own old session.
    found = f"{worker_name} is in group {group} already: this worker takes its place, if it lives"
    return warning(name, found, "give each worker a TOKENTIDE_WORKER_NAME of its own")
