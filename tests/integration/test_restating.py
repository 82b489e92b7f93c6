"""Rows get what the catalogue says now, former answers can be given again, and nothing is lost."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from agents.reconcile import accounts_of
from agents.restate import Restatement, restate
from schemas.catalogue import Catalogue, list_cost_nanousd, origin, size_class
from schemas.errors import FatalError, RetryableError
from schemas.model import Model, Price
from sinks.reconciling import Engine
from sinks.reconciling_offsets import check_offsets
from sinks.reconciling_rollups import check_rollups
from sinks.restating import COSTS, SIZES, TEXTS
from streams.topic_offsets import UsageLog
from tests.integration.reconcile_books import START, Books
from tests.integration.sinks_database import rows_of
from tests.usage_rows import Row

pytestmark = pytest.mark.usefixtures("short_waits")

DAY_MS = 86_400_000
START_MS = int(START.timestamp() * 1000)
CHANGING = (*TEXTS, *SIZES, *COSTS)
LEARNED = Model(
    "zeta/nine",
    aliases=("raw-0", "raw-1:free"),
    vendor="zeta",
    vendor_country="FR",
    open_weights=True,
    license="MIT",
    total_params_b=9.0,
    active_params_b=1.5,
    reasoning="none",
    prices=(Price(START_MS - DAY_MS, 2_000_000, 8_000_000), Price(START_MS + DAY_MS, 1_500_000, 0)),
)
TIGER = Model(
    "tiger/72b",
    vendor="tiger",
    vendor_country="SG",
    open_weights=True,
    license="Apache-2.0",
    total_params_b=72.0,
    reasoning="optional",
    prices=(Price(0, 100_000, 100_000),),
)
SMALL = Model("acme/small", vendor="acme", vendor_country="US", open_weights=False)
CATALOGUE = Catalogue.of((LEARNED, TIGER, SMALL))
NOTE = "the name was learned"
PERIOD = "from_time = '2026-07-01 00:00:00', to_time = '2026-09-01 00:00:00', grain_seconds = 86400, top_n = 5"


def expected(row: Row, catalogue: Catalogue) -> dict[str, Any]:
    """Return what a row becomes, one row at a time, by the catalogue's own plain functions."""
    found = catalogue.resolve(row["model_raw"])
    model = found.model if found else Model("unknown")
    texts = {
        "model": model.model_id,
        "vendor": model.vendor,
        "vendor_country": model.vendor_country,
        "license": model.license,
        "open_weights": {True: "open", False: "closed", None: None}[model.open_weights],
        "origin": origin(model),
        "size_class": size_class(model),
        "reasoning": model.reasoning,
    }
    cost, source = row["cost_nanousd"], row["cost_source"]
    if cost is None or source == "list_price":
        at_ms = int(row["occurred_at"].timestamp() * 1000)
        tokens = row["tokens_prompt"], row["tokens_completion"]
        cost = list_cost_nanousd(found.model, found.variant, at_ms, *tokens) if found else None
        source = "list_price" if cost is not None else source
        if cost is None and row["cost_source"] == "list_price":
            source = "unknown"
    return {
        **{name: text or "unknown" for name, text in texts.items()},
        "total_params_b": model.total_params_b,
        "active_params_b": model.active_params_b,
        "cost_nanousd": cost,
        "cost_source": source,
    }


def stored_rows(books: Books) -> dict[tuple[int, int], Row]:
    rows = rows_of(books.client, "SELECT * FROM usage_events")
    found = {(row["kafka_partition"], row["kafka_offset"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def insert(books: Books, count: int, partition: int = 0) -> list[Row]:
    """Store rows: some names free of charge, some costs by list price."""
    rows = books.rows(partition, books.produce(partition, count))
    now = datetime.now(UTC)
    for at, row in enumerate(rows):
        row["ingested_at"] = now.replace(microsecond=now.microsecond // 1000 * 1000)
        if row["model_raw"] == "raw-1":
            row["model_raw"] = "raw-1:free"
        if at % 3 == 0 and row["cost_nanousd"] is not None:
            row["cost_source"] = "list_price"
    books.insert(rows, f"{partition}:{rows[0]['kafka_offset']}")
    books.commit(partition)
    return rows


def run(books: Books, usage_log: UsageLog, **options: Any) -> Restatement:
    settings = {"catalogue": CATALOGUE, "apply": True, "note": NOTE, **options}
    catalogue = settings.pop("catalogue")
    return restate(books.engine, usage_log.committed, catalogue, **settings)


def is_as_expected(
    books: Books, usage_log: UsageLog, before: Mapping[tuple[int, int], Row], catalogue: Catalogue
) -> bool:
    """Return whether every row is there, as it must be, with right rollups and nothing left over."""
    now = stored_rows(books)
    assert now.keys() == before.keys()
    for place, row in before.items():
        assert now[place] == {**row, **expected(row, catalogue)}, place
    left = books.client.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase()"
        " AND match(name, '^(reconcile_staging|restate_names)')"
    ).result_rows
    return not left and not check_rollups(books.engine, usage_log.committed, with_keys=True).count


def shares(client: HttpClient, view: str, more: str = "") -> list[dict[str, Any]]:
    return rows_of(client, f"SELECT * FROM {view}({more}{PERIOD})")


def now_text() -> str:
    """Return the moment, and see that the next one is later in milliseconds."""
    text = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    time.sleep(0.01)
    return text


def test_rows_become_what_enrichment_would_say(books: Books, usage_log: UsageLog) -> None:
    """Names learned, corrected and gone; costs by list price anew, those of gateways as they were."""
    insert(books, 1500)
    before = stored_rows(books)
    plan = run(books, usage_log, apply=False)
    assert stored_rows(books) == before
    changed = {
        place
        for place, row in before.items()
        if any(row[name] != value for name, value in expected(row, CATALOGUE).items())
    }
    assert sum(change.rows for change in plan.changes) == len(changed) > 800
    assert plan.months == ()
    learned = [c for c in plan.changes if c.model_raw == "raw-0"]
    assert {(c.was, c.becomes, c.month) for c in learned} == {
        ("unknown", "zeta/nine", 202607),
        ("unknown", "zeta/nine", 202608),
    }
    of_name = [row for row in before.values() if row["model_raw"] == "raw-0"]
    assert sum(c.tokens for c in learned) == sum(
        (row["tokens_prompt"] or 0) + (row["tokens_completion"] or 0) for row in of_name
    )
    assert sum(c.nanousd_after for c in learned) == sum(
        expected(row, CATALOGUE)["cost_nanousd"] or 0 for row in of_name
    )
    done = run(books, usage_log)
    assert done.changes == plan.changes
    assert done.months == (202607, 202608)
    assert is_as_expected(books, usage_log, before, CATALOGUE)
    again = run(books, usage_log)
    assert (again.changes, again.months, again.finished) == ((), (), ())
    log = rows_of(books.client, "SELECT * FROM restatements ORDER BY recorded_at, state")
    assert [(row["month"], row["state"]) for row in log] == [
        (202607, "begun"),
        (202607, "done"),
        (202608, "begun"),
        (202608, "done"),
    ]
    assert sum(row["rows"] for row in log) == len(changed)
    assert {row["note"] for row in log} == {NOTE}


def test_one_month_only(books: Books, usage_log: UsageLog) -> None:
    """The other one stays as it is."""
    insert(books, 600)
    before = stored_rows(books)
    done = run(books, usage_log, months=[202608, 202609])
    assert done.months == (202608,)
    for place, row in stored_rows(books).items():
        is_changed = row["occurred_at"].month == 8
        assert row == {
            **before[place],
            **(expected(before[place], CATALOGUE) if is_changed else {}),
        }


def test_an_answer_is_given_again_as_it_stood(books: Books, usage_log: UsageLog) -> None:
    """Before two restatements, between them, and before rows that came late."""
    insert(books, 500)
    answers = {}
    for catalogue in (CATALOGUE, Catalogue.of((SMALL,))):
        answers[now_text()] = {
            column: shares(books.client, f"share_by_{name}")
            for name, column in (("vendor", "vendor"), ("country", "vendor_country"))
        }
        insert(books, 300)
        run(books, usage_log, catalogue=catalogue)
    answers[now_text()] = {"vendor": shares(books.client, "share_by_vendor")}
    for moment, said in answers.items():
        for column, answer in said.items():
            asked = f"column = '{column}', as_of = '{moment}', "
            assert shares(books.client, "share_as_of", asked) == answer, moment
    vendors = [{row["value"] for row in said["vendor"]} for said in answers.values()]
    assert "zeta" not in vendors[0]
    assert "zeta" in vendors[1]
    assert "zeta" not in vendors[2]


class KilledError(Exception):
    """In the place of a process that ends."""


class Stopping(Engine):
    """An engine that fails at its ``nth`` statement, or lets something happen before it."""

    def __init__(self, books: Books, nth: int, happens: Callable[[], object]) -> None:
        super().__init__(books.client, books.database)
        self._left = nth
        self._happens = happens

    @property
    def was_reached(self) -> bool:
        return self._left < 0

    def _count(self, sql: str) -> None:
        # What only cleans up would not run in a process that was killed, and need not fail here.
        if sql.startswith("DROP TABLE"):
            return
        self._left -= 1
        if self._left == -1:
            self._happens()

    def command(self, sql: str, parameters: Any = None) -> None:
        self._count(sql)
        super().command(sql, parameters)

    def rows(self, sql: str, *args: Any, **options: Any) -> list[tuple[Any, ...]]:
        self._count(sql)
        return super().rows(sql, *args, **options)

    def insert(self, table: str, *args: Any) -> None:
        self._count(f"INSERT INTO {table}")
        super().insert(table, *args)


def kill() -> None:
    raise KilledError


def test_one_that_was_stopped_is_finished_by_the_next(books: Books, usage_log: UsageLog) -> None:
    """After each statement of a month, the next run has the catalogue from before: whether it changes
    rows back or finds nothing to change, rows, rollups and an earlier answer are as they were.
    """
    insert(books, 300)
    run(books, usage_log)
    before = stored_rows(books)
    former, moment = shares(books.client, "share_by_vendor"), now_text()
    states = set()
    number = 0
    while True:
        engine = Stopping(books, number, kill)
        with suppress(KilledError):
            restate(
                engine,
                usage_log.committed,
                Catalogue.of((SMALL,)),
                months=[202607],
                apply=True,
                note=NOTE,
            )
        done = run(books, usage_log, months=[202607])
        states |= {state for _, state in done.finished}
        assert is_as_expected(books, usage_log, before, CATALOGUE), number
        asked = f"column = 'vendor', as_of = '{moment}', "
        assert shares(books.client, "share_as_of", asked) == former, number
        if not engine.was_reached:
            break
        number += 9
    assert number > 20
    assert states == {"done", "dropped"}


def test_rows_that_land_meanwhile_are_there_afterwards(books: Books, usage_log: UsageLog) -> None:
    """Before each statement but that of the swap itself: waited for, restated, kept as they were."""
    insert(books, 200)
    moment, former = now_text(), shares(books.client, "share_by_vendor")
    number = 0
    while True:
        landed: list[Row] = []
        before = stored_rows(books)
        catalogue = (CATALOGUE, Catalogue.of((SMALL,)))[number % 2]
        engine = Stopping(books, number, lambda: landed.extend(insert(books, 5, partition=1)))  # noqa: B023
        for each in (engine, books.engine):
            try:
                restate(each, usage_log.committed, catalogue, apply=True, note=NOTE)
            except RetryableError:
                continue
        rows = stored_rows(books)
        # What landed between the last count and a swap went with the old rows, and is told as lost.
        missing = sum((1, row["kafka_offset"]) not in rows for row in landed)
        found = check_offsets(books.engine, accounts_of(usage_log), usage_log)
        lost = [(first, after) for _, first, after in found.lost]
        assert sum(after - first for first, after in lost) == missing, number
        if missing:
            books.insert(
                [row for row in landed if (1, row["kafka_offset"]) not in rows], f"again {number}"
            )
            run(books, usage_log, catalogue=catalogue)
            rows = stored_rows(books)
        assert len(rows) == len(before) + len(landed)
        for place, row in before.items():
            assert rows[place] == {**row, **expected(row, catalogue)}, (number, place)
        assert not check_rollups(books.engine, usage_log.committed, with_keys=True).count, number
        asked = f"column = 'vendor', as_of = '{moment}', "
        assert shares(books.client, "share_as_of", asked) == former, number
        if not engine.was_reached:
            break
        number += 15
    assert number > 20


def test_a_note_is_needed(books: Books, usage_log: UsageLog) -> None:
    """The log says why; nothing is touched without it."""
    with pytest.raises(FatalError, match="must say why"):
        run(books, usage_log, note="  ")
    with pytest.raises(FatalError, match="must say why"):
        run(books, usage_log, note="x" * 501)
    assert run(books, usage_log).changes == ()
