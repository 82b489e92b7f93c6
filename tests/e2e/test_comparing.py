"""The proof itself can fail: whatever is wrong in tables or topics, the comparison says so."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from clickhouse_connect.driver.httpclient import HttpClient
from faust.types import TP

from agents.store_usage import Parts, UsageStore
from deploy.local.simulator.records_file import read_records
from schemas.catalogue import Catalogue, load_shipped
from sinks.lost_blocks import LostBlocks
from sinks.stored_events import StoredEvents
from sinks.usage_events import UsageEventWriter
from streams.batches import Batch
from streams.decoding import decode
from streams.health import Progress
from streams.partitions import StoreRequest
from tests.conftest import ClickHouseAddress, fresh_name, run_tokentide
from tests.e2e.comparing import Check, Letter, Topics, check_letters, check_offsets, compare
from tests.e2e.recount import Recount, recount
from tests.e2e.scenario import DUPLICATE_WINDOW_SECONDS
from tests.integration.sinks_database import migrated
from tests.record_batch import record_batch

FAULTS = "duplicates=0.02,late=0.02,malformed=0.05,unknown_model=0.02,multiline=0.02"

WAITING = {"mutations_sync": 1}


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Records of the simulator, a tenth of them odd."""
    file = tmp_path_factory.mktemp("records") / "out"
    done = run_tokentide(
        *("simulate", "--no-publish", "--events", "3000", "--world", "catalogue"),
        *("--from", "2026-07-30", "--to", "2026-08-02", "--faults", FAULTS, "--out", str(file)),
    )
    assert done.returncode == 0, done.stderr
    return list(read_records(file))


@pytest.fixture(scope="module")
def expected(values: list[bytes]) -> Recount:
    """What must be stored."""
    return recount(values, now=datetime.now(UTC))


@pytest.fixture(scope="module")
def topics(values: list[bytes]) -> Topics:
    """What must be in Kafka."""
    rejected = decode(_batch(values).record_batches).rejected
    letters = [
        Letter(0, each.offset, each.value or b"", each.reason.value, values[each.offset])
        for each in rejected
    ]
    return Topics({0: len(values)}, letters)


@pytest.fixture
def client(clickhouse: ClickHouseAddress, values: list[bytes]) -> Iterator[HttpClient]:
    """A database that holds what it must."""
    database = fresh_name("compare")
    with migrated(clickhouse, database) as client:
        asyncio.run(store(client, database, values))
        yield client


async def store(client: HttpClient, database: str, values: list[bytes]) -> None:
    """Store the records as a worker does, but for the dead letters."""

    async def nothing(*_: object, **__: object) -> None: ...

    async def catalogue() -> Catalogue:
        return load_shipped()

    with ThreadPoolExecutor(1) as executor:
        parts = Parts(
            catalogue=catalogue,
            writer=UsageEventWriter(client, database),
            stored=StoredEvents(client, database),
            lost=LostBlocks(client, database),
            dead_letters=SimpleNamespace(send=nothing),
            panes=SimpleNamespace(publish=nothing),
            preparing=executor,
            inserting=executor,
            progress=Progress(30),
            retry_wait_seconds_max=1,
            duplicate_window_ms=DUPLICATE_WINDOW_SECONDS * 1000,
            seen_ids_max=1000,
            bad_records_ratio_max=1,
        )
        request = StoreRequest(_batch(values), False, False, nothing, nothing)
        await UsageStore(0, parts).store(request)


def _batch(values: list[bytes]) -> Batch:
    now_ms = round(datetime.now(UTC).timestamp() * 1000)
    return Batch.of(TP("llm-usage-v1", 0), [record_batch(0, *values, append_time_ms=now_ms)])


def broken(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.differences}


def parts(names: set[str]) -> set[str]:
    """Return the first words of checks: a table, ``share`` for a view, or another check."""
    return {"share" if name.startswith("share_by") else name.split(" by ")[0] for name in names}


def test_equal_when_all_is_right(client: HttpClient, expected: Recount, topics: Topics) -> None:
    """No difference in any of the comparisons, and there are many of them."""
    checks = compare(expected, client, topics)
    assert [check for check in checks if check.differences] == []
    assert len(checks) > 100
    assert len(topics.letters) > 100
    assert expected.stored > 2000
    assert expected.duplicates > 20


def test_doubled_row(client: HttpClient, expected: Recount, topics: Topics) -> None:
    """A row stored twice is seen in every table and every view."""
    client.command("INSERT INTO usage_events SELECT * FROM usage_events WHERE kafka_offset = 100")
    checks = compare(expected, client, topics)
    assert broken(checks) == {check.name for check in checks} - {"dead letters"}


def test_event_stored_twice(client: HttpClient, expected: Recount, topics: Topics) -> None:
    """What was sent again and is stored instead of set aside is seen, and so is the reverse."""
    client.command(
        "ALTER TABLE usage_events UPDATE event_id = (SELECT event_id FROM usage_events"
        " WHERE kafka_offset = 100) WHERE kafka_offset = 101",
        settings=WAITING,
    )
    assert "event ids" in broken(compare(expected, client, topics))


def test_record_set_aside_for_nothing(
    client: HttpClient, expected: Recount, topics: Topics
) -> None:
    """A record is set aside only if its event is stored."""
    client.command("ALTER TABLE usage_duplicates UPDATE event_id = 'new' WHERE 1", settings=WAITING)
    assert broken(compare(expected, client, topics)) == {"event ids"}


def test_lost_row(client: HttpClient, expected: Recount, topics: Topics) -> None:
    """A row that is in the rollups and not in the raw table is seen there."""
    client.command("ALTER TABLE usage_events DELETE WHERE kafka_offset = 100", settings=WAITING)
    checks = compare(expected, client, topics)
    assert parts(broken(checks)) == {"books", "offsets", "usage_events"}


@pytest.mark.parametrize(
    ("table", "columns", "seen_in"),
    [
        ("usage_1m", "minute, model", {"usage_1m"}),
        ("usage_1h", "hour, model", {"usage_1h", "usage_1d", "share"}),
        ("usage_context_1h", "hour, app_id", {"usage_context_1h", "share"}),
    ],
)
def test_rollup_that_counted_a_token_too_many(
    client: HttpClient,
    expected: Recount,
    topics: Topics,
    table: str,
    columns: str,
    seen_in: set[str],
) -> None:
    """One token in one rollup is seen in it, in what it feeds and in the views that read it."""
    client.command(
        f"INSERT INTO {table} ({columns}, tokens_prompt) SELECT {columns}, 1 FROM {table} LIMIT 1"
    )
    assert parts(broken(compare(expected, client, topics))) == seen_in


def test_wrong_attribute(client: HttpClient, expected: Recount, topics: Topics) -> None:
    """A row under the wrong origin is seen, though all totals are right."""
    client.command(
        "ALTER TABLE usage_events UPDATE origin = 'other_open'"
        " WHERE kafka_offset IN (SELECT min(kafka_offset) FROM usage_events"
        " WHERE origin = 'proprietary')",
        settings=WAITING,
    )
    assert broken(compare(expected, client, topics)) == {"usage_events by origin and day"}


def test_dead_letters_that_are_wrong(expected: Recount, topics: Topics) -> None:
    """A dead letter lost, sent twice, changed or badly labelled is seen."""
    first, *rest = topics.letters
    wrong: dict[str, list[Letter]] = {
        "lost": rest,
        "sent twice": [first, first, *rest],
        "a byte more": [replace(first, value=first.value + b" "), *rest],
        "another reason": [replace(first, reason="too_long"), *rest],
        "another place": [replace(first, offset=first.offset + 1, origin_value=b"{}"), *rest],
        "a header": [replace(first, fault="stage is None"), *rest],
    }
    assert check_letters(expected, topics).differences == ()
    for how, letters in wrong.items():
        assert check_letters(expected, replace(topics, letters=letters)).differences, how


def test_offsets_that_are_wrong(client: HttpClient, topics: Topics) -> None:
    """An offset that is nowhere, or both stored and dead-lettered, is seen."""
    first, *rest = topics.letters
    stored = min({*range(topics.ends[0])} - {each.offset for each in topics.letters})
    assert check_offsets(client, topics).differences == ()
    for letters in (rest, [replace(first, offset=stored), *topics.letters]):
        assert check_offsets(client, replace(topics, letters=letters)).differences
    assert check_offsets(client, replace(topics, ends={0: topics.ends[0] + 1})).differences


def test_recount_is_of_every_record(values: list[bytes], expected: Recount) -> None:
    """The recount of one record less is another recount."""
    fewer = recount(values[:-1], now=datetime.now(UTC))
    assert fewer.records == expected.records - 1
    assert fewer != expected
