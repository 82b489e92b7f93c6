"""`tokentide dead-letters` on a real broker and engine: every filter, every byte, each once."""

import base64
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from faust.types import TP
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.cli.main import tokentide
from deploy.dead_letters_reader import Filter, read_dead_letters, topic_reader
from deploy.kafka_admin import admin_client
from deploy.redrive import Outcome, redrive
from deploy.redrive_ledger import ledger_at
from schemas.errors import FatalError, Reason
from schemas.topics import DEAD_LETTER_TOPIC, USAGE_TOPIC
from streams.dead_letters import Rejected, headers
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import environment, fresh_name, run_tokentide
from tests.integration.sinks_database import migrated, writer_at
from tests.integration.test_worker import EVENT, Parts, parts, wait_for, working

__all__ = ["parts"]  # A fixture.

NASTY: dict[int, bytes | None] = {
    1: b"\x00\xff\xfe{\x1b[2J\r\n",
    2: None,
    3: b"",
    4: random.Random(4).randbytes(1_000_000),
    5: "\u202e\x00 ünï".encode(),
}
"""Values by origin offset that no terminal, decoder or shell likes."""


def event(event_id: str, **changes: object) -> bytes:
    return orjson.dumps({**EVENT, "event_id": event_id, **changes})


def refused(offset: int, value: bytes | None, **changes: Any) -> Rejected:
    reason, field = changes.get("reason", Reason.FROM_THE_FUTURE), changes.get("field", "")
    return Rejected(
        offset, 1_780_000_000_000 + offset, value, reason, field, changes.get("stage", "decode")
    )


@dataclass(frozen=True)
class Stage:
    """A dead-letter topic and an origin topic of one test, and how commands get there."""

    servers: str
    clickhouse: Server
    database: str
    dead: str
    origin: str

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "kafka_bootstrap_servers": self.servers,
            "clickhouse_port": self.clickhouse.port,
            "clickhouse_database": self.database,
        }

    def put(self, partition: int, rejected: Iterable[Rejected], *, abort: bool = False) -> None:
        """Write dead letters as workers do: in a transaction."""
        producer = KafkaProducer(
            bootstrap_servers=self.servers,
            transactional_id=f"put-{self.dead}",
            compression_type="lz4",
            max_request_size=8 << 20,
        )
        producer.init_transactions()
        producer.begin_transaction()
        for each in rejected:
            producer.send(
                self.dead,
                each.value,
                key=b"key",
                partition=partition,
                headers=headers(TP(self.origin, partition), each),
            )
        producer.flush()
        producer.abort_transaction() if abort else producer.commit_transaction()
        producer.close()

    def run(self, *arguments: str, topic: str = "", **settings: object) -> Result:
        """Run a subcommand in this process."""
        env = environment(**{**self.settings, **settings})
        unset: dict[str, str | None] = {name: None for name in os.environ if name not in env}
        options = ("--topic", topic or self.dead)
        return CliRunner().invoke(
            tokentide, ["dead-letters", *arguments, *options], env=unset | env
        )

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        done = self.run("list", "--format", "json", *arguments)
        assert done.exit_code == 0, done.output
        found: list[dict[str, Any]] = orjson.loads(done.stdout)
        return found

    def redriven(self, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
        done = self.run("redrive", "--format", "json", *arguments)
        assert done.exit_code == exit_code, done.output
        assert done.stdout, done.stderr
        found: dict[str, Any] = orjson.loads(done.stdout)
        return found

    def records(self) -> list[Any]:
        """Return what a reader of committed records finds on the origin topic."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.servers, isolation_level="read_committed", group_id=None
        )
        try:
            numbers = consumer.partitions_for_topic(self.origin) or ()
            tps = [TopicPartition(self.origin, number) for number in sorted(numbers)]
            consumer.assign(tps)
            consumer.seek_to_beginning(*tps)
            ends = consumer.end_offsets(tps)
            found: list[Any] = []
            while any(consumer.position(tp) < end for tp, end in ends.items()):
                for polled in consumer.poll(timeout_ms=200).values():
                    found += polled
            return sorted(found, key=lambda each: (each.partition, each.offset))
        finally:
            consumer.close(autocommit=False)

    def check_once(self, values: dict[str, bytes]) -> None:
        """Check that each value by origin position is there once, and that the ledger says where."""
        records = self.records()
        origins = [
            f"{names['origin_partition'].decode()}:{names['origin_offset'].decode()}"
            for names in (dict(each.headers) for each in records)
        ]
        assert sorted(origins) == sorted(values)
        assert {o: r.value for o, r in zip(origins, records, strict=True)} == values
        places = {o: f"{r.partition}:{r.offset}" for o, r in zip(origins, records, strict=True)}
        assert all(origin.split(":")[0] == at.split(":")[0] for origin, at in places.items())
        ledger = {each["record"]: each["sent_to"] for each in self.listed() if each["sent_to"]}
        assert ledger == places


@pytest.fixture(scope="module")
def database(clickhouse: Server) -> Iterator[str]:
    """A migrated database for all tests of this file: its ledgers are apart by their topics."""
    name = fresh_name("test")
    with migrated(clickhouse, name):
        yield name


@pytest.fixture
def stage(
    kafka_bootstrap: str, clickhouse: Server, database: str, fresh_topic: Callable[..., str]
) -> Stage:
    """Two partitions on both sides."""
    return Stage(kafka_bootstrap, clickhouse, database, fresh_topic(2), fresh_topic(2))


def test_every_filter(stage: Stage) -> None:
    """Each filter and their combinations choose what they say, aborted dead letters never show."""
    stage.put(0, [refused(99, b"never was")], abort=True)
    stage.put(
        0, [refused(1, b"a", reason=Reason.INVALID_JSON), refused(4, b"b", field="model_raw")]
    )
    stage.put(0, [refused(5, b"c", reason=Reason.REFUSED_BY_CLICKHOUSE, stage="insert")])
    between = datetime.now(UTC)
    wait_for(lambda: datetime.now(UTC) > between + timedelta(milliseconds=2), "the next moment")
    stage.put(1, [refused(5, b"d", reason=Reason.INVALID_JSON), refused(8, b"e", field="event_id")])

    def values(*arguments: str) -> str:
        return "".join(sorted(each["value"] for each in stage.listed(*arguments)))

    assert values() == "abcde"
    assert values("--reason", "invalid_json") == "ad"
    assert values("--reason", "invalid_json", "--reason", "refused_by_clickhouse") == "acd"
    assert values("--field", "model_raw") == "b"
    assert values("--stage", "insert") == "c"
    assert values("--partition", "1") == "de"
    assert values("--offset", "5") == "cd"
    assert values("--offset", "4-5", "--partition", "0") == "bc"
    assert values("--offset", "1", "--offset", "8-") == "ae"
    after = (between + timedelta(milliseconds=1)).isoformat()
    assert values("--since", after) == "de"
    assert values("--until", after) == "abc"
    assert values("--since", "1h") == "abcde"
    assert values("--until", "1h") == ""
    assert values("--limit", "2") == "de"
    assert values("--reason", "from_the_future", "--field", "event_id", "--limit", "9") == "e"
    (first,) = stage.listed("--partition", "0", "--offset", "4")
    assert {
        name: first[name] for name in ("record", "origin_topic", "stage", "reason", "field")
    } == {
        "record": "0:4",
        "origin_topic": stage.origin,
        "stage": "decode",
        "reason": "from_the_future",
        "field": "model_raw",
    }
    assert (first["redrive"], first["sent_to"], first["value_bytes"]) == ("none", None, 1)


def test_tables_and_counts(stage: Stage) -> None:
    """The table is safe to print, counts by reason and field, and says what it leaves out."""
    stage.put(0, [refused(n, v, reason=Reason.INVALID_JSON) for n, v in NASTY.items()])
    stage.put(1, [refused(1, b"x", field="event_id")])
    done = stage.run("list", "--limit", "3")
    assert done.exit_code == 0, done.output
    assert "the newest 3 of 6; --limit 0 lists all" in done.stdout
    assert "\x1b" not in done.stdout
    whole = stage.run("list").stdout
    assert r"\x00\xff\xfe{\x1b[2J\x0d\x0a" in whole
    assert "(null)" in whole
    counts = orjson.loads(stage.run("list", "--summary", "--format", "json").stdout)
    assert [(c["reason"], c["field"], c["records"], c["sent_again"]) for c in counts] == [
        ("invalid_json", "", 5, 0),
        ("from_the_future", "event_id", 1, 0),
    ]
    assert stage.run("list", "--field", "nobody").stderr == "no dead letters match\n"
    assert stage.listed("--field", "nobody") == []


def test_show_is_byte_for_byte(stage: Stage) -> None:
    """--raw gives every byte of any value, json too; the table escapes and tells null from empty."""
    stage.put(1, [refused(n, v, reason=Reason.INVALID_JSON) for n, v in NASTY.items()])
    for offset, value in NASTY.items():
        raw = stage.run("show", f"1:{offset}", "--raw")
        assert raw.exit_code == 0, raw.output
        assert raw.stdout_bytes == (value or b"")
        assert ("null" in raw.stderr) == (value is None)
        shown = orjson.loads(stage.run("show", f"1:{offset}", "--format", "json").stdout)
        found = shown["value_base64"]
        assert (None if found is None else base64.b64decode(found)) == value
    table = stage.run("show", "1:1").stdout
    assert r"\x00\xff\xfe{\x1b[2J\x0d\x0a" in table
    for text in (
        "origin_timestamp_ms",
        "1780000000001",
        "never sent again",
        "refused: invalid_json",
    ):
        assert text in table


def test_show_says_what_the_decoder_says_now(stage: Stage) -> None:
    """What was from the future then is valid now; its own place and its origin's both name it."""
    soon = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    stage.put(0, [refused(7, event("soon", occurred_at=soon))])
    shown = orjson.loads(stage.run("show", "0:7", "--format", "json").stdout)
    assert (
        shown["decoder_then"]
        == "refused: from_the_future: occurred_at (more than 5 minutes ahead of now)"
    )
    assert shown["decoder_now"] == "accepted as event soon"
    at = shown["dead_letter"]
    again = orjson.loads(stage.run("show", at, "--dead-letter", "--format", "json").stdout)
    assert again == shown


def test_what_is_not_there_is_told_in_one_line(stage: Stage) -> None:
    """A missing topic, broker, partition or position, or nothing to send: one line, exit code 1."""
    stage.put(0, [refused(7, b"x")])

    def fault(*arguments: str, topic: str = "", **settings: object) -> str:
        done = stage.run(*arguments, topic=topic, **settings)
        assert done.exit_code == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr

    for arguments in (("list",), ("show", "0:7"), ("redrive",), ("redrive", "--yes")):
        assert "create the topics with tokentide topics" in fault(*arguments, topic="nobody")
        nowhere = fault(*arguments, kafka_bootstrap_servers="127.0.0.1:1")
        assert "no kafka at 127.0.0.1:1" in nowhere
    assert "no dead letter" in fault("show", "0:8")
    assert "has no record at 0:99" in fault("show", "0:99", "--dead-letter")
    assert "has no partition 2: it has 0 to 1" in fault("list", "--partition", "2")
    assert "does not answer" in fault("redrive", "--yes", clickhouse_port=1)
    assert "run: tokentide migrate" in fault("redrive", clickhouse_database="system")
    assert "no dead letters match" in stage.run("redrive", "--offset", "9").stdout
    without = stage.run("list", clickhouse_port=1)
    assert without.exit_code == 0
    assert "what was sent again is not known: clickhouse at" in without.stderr


def test_a_redrive_sends_once_what_is_valid_now(stage: Stage) -> None:
    """Dry run sends nothing; then what the decoder takes goes, byte for byte, once; --all the rest."""
    values = {f"{p}:{n}": event(f"e-{p}-{n}") + b" " * n for p in (0, 1) for n in (3, 5)}
    for partition in (0, 1):
        fine = [refused(n, values[f"{partition}:{n}"]) for n in (3, 5)]
        stage.put(partition, [*fine, refused(6, b"\xff\x00", reason=Reason.INVALID_JSON)])
    dry = stage.redriven()
    assert dry["outcomes"] | {"would_be_sent": 4, "still_invalid": 2} == dry["outcomes"]
    assert stage.records() == []
    first = stage.redriven("--yes")
    assert (first["outcomes"]["sent"], first["outcomes"]["still_invalid"]) == (4, 2)
    stage.check_once(values)
    for each in stage.records():
        names = dict(each.headers)
        dead = {row["record"]: row["dead_letter"] for row in stage.listed()}
        origin = f"{each.partition}:{names['origin_offset'].decode()}"
        assert names["redriven_from"].decode() == dead[origin]
        assert names["origin_topic"].decode() == stage.origin
        assert each.key == orjson.loads(each.value)["event_id"].encode()
    second = stage.redriven("--yes")
    assert (second["outcomes"]["sent"], second["outcomes"]["already_sent"]) == (0, 4)
    stage.redriven("--yes", "--all", "--limit", "1", "--partition", "1")
    stage.redriven("--yes", "--all")
    stage.check_once(values | {"0:6": b"\xff\x00", "1:6": b"\xff\x00"})


def test_two_dead_letters_of_one_record_are_one_redrive(stage: Stage) -> None:
    """In one run and over two; a record at the same place of a topic made anew is another one."""
    stage.put(0, [refused(3, event("a")), refused(3, event("a")), refused(4, event("b"))])
    assert stage.redriven("--yes")["outcomes"]["sent"] == 2
    stage.put(0, [refused(4, event("b"))])
    assert stage.redriven("--yes")["outcomes"]["sent"] == 0
    stage.put(0, [Rejected(4, 5, event("c"), Reason.TOO_LONG, "")])
    assert stage.redriven("--yes")["outcomes"]["sent"] == 1
    assert len(stage.records()) == 3


def test_a_record_too_large_does_not_keep_the_others(
    stage: Stage, fresh_topic: Callable[..., str]
) -> None:
    """The broker refuses it, the command says so and exits with 1; the rest is there once."""
    small = Stage(
        stage.servers,
        stage.clickhouse,
        stage.database,
        stage.dead,
        fresh_topic(1, max_message_bytes="100000"),
    )
    values = {f"0:{n}": event(f"e-{n}") for n in range(6)}
    large = refused(99, random.Random(9).randbytes(300_000))
    letters = [refused(n, value) for n, value in enumerate(values.values())]
    small.put(0, [*letters[:3], large, *letters[3:]])
    found = small.redriven("--yes", "--all", exit_code=1)
    assert (found["outcomes"]["sent"], found["outcomes"]["failed"]) == (6, 1)
    (failed,) = [each for each in found["records"] if each["outcome"] == "failed"]
    assert (failed["record"], failed["detail"]) == ("0:99", "larger than the broker takes")
    small.check_once(values)


KILLED = """
import os, signal, sys, time
from deploy.dead_letters_reader import Filter, read_dead_letters, topic_reader
from deploy.redrive import high_watermark, redrive
from deploy.redrive_ledger import ledger_at
from kafka import TopicPartition
from sinks.clickhouse import ClickHouseAddress

servers, port, database, dead, origin, step, nth = sys.argv[1:]
left = int(nth)

def reached(name):
    global left
    left -= name == step
    if name == step and not left:
        # What is sent in the background has arrived: the worst moment.
        target = TopicPartition(origin, 1)
        while step == "sending" and not high_watermark(servers, target):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

address = ClickHouseAddress("127.0.0.1", int(port), "writer", "writer-local", database)
with (
    topic_reader(servers, dead) as reader,
    ledger_at(address, dead) as (_, ledger),
    redrive(servers, dead, ledger, reached) as run,
):
    run.settle()
    list(run.run(read_dead_letters(reader, Filter()), everything=False))
sys.exit("was not killed")
"""


def kill_at(stage: Stage, step: str, nth: int) -> None:
    """Run a redrive that is killed (-9) the nth time it has taken a step."""
    server = stage.clickhouse
    where = (stage.servers, str(server.port), stage.database, stage.dead, stage.origin)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *where, step, str(nth)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("step", "nth"),
    [
        ("fenced", 1),
        ("settled", 1),
        ("intended", 2),
        ("sending", 4),
        ("acknowledged", 2),
        ("committed", 2),
        ("recorded", 2),
    ],
)
def test_killed_between_two_steps_and_run_again(stage: Stage, step: str, nth: int) -> None:
    """Killed in the second of two chunks, killed again while settling, run twice: each once."""
    values = {f"{p}:{n}": event(f"e-{p}-{n}") for p in (0, 1) for n in (3, 5)}
    for partition in (0, 1):
        stage.put(partition, [refused(n, values[f"{partition}:{n}"]) for n in (3, 5)])
    kill_at(stage, step, nth)
    found = stage.redriven("--yes")
    done_before = {"fenced": 0, "settled": 0, "committed": 4, "recorded": 4}.get(step, 2)
    assert found["outcomes"]["sent"] == 4 - done_before
    is_settled = step not in ("fenced", "settled", "recorded")
    assert sum(found["interrupted_before"].values()) == 2 * is_settled
    stage.check_once(values)
    assert stage.redriven("--yes")["outcomes"]["already_sent"] == 4
    stage.check_once(values)


def test_what_an_interrupted_redrive_sent_and_the_topic_dropped_stays_in_doubt(
    stage: Stage,
) -> None:
    """It is not sent on a guess: the command says so, exits with 1 and sends the others."""
    stage.put(1, [refused(3, event("a"))])
    kill_at(stage, "committed", 1)
    producer = KafkaProducer(bootstrap_servers=stage.servers)
    producer.send(stage.origin, b"{}", partition=1)
    producer.close()
    assert stage.listed()[0]["redrive"] == "in_doubt"
    assert stage.redriven()["outcomes"]["in_doubt"] == 1
    with admin_client(stage.servers) as admin:
        admin.delete_records({TopicPartition(stage.origin, 1): 2})
    stage.put(0, [refused(4, event("b"))])
    found = stage.redriven("--yes", exit_code=1)
    assert (found["outcomes"]["in_doubt"], found["outcomes"]["sent"]) == (1, 1)
    assert "in doubt" in stage.run("show", "1:3").stdout


@pytest.mark.parametrize("step", ["settled", "intended", "acknowledged", "recorded"])
def test_two_redrives_at_once(stage: Stage, step: str) -> None:
    """The later one shuts the earlier one out, wherever that is, and each record is there once."""
    values = {f"{p}:{n}": event(f"e-{p}-{n}") for p in (0, 1) for n in (3, 5)}
    for partition in (0, 1):
        stage.put(partition, [refused(n, values[f"{partition}:{n}"]) for n in (3, 5)])
    later: list[dict[str, Any]] = []

    def reached(name: str) -> None:
        if name == step and not later:
            later.append(stage.redriven("--yes"))

    address = writer_at(stage.clickhouse, stage.database)
    outcomes: list[Outcome] = []
    is_shut_out = step in ("intended", "acknowledged")
    with (
        pytest.raises(FatalError, match="another redrive") if is_shut_out else nullcontext(),
        topic_reader(stage.servers, stage.dead) as reader,
        ledger_at(address, stage.dead) as (_, ledger),
        redrive(stage.servers, stage.dead, ledger, reached) as run,
    ):
        run.settle()
        outcomes += run.run(read_dead_letters(reader, Filter()), everything=False)
    assert not any(each.state == "sent" for each in outcomes) or step == "recorded"
    assert stage.redriven("--yes")["outcomes"]["already_sent"] == 4
    stage.check_once(values)


def test_history(stage: Stage) -> None:
    """A record refused, sent again, refused again and sent again says so from each of its places."""
    stage.put(0, [refused(3, event("a"))])
    assert stage.redriven("--yes")["records"][0]["sent_to"] == "0:0"
    waiting = stage.run("show", "0:3").stdout
    assert "0:3 (from_the_future) sent again to 0:0" in waiting
    assert "0:0 neither stored nor refused yet" in waiting
    stage.put(0, [refused(0, event("a"), reason=Reason.BAD_HASH, field="user_hash")])
    assert (
        "0:0 refused again: bad_hash user_hash (dead letter 0:" in stage.run("show", "0:3").stdout
    )
    (again,) = [r for r in stage.redriven("--yes")["records"] if r["outcome"] == "sent"]
    for position in ("0:3", "0:0"):
        shown = stage.run("show", position).stdout
        assert "0:3 (from_the_future) sent again to 0:0" in shown
        assert f"0:0 (bad_hash user_hash) sent again to {again['sent_to']}" in shown


def test_redriven_records_are_stored_once(parts: Parts) -> None:
    """A worker refuses, time makes valid, a killed redrive and another one land each row once."""
    server = Server("127.0.0.1", parts.clickhouse_port, "writer", "writer-local", "reader", "")
    stage = Stage(parts.kafka, server, "tokentide", DEAD_LETTER_TOPIC, USAGE_TOPIC)
    with working(parts):
        ahead = datetime.now(UTC) + timedelta(minutes=5, seconds=8)
        parts.produce(0, 20, occurred_at=ahead.isoformat(timespec="milliseconds"))
        wait_for(
            lambda: parts.metric("tokentide_records_dead_lettered_total") == 21, "dead letters"
        )
        wait_for(lambda: stage.redriven()["outcomes"]["would_be_sent"] == 20, "their time")
        kill_at(stage, "acknowledged", 1)
        done = stage.run("redrive", "--yes")
        assert done.exit_code == 0, done.output
        assert "20 sent, 1 still invalid" in done.stdout
        status = run_tokentide("status", "--wait", "--timeout", "60", **parts.settings())
        assert status.returncode == 0, status.stderr
        assert parts.query("SELECT count(), uniqExact(event_id) FROM usage_events") == [(20, 20)]
        sent = [each for each in stage.listed() if each["sent_to"]]
        rows = parts.query("SELECT kafka_partition, kafka_offset FROM usage_events")
        assert {each["sent_to"] for each in sent} == {f"{row[0]}:{row[1]}" for row in rows}
        assert "stored as event e-" in stage.run("show", sent[0]["record"]).stdout
