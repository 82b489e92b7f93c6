"""Each unsafe condition made so on the real broker and engine: doctor tells, a worker refuses."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer
from clickhouse_connect.driver.httpclient import HttpClient
from kafka import KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import OffsetAndMetadata
from structlog.testing import capture_logs

from deploy.kafka_admin import admin_client, ensure_topics, kafka_answers
from deploy.local.processes import wait_until
from deploy.self_check.all_checks import diagnose, refuse_unsafe, require_safe
from deploy.self_check.check import Check, State
from deploy.self_check.clickhouse import clickhouse_checks
from deploy.self_check.kafka import kafka_checks
from deploy.self_check.schema import SCHEMA_FILE, expected_tables, read_tables
from schemas.errors import ConfigurationError, RetryableError
from schemas.topics import DEAD_LETTER_TOPIC, MODELS_TOPIC, TOPICS, USAGE_TOPIC
from sinks.migrate import migrate, migrations, views
from sinks.usage_events import UsageEventWriter
from streams.delivery import declare
from streams.settings import Settings
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import free_port, fresh_name, http_answers, run_tokentide, running, tokentide
from tests.integration.sinks_database import client_at, migrated, one_of, verify, writer_at
from tests.integration.test_sinks_usage_events import START
from tests.integration.write_schema import schema_of
from tests.usage_rows import as_table, random_rows

PARTITIONS = 2
SET_SECONDS_MAX = 60.0


def problems_of(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.state is not State.OK]


def clickhouse_problems(client: HttpClient) -> list[Check]:
    assert client.database is not None
    return problems_of(clickhouse_checks(client, client.database, "writer"))


@pytest.fixture(scope="module")
def database(clickhouse: Server) -> Iterator[str]:
    """One for all tests here: to migrate costs more than all checks."""
    name = fresh_name("doctor")
    with client_at(writer_at(clickhouse)) as client:
        list(migrate(client, name))
        yield name
        client.command(f"DROP DATABASE IF EXISTS {name}")


@pytest.fixture
def client(clickhouse: Server, database: str) -> Iterator[HttpClient]:
    """A writer's client in a database in which nothing is wrong, and which may be broken."""
    with client_at(writer_at(clickhouse, database)) as client:
        yield client
    with client_at(writer_at(clickhouse)) as client:
        client.command(f"TRUNCATE TABLE IF EXISTS {database}.usage_events")
        is_whole = read_tables(client, database).keys() == expected_tables(client, database).keys()
        if not is_whole or problems_of(clickhouse_checks(client, database, "writer")):
            client.command(f"DROP DATABASE {database}")
            list(migrate(client, database))


# ClickHouse


def apply(client: HttpClient, fix: str) -> None:
    """Do what a fix says, as a person who copies it."""
    database = client.database
    assert database is not None
    for step in re.split(r"; ", fix):
        step = step.removeprefix("then ").removeprefix("run: ")
        if step.startswith("tokentide migrate --sql"):
            for script in [*migrations(), *views()]:
                for statement in script.statements(database):
                    client.command(statement)
        elif step.split()[0] in ("ALTER", "DROP", "RENAME"):
            client.command(step)
        else:
            assert step.startswith(("then compare", "compare", "copy the rows")), step


def test_the_schema_file_is_what_migrations_make(clickhouse: Server, fresh_database: str) -> None:
    """After a new migration: python -m tests.integration.write_schema."""
    with migrated(clickhouse, fresh_database) as client:
        assert schema_of(client) == SCHEMA_FILE.read_bytes()


VIEW = "usage_events_to_usage_1m"
OTHER_KEY = """
RENAME TABLE usage_duplicates TO old;
CREATE TABLE usage_duplicates ENGINE = {engine} PARTITION BY toYYYYMM(occurred_at) ORDER BY {key}
SETTINGS non_replicated_deduplication_window = 10000 AS SELECT * FROM old;
DROP TABLE old
"""


@pytest.mark.parametrize(
    ("breakage", "found"),
    [
        ("ALTER TABLE usage_events MODIFY SETTING non_replicated_deduplication_window = 10", "usage_events would count repeated inserts twice"),
        ("ALTER TABLE usage_duplicates RESET SETTING non_replicated_deduplication_window", "usage_duplicates would count repeated inserts twice"),
        ("ALTER TABLE usage_events DROP COLUMN service_tier", "table .*usage_events lacks column service_tier"),
        ("ALTER TABLE usage_events MODIFY COLUMN attempt UInt16", "column attempt of table .*usage_events is UInt16, not UInt8"),
        ("ALTER TABLE usage_duplicates MODIFY COLUMN source LowCardinality(String) MATERIALIZED event_id", r"column source of table .*usage_duplicates is MATERIALIZED LowCardinality"),
        ("DROP TABLE usage_duplicates", "table .*usage_duplicates is missing"),
        (OTHER_KEY.format(engine="MergeTree", key="kafka_offset"), "has sorting key kafka_offset, not kafka_partition, kafka_offset"),
        (OTHER_KEY.format(engine="ReplacingMergeTree", key="(kafka_partition, kafka_offset)"), "has engine ReplacingMergeTree, not MergeTree"),
        ("DROP VIEW usage_1h_to_usage_1d", "materialised view .*usage_1h_to_usage_1d is missing"),
        (f"ALTER TABLE {VIEW} MODIFY QUERY {{doubled}}", f"{VIEW} has another query than its migration"),
        (f"DROP VIEW {VIEW}; CREATE TABLE copy AS usage_1m; CREATE MATERIALIZED VIEW {VIEW} TO copy AS {{select}}", f"{VIEW} fills copy, not usage_1m"),
    ],
)  # fmt: skip
def test_a_changed_schema_is_refused_and_its_fix_is_one(
    client: HttpClient, breakage: str, found: str
) -> None:
    """What differs from the migrations is told and refused; the fix that is named mends it."""
    select = one_of(
        client,
        f"SELECT as_select FROM system.tables WHERE database = currentDatabase() AND name = '{VIEW}'",
    )
    doubled = select.replace("count() AS requests", "2 * count() AS requests")
    for statement in breakage.split(";"):
        client.command(statement.format(select=select, doubled=doubled))
    problems = [each for each in clickhouse_problems(client) if each.state is State.UNSAFE]
    assert [bool(re.search(found, problem.found)) for problem in problems] == [True], problems
    assert client.database is not None
    with pytest.raises(ConfigurationError, match=found) as refused:
        verify(client, client.database)
    assert problems[0].fix in str(refused.value)
    assert "tokentide doctor" in str(refused.value)
    apply(client, problems[0].fix)
    verify(client, client.database)


@pytest.mark.parametrize(
    ("change", "name", "found"),
    [
        ("ALTER TABLE usage_events ADD COLUMN team String", "schema", "a column of its own: team"),
        ("ALTER TABLE schema_migrations UPDATE sha256 = 'x' WHERE name = 'share_by_model' SETTINGS mutations_sync = 2", "migrations", "1 views .* such as share_by_model"),
        ("CREATE MATERIALIZED VIEW mine ENGINE = MergeTree ORDER BY hour AS SELECT hour FROM usage_1h", "other views", "mine reads usage_1h"),
        ("INSERT INTO usage_events (event_id, occurred_at) SELECT randomString(2000), now() FROM numbers(60000)", "compression", "1 large parts of .*usage_events.* are in LZ4"),
    ],
)  # fmt: skip
def test_what_is_only_a_warning_is_logged(
    client: HttpClient, change: str, name: str, found: str
) -> None:
    """A worker starts all the same, and its log says what and the fix."""
    client.command(change)
    (problem,) = clickhouse_problems(client)
    assert (problem.state, problem.name) == (State.WARNING, name)
    assert re.search(found, problem.found)
    assert client.database is not None
    with capture_logs() as logs:
        verify(client, client.database)
    assert [(each["event"], each["found"], each["fix"]) for each in logs] == [
        ("check.warned", problem.found, problem.fix)
    ]


def test_a_changed_migration_is_refused(client: HttpClient) -> None:
    """The file says something else than what has run here."""
    client.command(
        "ALTER TABLE schema_migrations UPDATE sha256 = 'x' WHERE version = 1 SETTINGS mutations_sync = 2"
    )
    (problem,) = clickhouse_problems(client)
    assert problem.state is State.UNSAFE
    assert "0001_create_usage_events was changed after it ran" in problem.found


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("materialized_views_ignore_errors", "1"),
        ("max_insert_block_size_bytes", "1000"),
    ],
)
def test_a_setting_that_breaks_deduplication_is_refused(
    client: HttpClient, setting: str, value: str
) -> None:
    """What is in force for the writer's inserts counts, whoever has set it."""
    client.set_client_setting(setting, value)
    (problem,) = clickhouse_problems(client)
    assert (problem.state, problem.name) == (State.UNSAFE, "writer's settings")
    assert f"{setting} = {value}" in problem.found
    assert f"ALTER USER writer SETTINGS {setting} = " in problem.fix


def test_what_the_writer_sends_rules_over_the_defaults_of_its_user(client: HttpClient) -> None:
    """Deduplication that a user's profile switches off is on for its inserts all the same."""
    assert client.database is not None
    writer = UsageEventWriter(client, client.database)
    rows = as_table(random_rows(1, 10, START, START - START))
    for _ in range(2):
        writer.write(rows, "on")
    assert one_of(client, "SELECT count() FROM usage_events") == 10
    client.set_client_setting("deduplicate_insert", "disable")
    for _ in range(2):
        writer.write(rows, "off")
    assert one_of(client, "SELECT count() FROM usage_events") == 20


@pytest.mark.parametrize(
    ("seconds", "state"), [(5, State.WARNING), (-5, State.WARNING), (120, State.UNSAFE)]
)
def test_a_wrong_clock_of_clickhouse_is_told(
    client: HttpClient, seconds: int, state: State
) -> None:
    """The engine's clock against that of a worker which is off by so much."""
    assert client.database is not None

    def now_ms() -> float:
        return (time.time() - seconds) * 1000

    (problem,) = problems_of(clickhouse_checks(client, client.database, "writer", now_ms))
    assert (problem.state, problem.name) == (state, "clickhouse clock")
    assert ("ahead" if seconds > 0 else "behind") in problem.found


CONSTRAINED = """
from deploy.local import clickhouse_access as access
profile = "<default><constraints><async_insert><readonly/></async_insert></constraints></default>"
access.USERS_XML = access.USERS_XML.replace("<default/></profiles>", f"{profile}</profiles>")
access.USERS_XML = access.USERS_XML.replace("GRANT ALL ON *.*", "GRANT SELECT, SHOW ON *.*")
from deploy.cli.main import main
main()
"""


def test_a_user_who_may_not_is_told(tmp_path: Path, fresh_database: str) -> None:
    """No INSERT, and a profile that pins a setting which the writer must change."""
    server = Server("127.0.0.1", free_port(), "writer", "writer-local", "reader", "")
    command = [sys.executable, "-c", CONSTRAINED, "clickhouse", "--data-dir", str(tmp_path)]
    url = f"http://{server.host}:{server.port}/ping"
    with (
        running(
            "clickhouse",
            [*command, "--port", str(server.port)],
            tmp_path / "out.log",
            lambda: http_answers(url),
        ),
        client_at(writer_at(server)) as client,
    ):
        checks = problems_of(clickhouse_checks(client, fresh_database, "writer"))
    rights, mending, settings, missing = checks
    assert {check.state for check in checks if check is not mending} == {State.UNSAFE}
    assert mending.state is State.WARNING
    assert "CREATE TABLE, DROP TABLE, ALTER DELETE ON" in mending.fix
    assert rights.fix == f"run: GRANT INSERT ON {fresh_database}.* TO writer"
    assert "async_insert is readonly" in settings.found
    assert "settings profile of user writer" in settings.fix
    assert missing.fix == "run: tokentide migrate"
    with pytest.raises(ConfigurationError, match="GRANT INSERT"):
        refuse_unsafe(checks)


# Kafka


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker of this file's own: its topics have the real names, and are altered."""
    directory = tmp_path_factory.mktemp("doctor")
    address = f"127.0.0.1:{free_port()}"
    command = tokentide("kafka", "--data-dir", str(directory), "--port", address.split(":")[1])
    with running("kafka", command, directory / "out.log", lambda: kafka_answers(address)):
        yield address


@pytest.fixture
def settings(
    broker: str, client: HttpClient, clickhouse: Server, fresh_group: str
) -> Iterator[Any]:
    """Settings of a stack in which nothing is wrong."""
    ensure_topics(broker, usage_partitions=PARTITIONS, replication_factor=1)
    yield Settings(
        kafka_bootstrap_servers=broker,
        clickhouse_port=clickhouse.port,
        clickhouse_database=str(client.database),
        consumer_group=fresh_group,
    )
    with admin_client(broker) as admin:
        admin.delete_topics([topic.name for topic in TOPICS], raise_errors=False)


@pytest.fixture
def told(settings: Settings, client: HttpClient) -> Callable[[], Check]:
    """Return the one problem that doctor shows, and hold a starting worker against it."""

    def look() -> Check:
        problems = problems_of(diagnose(settings))
        assert len(problems) == 1, problems
        (problem,) = problems
        with capture_logs() as logs:
            if problem.state is State.UNSAFE:
                with pytest.raises(ConfigurationError) as refused:
                    require_safe(settings, client)
                assert str(refused.value).startswith(f"{problem.found}: {problem.fix}")
            else:
                require_safe(settings, client)
                assert [(each["event"], each["found"]) for each in logs] == [
                    ("check.warned", problem.found)
                ]
        return problem

    return look


def alter(broker: str, topic: str, **config: str) -> None:
    """Set a topic otherwise, and wait until the broker, which hears of it later, says so."""
    configs = {name.replace("_", "."): value for name, value in config.items()}
    with admin_client(broker) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])

        def is_so() -> bool:
            asked = [ConfigResource(ConfigResourceType.TOPIC, topic)]
            said = admin.describe_configs(asked, config_filter="all")["topic"][topic]
            return all(said[name]["value"] == value for name, value in configs.items())

        assert wait_until(is_so, SET_SECONDS_MAX), configs


def produce(broker: str, count: int, partition: int = 0) -> None:
    producer = KafkaProducer(bootstrap_servers=broker, acks="all")
    for _ in range(count):
        producer.send(USAGE_TOPIC, b"{}", partition=partition)
    producer.flush()
    producer.close()


def commit(settings: Settings, offset: int, metadata: str = "", partition: int = 0) -> None:
    """Commit for the group, whose coordinator the broker may have to make first."""
    tp = TopicPartition(USAGE_TOPIC, partition)
    with admin_client(settings.kafka_bootstrap_servers) as admin:
        kafka_checks(
            admin, bootstrap_servers="", group=settings.consumer_group, worker_name="", stored={}
        )
        admin.alter_group_offsets(
            settings.consumer_group, {tp: OffsetAndMetadata(offset, metadata, -1)}
        )


def store(client: HttpClient, count: int) -> None:
    """Store rows of partition 0 with offsets from 0."""
    rows = random_rows(1, count, START, START - START)
    table = as_table([{**row, "kafka_partition": 0} for row in rows])
    assert client.database is not None
    UsageEventWriter(client, client.database).write(table, "test")


def test_nothing_is_wrong_with_a_new_stack(settings: Settings, client: HttpClient) -> None:
    """Every check has a row, all are ok, and a worker may start."""
    checks = diagnose(settings)
    assert problems_of(checks) == []
    assert {check.name for check in checks} == {
        *("clickhouse version", "clickhouse clock", "writer's rights", "writer's settings"),
        *("migrations", "schema", "deduplication windows", "other views", "compression"),
        *("topics", *(f"topic {topic.name}" for topic in TOPICS), "partitions", "offsets"),
        *("kafka clock", "worker name"),
        *("alert dimensions", "alert parameters", "alert rules", "alert receivers"),
    }
    require_safe(settings, client)


@pytest.mark.parametrize(
    ("topic", "config", "state", "found"),
    [
        (USAGE_TOPIC, {"cleanup_policy": "compact"}, State.UNSAFE, "it must be delete"),
        (USAGE_TOPIC, {"message_timestamp_type": "CreateTime"}, State.UNSAFE, "producer's clock"),
        (USAGE_TOPIC, {"retention_ms": "3600000"}, State.WARNING, "keeps records for 1 h"),
        (USAGE_TOPIC, {"retention_bytes": "1000000"}, State.WARNING, "1000000 bytes per partition"),
        (MODELS_TOPIC, {"cleanup_policy": "delete"}, State.UNSAFE, "it must be compact"),
        (DEAD_LETTER_TOPIC, {"min_insync_replicas": "2"}, State.UNSAFE, "no record can be"),
    ],
)
def test_a_topic_set_otherwise_is_told(
    settings: Settings,
    told: Callable[[], Check],
    topic: str,
    config: dict[str, str],
    state: State,
    found: str,
) -> None:
    """Settings of a topic that lose records or change their outcome; the fix sets them back."""
    alter(settings.kafka_bootstrap_servers, topic, **config)
    problem = told()
    assert (problem.state, problem.name) == (state, f"topic {topic}")
    assert found in problem.found
    set_back = re.search(r"--entity-name (\S+) --add-config (\S+)=(\S+)$", problem.fix)
    assert set_back is not None
    value = set_back[3].strip("[]")  # kafka-configs.sh takes a list in brackets.
    alter(settings.kafka_bootstrap_servers, set_back[1], **{set_back[2]: value})
    assert problems_of(diagnose(settings)) == []


def test_partitions_added_to_a_live_topic(settings: Settings, told: Callable[[], Check]) -> None:
    """Dead letters of the new partitions would have nowhere to go: refused until they have."""
    with admin_client(settings.kafka_bootstrap_servers) as admin:
        admin.create_partitions({USAGE_TOPIC: 4})
        problem = told()
        assert (problem.state, problem.name) == (State.UNSAFE, "partitions")
        assert problem.fix.endswith(f"--alter --topic {DEAD_LETTER_TOPIC} --partitions 4")
        admin.create_partitions({DEAD_LETTER_TOPIC: 4})
    assert problems_of(diagnose(settings)) == []


def test_a_missing_topic_is_told(settings: Settings, told: Callable[[], Check]) -> None:
    """And tokentide topics makes it."""
    with admin_client(settings.kafka_bootstrap_servers) as admin:
        admin.delete_topics([MODELS_TOPIC])
    problem = told()
    assert (problem.state, problem.fix) == (State.UNSAFE, "run: tokentide topics")
    assert MODELS_TOPIC in problem.found


def test_a_topic_made_anew_is_told(settings: Settings, told: Callable[[], Check]) -> None:
    """The group has committed what the topic does not have: its offsets are another's."""
    produce(settings.kafka_bootstrap_servers, 5)
    commit(settings, 6)
    problem = told()
    assert (problem.state, problem.name) == (State.UNSAFE, "offsets")
    assert "has committed offset 6" in problem.found
    assert "ends at 5" in problem.found
    assert "TOKENTIDE_CLICKHOUSE_DATABASE" in problem.fix
    commit(settings, 5)
    assert problems_of(diagnose(settings)) == []


def test_rows_past_the_end_of_the_topic_are_told(
    settings: Settings, client: HttpClient, told: Callable[[], Check]
) -> None:
    """Rows of a topic that is no more: new events would come under the offsets they have."""
    produce(settings.kafka_bootstrap_servers, 5)
    commit(settings, 5)
    store(client, 10)
    problem = told()
    assert (problem.state, problem.name) == (State.UNSAFE, "offsets")
    assert "rows go to offset 10" in problem.found


def test_a_group_behind_its_rows_is_told(
    settings: Settings, client: HttpClient, told: Callable[[], Check]
) -> None:
    """A new group, commits that expired or were set back: everything would be stored again."""
    produce(settings.kafka_bootstrap_servers, 20)
    store(client, 10)
    problem = told()
    assert (problem.state, problem.name) == (State.UNSAFE, "offsets")
    assert "it would store them again" in problem.found
    assert f"--topic {USAGE_TOPIC}:0 --reset-offsets --to-offset 10 --execute" in problem.fix
    commit(settings, 10)
    assert problems_of(diagnose(settings)) == []
    # A range in flight may have landed, and is repeated under its token.
    commit(settings, 4, declare(10))
    assert problems_of(diagnose(settings)) == []
    commit(settings, 4, declare(9))
    assert told().state is State.UNSAFE


def test_a_group_of_another_program_is_told(settings: Settings, told: Callable[[], Check]) -> None:
    """Commits with someone else's metadata."""
    produce(settings.kafka_bootstrap_servers, 1)
    commit(settings, 1, "mine")
    problem = told()
    assert (problem.state, problem.name) == (State.UNSAFE, "offsets")
    assert "TOKENTIDE_CONSUMER_GROUP" in problem.fix


def test_records_lost_to_retention_are_told(settings: Settings, told: Callable[[], Check]) -> None:
    """Nothing brings them back, so a worker starts; but it is said how many."""
    produce(settings.kafka_bootstrap_servers, 9)
    commit(settings, 2)
    with admin_client(settings.kafka_bootstrap_servers) as admin:
        admin.delete_records({TopicPartition(USAGE_TOPIC, 0): 5})
    problem = told()
    assert problem.state is State.WARNING
    assert f"3 records of {USAGE_TOPIC}/0 are gone" in problem.found


def test_a_broker_whose_clock_is_ahead_is_told(settings: Settings) -> None:
    """The newest record against the clock of a worker that is two minutes behind."""
    produce(settings.kafka_bootstrap_servers, 1)
    with admin_client(settings.kafka_bootstrap_servers) as admin:
        (problem,) = problems_of(
            kafka_checks(
                admin,
                bootstrap_servers="",
                group=settings.consumer_group,
                worker_name="",
                stored={},
                now_ms=lambda: (time.time() - 120) * 1000,
            )
        )
    assert (problem.state, problem.name) == (State.WARNING, "kafka clock")


async def test_a_name_in_use_is_told(settings: Settings, client: HttpClient) -> None:
    """Two workers of one name; no more than a warning, for one that restarts finds itself."""
    named = settings.model_copy(update={"worker_name": "worker-0"})
    assert problems_of(diagnose(named)) == []
    consumer = AIOKafkaConsumer(
        USAGE_TOPIC,
        bootstrap_servers=settings.kafka_bootstrap_servers,
        group_id=settings.consumer_group,
        group_instance_id="worker-0",
    )
    await consumer.start()
    try:
        while not consumer.assignment():
            await consumer.getmany(timeout_ms=100)
        (problem,) = problems_of(diagnose(named))
        assert (problem.state, problem.name) == (State.WARNING, "worker name")
        assert "worker-0 is in group" in problem.found
        require_safe(named, client)
        other = settings.model_copy(update={"worker_name": "worker-1"})
        assert problems_of(diagnose(other)) == []
    finally:
        await consumer.stop()


# The commands


def test_a_table_that_cannot_be_read_hides_nothing_else(
    settings: Settings, client: HttpClient
) -> None:
    """Without the column that offsets are in, doctor still shows all the rest."""
    client.command("ALTER TABLE usage_events RENAME COLUMN kafka_partition TO partition_id")
    checks = diagnose(settings)
    assert {check.name for check in problems_of(checks)} == {"schema"}
    assert "kafka clock" in {check.name for check in checks}


def test_nobody_there_is_two_rows() -> None:
    """Neither part answers: doctor says so for both, and has nothing else to show of them."""
    nowhere = Settings(kafka_bootstrap_servers="127.0.0.1:1", clickhouse_port=1)
    checks = diagnose(nowhere)
    assert [(check.name, check.state) for check in checks[:2]] == [
        ("clickhouse", State.UNSAFE),
        ("kafka", State.UNSAFE),
    ]
    assert {check.state for check in checks[2:]} == {State.OK}
    assert "clickhouse at 127.0.0.1:1 does not answer" in checks[0].found
    assert "no kafka at 127.0.0.1:1" in checks[1].found


def test_a_worker_says_that_kafka_does_not_answer(settings: Settings, client: HttpClient) -> None:
    """It may later: the error is one that a supervisor answers with another start."""
    away = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(RetryableError, match=r"no kafka at 127\.0\.0\.1:1"):
        require_safe(away, client)


def test_the_commands(settings: Settings, client: HttpClient) -> None:
    """A worker refuses in one line what doctor shows with the same fix; then doctor is content."""
    values = {
        name: getattr(settings, name)
        for name in (
            *("kafka_bootstrap_servers", "clickhouse_port", "clickhouse_database"),
            "consumer_group",
        )
    }
    table = f"{client.database}.usage_1h"
    fix = f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 10000"
    client.command(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 0")
    worker = run_tokentide("worker", **values, worker_port=free_port())
    assert worker.returncode == 1
    (line,) = worker.stderr.strip().splitlines()
    assert f"table {table} would count repeated inserts twice" in line
    assert f"run: {fix}" in line
    assert "tokentide doctor" in line
    doctor = run_tokentide("doctor", **values)
    assert doctor.returncode == 1, doctor.stderr
    assert f"\n  run: {fix}\n" in doctor.stdout
    assert re.search(r"^schema +ok ", doctor.stdout, re.M)
    assert re.search(r"^deduplication windows +unsafe ", doctor.stdout, re.M)
    client.command(fix)
    doctor = run_tokentide("doctor", "--format", "json", **values)
    assert doctor.returncode == 0, doctor.stderr
    rows = orjson.loads(doctor.stdout)
    assert {row["state"] for row in rows} == {"ok"}
    assert set(rows[0]) == {"name", "state", "found", "fix"}
