"""Kafka's side of ``schemas.topics``: create what is missing, refuse what is unsafely different."""

import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError, NoError, TopicAlreadyExistsError, for_code

from schemas.errors import ConfigurationError, FatalError, RetryableError
from schemas.topics import DEAD_LETTER_TOPIC, TOPICS, USAGE_TOPIC, Topic

CONNECT_SECONDS_MAX = 2.0
BOOTSTRAP_SECONDS_MAX = 10.0
SETTINGS_THAT_DECIDE = ("cleanup.policy", "message.timestamp.type")
"""A difference here changes what is kept or how it is judged; elsewhere it is someone's choice."""


@dataclass(frozen=True)
class TopicState:
    """A topic as the broker has it now; ``config`` holds what differs from the broker's default."""

    name: str
    partitions: int
    config: Mapping[str, str]
    created: bool


@contextmanager
def admin_client(bootstrap_servers: str) -> Iterator[Any]:
    """Yield a connected ``KafkaAdminClient``.

    Raises:
        RetryableError: If no broker answers at ``bootstrap_servers``, or the connection is lost.
    """
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    # kafka-python 3.0.12 leaves its thread running when the first contact fails: look first.
    if not any(_listens(server) for server in bootstrap_servers.split(",")):
        raise _no_kafka(bootstrap_servers, "connection refused")
    try:
        client = KafkaAdminClient(
            bootstrap_servers=bootstrap_servers.split(","),
            bootstrap_timeout_ms=round(BOOTSTRAP_SECONDS_MAX * 1000),
        )
    except (KafkaError, OSError) as error:
        raise _no_kafka(bootstrap_servers, type(error).__name__) from None
    try:
        yield client
    except (KafkaError, OSError) as error:
        raise RetryableError(f"kafka at {bootstrap_servers}: {_short(error)}") from None
    finally:
        client.close()


def kafka_answers(bootstrap_servers: str) -> bool:
    """Return whether a broker is up and takes part in the cluster: it can lead partitions."""
    try:
        with admin_client(bootstrap_servers) as admin:
            brokers = admin.describe_cluster()["brokers"]
            return any(not broker.get("is_fenced") for broker in brokers)
    except RetryableError:
        return False


def ensure_topics(
    bootstrap_servers: str,
    *,
    usage_partitions: int,
    replication_factor: int,
    topics: Sequence[Topic] = TOPICS,
) -> list[TopicState]:
    """Create the topics that are missing and return all of them as they are now.

    Existing topics are never changed.

    Raises:
        RetryableError: If Kafka is not there.
        ConfigurationError: If an existing topic differs in a way that makes results wrong.
        FatalError: If the broker refuses to create a topic.
    """
    with admin_client(bootstrap_servers) as admin:
        before = _existing(admin, topics)
        missing = {
            topic.name: {
                "num_partitions": topic.partitions or usage_partitions,
                "replication_factor": replication_factor,
                "configs": dict(topic.config),
            }
            for topic in topics
            if topic.name not in before
        }
        # A dead letter keeps its partition number: as many as the usage topic really has.
        if DEAD_LETTER_TOPIC in missing and USAGE_TOPIC in before:
            missing[DEAD_LETTER_TOPIC]["num_partitions"] = before[USAGE_TOPIC]
        if missing:
            for outcome in admin.create_topics(missing, raise_errors=False)["topics"]:
                _check_created(outcome)
            admin.wait_for_topics(list(missing))
        states = _states(admin, topics, created=set(missing))
    for topic, state in zip(topics, states, strict=True):
        _check(topic, state)
    _check_partitions({state.name: state.partitions for state in states})
    return states


def _existing(admin: Any, topics: Sequence[Topic]) -> dict[str, int]:
    """Return the number of partitions of the topics that exist."""
    described = admin.describe_topics([topic.name for topic in topics])
    return {
        topic["name"]: len(topic["partitions"]) for topic in described if not topic["error_code"]
    }


def _states(admin: Any, topics: Sequence[Topic], created: set[str]) -> list[TopicState]:
    partitions = _existing(admin, topics)
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics]
    configs = admin.describe_configs(resources, config_filter="all")["topic"]
    return [
        TopicState(
            topic.name,
            partitions[topic.name],
            {
                name: entry["value"]
                for name, entry in sorted(configs[topic.name].items())
                if name in topic.config
                or name in SETTINGS_THAT_DECIDE
                or entry["config_source"] == "DYNAMIC_TOPIC_CONFIG"
            },
            topic.name in created,
        )
        for topic in topics
    ]


def _check_created(outcome: Mapping[str, Any]) -> None:
    error = for_code(outcome["error_code"])
    if error not in (NoError, TopicAlreadyExistsError):  # Another one may create them just now.
        message = outcome["error_message"] or error.__name__
        raise FatalError(f"topic {outcome['name']} cannot be created: {message}")


def _check(topic: Topic, state: TopicState) -> None:
    defaults = {"cleanup.policy": "delete", "message.timestamp.type": "CreateTime"}
    for name in SETTINGS_THAT_DECIDE:
        wanted = topic.config.get(name, defaults[name])
        # Which clock stamps a record decides only where the topic asks for one.
        if name == "message.timestamp.type" and name not in topic.config:
            continue
        if state.config[name] != wanted:
            raise ConfigurationError(
                f"topic {topic.name} has {name}={state.config[name]}, it must be {wanted}:"
                f" alter it, or delete the topic and run tokentide topics again"
            )


def _check_partitions(partitions: Mapping[str, int]) -> None:
    usage = partitions.get(USAGE_TOPIC, 0)
    dead = partitions.get(DEAD_LETTER_TOPIC, usage)
    if dead < usage:
        raise ConfigurationError(
            f"topic {DEAD_LETTER_TOPIC} has {dead} partitions, {USAGE_TOPIC} has {usage}:"
            f" raise it to {usage}, a dead letter keeps its partition number"
        )


def _listens(server: str) -> bool:
    host, _, port = server.strip().rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS_MAX):
            return True
    except (OSError, ValueError):
        return False


def _no_kafka(bootstrap_servers: str, reason: str) -> RetryableError:
    return RetryableError(
        f"no kafka at {bootstrap_servers} ({reason}): start one with tokentide up or"
        " tokentide kafka, or set TOKENTIDE_KAFKA_BOOTSTRAP_SERVERS"
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
