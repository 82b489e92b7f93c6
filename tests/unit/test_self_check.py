"""What is safe, judged from facts: cases that one broker and one engine cannot be made to have."""

from dataclasses import replace

import pytest

from deploy.self_check.check import Check, State, clock_check, unless
from deploy.self_check.clickhouse import (
    WrittenTable,
    settings_checks,
    version_check,
    window_checks,
)
from deploy.self_check.kafka import (
    PartitionFacts,
    TopicFacts,
    broker_clock_check,
    offset_checks,
    pair_checks,
    topic_checks,
)
from schemas.topics import DEAD_LETTER_TOPIC, MODELS_TOPIC, PANES_TOPIC, USAGE_TOPIC
from sinks.usage_events import INSERT_SETTINGS
from streams.delivery import declare

SAFE_CONFIG = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "LogAppendTime",
    "retention.ms": "604800000",
    "retention.bytes": "-1",
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false",
}


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("26.9.2.1", State.OK),
        ("26.8.1.1", State.OK),
        ("27.1.1.1", State.OK),
        ("26.10.1.3-stable", State.OK),
        ("26.7.3.9", State.OK),
        ("26.7.3.8", State.UNSAFE),
        ("26.6.3.19", State.OK),
        ("26.6.2.102", State.UNSAFE),
        ("26.5.7.20", State.OK),
        ("26.5.6.67", State.UNSAFE),
        ("26.3.17.65", State.UNSAFE),
        ("25.8.1.1", State.UNSAFE),
    ],
)
def test_versions_with_the_defect_are_refused(version: str, state: State) -> None:
    """Each release line counts from its first build with the fix, compared as numbers."""
    assert version_check(version).state is state


@pytest.mark.parametrize(
    ("skew_ms", "error_ms", "state"),
    [
        (0, 5, State.OK),
        (999, 0, State.OK),
        (-1500, 600, State.OK),
        (-1500, 100, State.WARNING),
        (60_050, 100, State.WARNING),
        (60_200, 100, State.UNSAFE),
        (-60_200, 100, State.UNSAFE),
    ],
)
def test_only_what_is_certain_of_a_clock_counts(
    skew_ms: float, error_ms: float, state: State
) -> None:
    """Half the round trip is the error bar: a slow answer is no wrong clock."""
    assert clock_check("clock", "clickhouse", skew_ms, error_ms).state is state


@pytest.mark.parametrize(
    ("newest_ms", "state"),
    [(-1, State.OK), (0, State.OK), (1_000_500, State.OK), (1_100_000, State.WARNING)],
)
def test_the_brokers_clock_never_keeps_a_worker_from_starting(newest_ms: int, state: State) -> None:
    """A record of the future stays the newest after the clock was set right."""
    assert broker_clock_check(newest_ms, 1_000_000.0).state is state


@pytest.mark.parametrize(
    ("engine", "settings", "found"),
    [
        ("MergeTree", {"non_replicated_deduplication_window": 1000}, []),
        ("MergeTree", {"non_replicated_deduplication_window": 999}, ["non_replicated_deduplication_window = 999"]),
        # The window of the other kind of engine does not count.
        ("MergeTree", {"replicated_deduplication_window": 10_000}, ["non_replicated_deduplication_window = 0"]),
        ("ReplicatedMergeTree", {"non_replicated_deduplication_window": 10_000}, ["(replicated_deduplication_window = 100)", "forgets an insert after 3600 s"]),
        ("ReplicatedAggregatingMergeTree", {"replicated_deduplication_window": 10_000}, ["forgets an insert after 3600 s"]),
        ("SharedMergeTree", {"replicated_deduplication_window": 10_000, "replicated_deduplication_window_seconds": 86_400}, []),
    ],
)  # fmt: skip
def test_windows_by_engine(engine: str, settings: dict[str, int], found: list[str]) -> None:
    """What was not given to a table is the server's default; replicated ones forget by age too."""
    defaults = {
        "non_replicated_deduplication_window": 0,
        "replicated_deduplication_window": 100,
        "replicated_deduplication_window_seconds": 3600,
    }
    problems = list(window_checks("d", WrittenTable("usage_1m", engine, settings), defaults))
    assert len(problems) == len(found)
    for problem, words in zip(problems, found, strict=True):
        assert problem.state is State.UNSAFE
        assert words in problem.found
        assert problem.fix.startswith("run: ALTER TABLE d.usage_1m MODIFY SETTING ")


def test_settings_in_force_are_those_that_are_sent() -> None:
    """Every setting of the writer's is looked at; one that an older server lacks is not missed."""
    sent = {name: str(value) for name, value in INSERT_SETTINGS.items()}
    assert list(settings_checks({**sent, "readonly": "0"}, "w")) == []
    for name in sent:
        (problem,) = settings_checks({**sent, name: "7"}, "w")
        assert f"{name} = 7" in problem.found
        assert f"ALTER USER w SETTINGS {name} = '{sent[name]}'" in problem.fix


def states(problems: object) -> list[tuple[State, str]]:
    assert isinstance(problems, list)
    return [(problem.state, problem.found) for problem in problems]


@pytest.mark.parametrize(
    ("name", "replicas", "brokers", "change", "expected"),
    [
        (USAGE_TOPIC, 3, 3, {}, []),
        (USAGE_TOPIC, 1, 1, {"min.insync.replicas": "1"}, []),
        (USAGE_TOPIC, 3, 3, {"min.insync.replicas": "1"}, [(State.WARNING, "one broker only")]),
        (USAGE_TOPIC, 2, 2, {"min.insync.replicas": "3"}, [(State.UNSAFE, "no record can be acknowledged")]),
        (DEAD_LETTER_TOPIC, 3, 3, {"unclean.leader.election.enable": "true"}, [(State.WARNING, "unclean.leader")]),
        (MODELS_TOPIC, 1, 3, {"min.insync.replicas": "1", "cleanup.policy": "compact"}, [(State.WARNING, "one replica on 3 brokers")]),
        (MODELS_TOPIC, 3, 3, {"cleanup.policy": "compact,delete"}, [(State.UNSAFE, "it must be compact")]),
        (USAGE_TOPIC, 3, 3, {"retention.ms": "-1"}, []),
        (USAGE_TOPIC, 3, 3, {"retention.ms": "3600000"}, [(State.WARNING, "for 1 h")]),
        (DEAD_LETTER_TOPIC, 3, 3, {"message.timestamp.type": "CreateTime", "retention.ms": "1"}, []),
        (PANES_TOPIC, 3, 3, {"message.timestamp.type": "CreateTime"}, [(State.WARNING, "closes windows too early")]),
    ],
)  # fmt: skip
def test_topics_of_a_cluster(
    name: str,
    replicas: int,
    brokers: int,
    change: dict[str, str],
    expected: list[tuple[State, str]],
) -> None:
    """Replicas, what is kept and which clock stamps: each topic by what it is for."""
    facts = TopicFacts(name, 4, replicas, {**SAFE_CONFIG, **change})
    problems = states(list(topic_checks(facts, brokers, "b:9092")))
    assert len(problems) == len(expected)
    for (state, found), (state_expected, words) in zip(problems, expected, strict=True):
        assert state is state_expected
        assert words in found


def test_dead_letters_need_a_partition_each() -> None:
    """Fewer are unsafe, more are not."""
    usage = TopicFacts(USAGE_TOPIC, 6, 1, {**SAFE_CONFIG, "max.message.bytes": "1048588"})
    larger = {**SAFE_CONFIG, "max.message.bytes": "2097152"}
    fewer, more = (TopicFacts(DEAD_LETTER_TOPIC, n, 1, larger) for n in (4, 8))
    (problem,) = pair_checks(usage, fewer, "b:9092")
    assert problem.state is State.UNSAFE
    assert problem.fix.endswith(f"--topic {DEAD_LETTER_TOPIC} --partitions 6")
    assert list(pair_checks(usage, more, "b:9092")) == []
    (problem,) = pair_checks(usage, replace(more, config=usage.config), "b:9092")
    assert problem.state is State.UNSAFE
    assert problem.fix.endswith("--add-config max.message.bytes=2097176")


@pytest.mark.parametrize(
    ("begin", "end", "committed", "metadata", "stored", "expected"),
    [
        (0, 100, None, "", None, []),
        (0, 100, 50, "", 49, []),
        (0, 100, 50, "", 30, []),
        (0, 100, 50, declare(80), 79, []),
        (0, 100, 50, "tokentide/1 80", 79, []),
        (0, 100, 50, declare(80), 80, [(State.UNSAFE, "store them again")]),
        (0, 100, 50, "", 50, [(State.UNSAFE, "store them again")]),
        (0, 100, None, "", 0, [(State.UNSAFE, "store them again")]),
        # Nothing is read twice when what was stored is gone from the topic.
        (90, 100, None, "", 89, []),
        (0, 100, 100, "", 99, []),
        (0, 100, 101, "", None, [(State.UNSAFE, "not the one it was")]),
        (0, 100, 90, declare(101), None, [(State.UNSAFE, "not the one it was")]),
        (0, 100, 100, "", 100, [(State.UNSAFE, "not the one it was")]),
        (0, 0, None, "", 5, [(State.UNSAFE, "not the one it was")]),
        (10, 100, 4, "", 3, [(State.WARNING, "6 records")]),
        (0, 100, 50, "someone else's", 49, [(State.UNSAFE, "is not tokentide's")]),
    ],
)  # fmt: skip
def test_offsets_that_contradict_each_other(
    begin: int,
    end: int,
    committed: int | None,
    metadata: str,
    stored: int | None,
    expected: list[tuple[State, str]],
) -> None:
    """Rows lie below what the group has committed or declared, and nothing is past the end."""
    facts = PartitionFacts(2, begin, end, committed, metadata, stored)
    problems = states(list(offset_checks(facts, "g", "b:9092")))
    assert len(problems) == len(expected)
    for (state, found), (state_expected, words) in zip(problems, expected, strict=True):
        assert state is state_expected
        assert words in found


def test_a_row_says_that_nothing_is_wrong() -> None:
    """No problem is a row too: the table shows all that was looked at."""
    assert unless([], "schema", "as it should be") == [Check("schema", State.OK, "as it should be")]
