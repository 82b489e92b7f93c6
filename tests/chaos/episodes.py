"""Faults of workers, topics, clocks and catalogue: each a short story under load, with exact books.

A story takes a breakage of `tests.chaos.orders`: with the right one the books must not balance.
"""

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from deploy.kafka_admin import admin_client
from schemas.topics import DEAD_LETTER_TOPIC, USAGE_TOPIC
from sinks.usage_events import TABLE
from tests.chaos.ledger import Mix
from tests.chaos.oracle import Place, Verdict, read_letters
from tests.chaos.orders import COORDINATOR_FAULT, Orders
from tests.chaos.proxy import ANSWER, HOLD_ANSWER, Rule
from tests.chaos.rounds import Round, running_round
from tests.chaos.stage import ASK_KAFKA_SECONDS, GaveUpError, Stage, until
from tests.conftest import run_tokentide

TOO_MANY_PARTS = 252
FIRST, SECOND, THIRD, TWIN = "worker-0", "worker-1", "worker-2", "twin"
TAKE_OVER_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 40.0
"""A worker that is told to stop lets ranges in flight land for 10 s, then closes its connections."""
AT_ONCE_SECONDS_MAX = 8.0
DIE_SECONDS_MAX = 120.0
TWIN_SECONDS = 8.0
HOUR_SECONDS = 3600
RATE = 2_000
Story = Callable[[Stage, int, str], Verdict]


def only(stage: Stage, *slots: str, breakage: str = "") -> None:
    """Have exactly these workers run, ready, in processes with this breakage and no other orders."""
    plain = stage.orders(Orders(breakage=breakage))
    for slot in list(stage.workers):
        if slot not in slots or not stage.is_running(slot) or stage.workers[slot].orders != plain:
            stage.kill_worker(slot)
    stage.forget_members(keep=tuple(stage.workers))
    for slot in slots:
        if slot not in stage.workers:
            stage.start_worker(slot, Orders(breakage=breakage))
    stage.await_ready(*slots)
    if slots:
        _await_owner_of_all(stage, *slots)


def owned(stage: Stage, slots: tuple[str, ...]) -> int:
    """Return how many partitions the workers have been assigned, by what Kafka says of them."""
    return sum(stage.assigned().get(slot, 0) for slot in slots)


def dies_and_returns(
    point: str, *, crossing: int = 2, mix: Mix | None = None, table: str = ""
) -> Story:
    """A worker dies at ``point`` and comes back with other limits: it would cut other ranges.

    Args:
        table: Remembers no tokens meanwhile, if the breakage is ``no_window``.
    """

    def tell(stage: Stage, seed: int, breakage: str) -> Verdict:
        only(stage)
        forgetful = forgetting(stage, table if breakage == "no_window" else "")
        with (
            forgetful,
            running_round(stage, seed, mix=mix, rate=20_000, records_max=6_000) as round_,
        ):
            round_.produced(6_000)
            stage.start_worker(FIRST, Orders(point, crossing, breakage))
            code = stage.nursery.wait(stage.workers[FIRST].pid, DIE_SECONDS_MAX)
            assert code == -signal.SIGKILL, f"{code} instead of a death at {point}"
            stage.workers.pop(FIRST)
            stage.start_worker(FIRST, Orders(breakage=breakage), batch_rows_max=1_300)
        return round_.verdict

    return tell


@contextmanager
def forgetting(stage: Stage, table: str) -> Iterator[None]:
    """Let a table remember no tokens; ``""`` is none."""
    change = f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = "
    if table:
        stage.sql(change + "0")
    try:
        yield
    finally:
        if table:
            stage.sql(change + "10000")


def token_without_its_part(stage: Stage, seed: int, breakage: str) -> Verdict:
    """A range has landed and is not committed; the engine dies and keeps of it only the tokens.

    So it is left by an engine that dies between a block's token and its part. Here the parts are
    taken away while it is down, and the newest one of a rollup.
    """
    only(stage)
    for table in ("usage_events", "usage_1m"):
        stage.sql(f"SYSTEM STOP MERGES {table}")
    with running_round(stage, seed, rate=20_000, records_max=4_000) as round_:
        round_.produced(4_000)
        stage.start_worker(FIRST, Orders("after_insert", 2, breakage))
        code = stage.nursery.wait(stage.workers[FIRST].pid, DIE_SECONDS_MAX)
        assert code == -signal.SIGKILL, f"{code} instead of a death"
        stage.workers.pop(FIRST)
        committed = stage.committed()
        landed = " OR ".join(
            f"(kafka_partition = {p} AND kafka_offset >= {max(begin, committed.get(p, 0))})"
            for p, begin in round_.begins.items()
        )
        paths = stage.sql(
            "SELECT path FROM system.parts WHERE active AND table = 'usage_events' AND name IN"
            f" (SELECT DISTINCT _part FROM usage_events WHERE {landed})"
        )
        assert paths, "nothing had landed"
        of_rollup = stage.sql(
            "SELECT path FROM system.parts WHERE active AND table = 'usage_1m' AND level = 0"
            " ORDER BY modification_time DESC, name DESC LIMIT 1"
        )
        stage.kill_engine()
        for (path,) in [*paths, *of_rollup]:
            shutil.rmtree(str(path))
        stage.start_engine()
        stage.start_worker(FIRST, Orders(breakage=breakage))
    assert stage.lost_of_rollups or breakage, "the rollup lacks nothing"
    return round_.verdict


def clickhouse_away(stage: Stage, seed: int, breakage: str) -> Verdict:
    """Some inserts are refused with a code that will pass."""
    only(stage, FIRST, breakage=breakage)
    stage.proxy.set(Rule(ANSWER, code=TOO_MANY_PARTS, table=TABLE, times=2))
    with running_round(stage, seed, rate=20_000, records_max=2_000) as round_:
        pass
    return round_.verdict


def poison(stage: Stage, seed: int, breakage: str) -> Verdict:
    """ClickHouse refuses single rows: they become dead letters, the rest lands."""
    only(stage, FIRST, breakage=breakage)
    mix = Mix(poison=0.001)
    with running_round(stage, seed, mix=mix, rate=20_000, records_max=3_000) as round_:
        pass
    return round_.verdict


def resent_and_refused(stage: Stage, seed: int, breakage: str) -> Verdict:
    """Producers send again, and send what is no event; nothing else goes wrong."""
    only(stage, FIRST, breakage=breakage)
    mix = Mix(resent=0.05, refused=0.01)
    with running_round(stage, seed, mix=mix, rate=20_000, records_max=2_000) as round_:
        pass
    return round_.verdict


def stopped_past_its_session(stage: Stage, seed: int, breakage: str) -> Verdict:
    """A worker hangs before an insert until another has its partitions, then goes on.

    It may write the range that it had declared, which the other has repeated under the same tokens,
    and nothing else. (Broken, it would also fight for the transactions of the dead letters.)
    """
    only(stage)
    mix = Mix(refused=0) if breakage else Mix()
    with running_round(stage, seed, mix=mix, rate=20_000, records_max=12_000) as round_:
        round_.produced(12_000)
        stage.start_worker(FIRST, Orders("before_insert", 3, breakage, hangs=True))
        pid = stage.workers[FIRST].pid
        until(lambda: pid in stage.marked(), "a worker that hangs")
        stage.start_worker(SECOND, Orders(breakage=breakage), batch_rows_max=2_000)
        _await_owner_of_all(stage, SECOND)
        round_.lands()
        stage.signal_worker(FIRST, signal.SIGCONT)
        if breakage:
            until(lambda: stage.has_doubled_rows(round_.begins), "the harm that the worker does")
            stage.skip_to_end()  # Its commits have moved the group back.
        else:
            stage.await_ready(FIRST)
    return round_.verdict


def _await_owner_of_all(stage: Stage, *slots: str) -> None:
    partitions = len(stage.ends())
    what = f"all partitions with {slots}"
    until(lambda: owned(stage, slots) == partitions, what, TAKE_OVER_SECONDS_MAX, ASK_KAFKA_SECONDS)


def one_three_two(stage: Stage, seed: int, breakage: str) -> Verdict:
    """One worker, then three, then two: the third says goodbye or is killed, by turns."""
    only(stage, FIRST, breakage=breakage)
    with running_round(stage, seed, rate=RATE) as round_:
        round_.goes_on(RATE // 2)
        for slot in (SECOND, THIRD):
            stage.start_worker(slot, Orders(breakage=breakage))
        slots = (FIRST, SECOND, THIRD)
        _await_owner_of_all(stage, *slots)
        until(lambda: all(owned(stage, (slot,)) for slot in slots), "a partition for each")
        round_.goes_on(RATE)
        if seed % 2:
            stage.kill_worker(THIRD)
        else:
            assert stage.end_worker(THIRD, STOP_SECONDS_MAX) == 0
        _await_owner_of_all(stage, FIRST, SECOND)
        round_.goes_on(RATE // 2)
    return round_.verdict


def rolling_restart(stage: Stage, seed: int, breakage: str) -> Verdict:
    """SIGTERM to one worker after the other: each ends with 0, in bounded time."""
    only(stage, FIRST, SECOND, breakage=breakage)
    with running_round(stage, seed, rate=RATE) as round_:
        for slot in (FIRST, SECOND):
            round_.goes_on(RATE // 2)
            assert stage.end_worker(slot, STOP_SECONDS_MAX) == 0, f"{slot} did not stop well"
            stage.start_worker(slot, Orders(breakage=breakage))
            stage.await_ready(slot)
    return round_.verdict


def second_sigterm(stage: Stage, seed: int, breakage: str) -> Verdict:
    """A worker that waits for ClickHouse while it stops ends at once when it is told again."""
    only(stage, FIRST, breakage=breakage)
    with running_round(stage, seed, rate=RATE, waits=True) as round_:
        round_.goes_on(RATE // 2)
        stage.proxy.set(Rule(HOLD_ANSWER))
        round_.goes_on(RATE // 2)
        until(lambda: stage.proxy.hits[HOLD_ANSWER] > 0, "an insert that waits")
        stage.signal_worker(FIRST, signal.SIGTERM)
        until(lambda: stage.logged(FIRST, "worker.stopping") > 0, "a worker that stops")
        assert stage.is_running(FIRST)
        stage.signal_worker(FIRST, signal.SIGTERM)
        code = stage.nursery.wait(stage.workers[FIRST].pid, AT_ONCE_SECONDS_MAX)
        assert code == 1, f"{code} after a second SIGTERM"
        stage.workers.pop(FIRST)
        stage.proxy.lift()
        stage.start_worker(FIRST, Orders(breakage=breakage))
    return round_.verdict


def same_name_twice(stage: Stage, seed: int, breakage: str) -> Verdict:
    """Two workers have the same TOKENTIDE_WORKER_NAME by mistake, for a while."""
    only(stage, FIRST, SECOND, breakage=breakage)
    with running_round(stage, seed, rate=RATE) as round_:
        round_.goes_on(RATE // 2)
        stage.start_worker(TWIN, Orders(breakage=breakage), worker_name=FIRST)
        with suppress(GaveUpError):
            until(
                lambda: not stage.is_running(FIRST) or not stage.is_running(TWIN), "", TWIN_SECONDS
            )
        round_.goes_on(RATE // 2)
        stage.kill_worker(TWIN)
        if not stage.is_running(FIRST):
            stage.wait_worker(FIRST, STOP_SECONDS_MAX)
            stage.start_worker(FIRST, Orders(breakage=breakage))
    return round_.verdict


def clock_steps(stage: Stage, seed: int, breakage: str) -> Verdict:
    """The workers' clock jumps ahead by an hour, back by two, and is right again."""
    only(stage, FIRST, SECOND, breakage=breakage)
    try:
        with running_round(stage, seed, rate=RATE, is_now=True, waits=True) as round_:
            for seconds in (HOUR_SECONDS, -HOUR_SECONDS, 0):
                stage.clock.write_text(str(seconds))
                round_.goes_on(RATE)
                round_.lands()
    finally:
        stage.clock.write_text("0")
    stage.await_ready(FIRST, SECOND)
    return round_.verdict


def coordinator_error(stage: Stage, seed: int, breakage: str) -> Verdict:
    """The group coordinator answers with an error that aiokafka parks; the worker joins again."""
    only(stage, FIRST, SECOND, breakage=breakage)
    with running_round(stage, seed, rate=RATE, waits=True) as round_:
        before = stage.logged(FIRST, "coordinator.failed")
        round_.goes_on(RATE // 2)
        stage.signal_worker(FIRST, COORDINATOR_FAULT)
        until(lambda: stage.logged(FIRST, "coordinator.failed") > before, "the error, told")
        stage.await_ready(FIRST)
        round_.goes_on(RATE // 2)
    return round_.verdict


def retention(stage: Stage, seed: int, breakage: str) -> Verdict:
    """The topic loses its oldest records while the worker is away: it says how many, and goes on."""
    only(stage)
    with running_round(stage, seed, mix=Mix(resent=0), rate=20_000, records_max=5_000) as round_:
        round_.produced(5_000)
        round_.lost |= lose_half(stage, round_)
        stage.start_worker(FIRST, Orders(breakage=breakage))
        stage.await_ready(FIRST)
    told = int(stage.metric(FIRST, "tokentide_records_lost_total"))
    if told != len(round_.lost) or not stage.logged(FIRST, "records.lost"):
        missing = f"retention took {len(round_.lost)} records, the worker told {told}"
        round_.verdict.unexpected.append(missing)
    return round_.verdict


def retention_cuts_a_declared_range(stage: Stage, seed: int, breakage: str) -> Verdict:
    """A worker dies with a range that has landed; the topic loses a part of it; it is repeated."""
    only(stage)
    with running_round(stage, seed, mix=Mix(resent=0), rate=20_000, records_max=5_000) as round_:
        round_.produced(5_000)
        stage.start_worker(FIRST, Orders("after_insert", 2, breakage))
        code = stage.nursery.wait(stage.workers[FIRST].pid, DIE_SECONDS_MAX)
        assert code == -signal.SIGKILL, f"{code} instead of a death"
        stage.workers.pop(FIRST)
        round_.lost |= lose_half(stage, round_)
        stage.start_worker(FIRST, Orders(breakage=breakage))
    return round_.verdict


def lose_half(stage: Stage, round_: Round) -> set[Place]:
    """Delete half of the waiting records of each partition; return those that were stored nowhere."""
    ends, committed = stage.ends(), stage.committed()
    begins = {p: max(committed.get(p, 0), round_.begins.get(p, 0)) for p in ends}
    until_offsets = {p: begins[p] + (end - begins[p]) // 2 for p, end in ends.items()}
    stage.delete_records(until_offsets)
    lost = missing(stage, begins, until_offsets, round_.letter_begins)
    stage.lost |= lost
    return lost


def missing(
    stage: Stage,
    begins: Mapping[int, int],
    ends: Mapping[int, int],
    letter_begins: Mapping[int, int],
) -> set[Place]:
    """Return the places between offsets that are in no table and in no dead letter."""
    places = {(p, o) for p, end in ends.items() for o in range(begins.get(p, 0), end)}
    letters = read_letters(stage.servers, letter_begins)
    return places - stage.places(begins) - {(each.partition, each.offset) for each in letters}


def partitions_added(stage: Stage, seed: int, breakage: str) -> Verdict:
    """The topics get a partition more under load, the dead-letter topic first."""
    only(stage, FIRST, SECOND, breakage=breakage)
    with running_round(stage, seed, rate=RATE) as round_:
        round_.goes_on(RATE // 2)
        count = len(stage.ends()) + 1
        with admin_client(stage.servers) as admin:
            for topic in (DEAD_LETTER_TOPIC, USAGE_TOPIC):
                admin.create_partitions({topic: count})
        until(lambda: len(stage.ends()) == count, "the new partition")
        round_.partitions = count
        until(lambda: round_.production.next_offsets.get(count - 1, 0) > 0, "records in it")
        _await_owner_of_all(stage, FIRST, SECOND)
    return round_.verdict


def catalogue_changes_in_a_repeat(stage: Stage, seed: int, breakage: str) -> Verdict:
    """A range is in the table but not in a rollup when its model changes; then it is repeated.

    That is what an engine leaves that dies between a table and its view. The rollup must say of the
    range what the table says, not what the catalogue says by now.
    """
    only(stage)
    view = "usage_events_to_usage_1m"
    stage.start_worker(FIRST, Orders("after_insert", 1, breakage))
    stage.await_ready(FIRST)
    ((statement,),) = stage.sql(
        f"SELECT create_table_query FROM system.tables WHERE name = '{view}'"
    )
    with running_round(stage, seed, rate=20_000, records_max=4_000) as round_:
        stage.sql(f"DROP VIEW {view} SYNC")
        try:
            code = stage.nursery.wait(stage.workers[FIRST].pid, DIE_SECONDS_MAX)
            assert code == -signal.SIGKILL, f"{code} instead of a death"
        finally:
            stage.sql(str(statement))
        stage.workers.pop(FIRST)
        edit = ("catalogue", "edit", "openai/gpt-4o", f"vendor=vendor-{round_.ledger.name}")
        done = run_tokentide(*edit, **stage.settings)
        assert done.returncode == 0, done.stderr
        stage.start_worker(FIRST, Orders(breakage=breakage))
    return round_.verdict


STORIES: Mapping[str, Story] = {
    "worker stopped past its session, continued": stopped_past_its_session,
    "workers 1 to 3 to 2": one_three_two,
    "rolling restart": rolling_restart,
    "second SIGTERM": second_sigterm,
    "same worker name twice": same_name_twice,
    "clock steps by an hour": clock_steps,
    "coordinator error": coordinator_error,
    "token without its part": token_without_its_part,
    "retention takes unread records": retention,
    "retention cuts a declared range": retention_cuts_a_declared_range,
    "partitions added": partitions_added,
    "catalogue changes in a repeated range": catalogue_changes_in_a_repeat,
    "rows refused by clickhouse": poison,
}

BROKEN: Mapping[str, tuple[Story, str]] = {
    "random_tokens": (dies_and_returns("after_insert"), "doubled"),
    "no_declaration": (dies_and_returns("after_insert"), "doubled"),
    "cut_anew": (dies_and_returns("after_insert"), "doubled"),
    "skip_repeat": (dies_and_returns("before_insert"), "lost"),
    "commit_first": (dies_and_returns("before_insert"), "lost"),
    "zombie": (stopped_past_its_session, "doubled"),
    "acknowledge_refused": (clickhouse_away, "lost"),
    "drop_poison": (poison, "lost"),
    "dead_letters_again": (
        dies_and_returns("after_dead_letters", mix=Mix(refused=0.02)),
        "doubled",
    ),
    "no_dead_letters": (resent_and_refused, "lost"),
    "no_duplicate_check": (resent_and_refused, "unexpected"),
    "fresh_repeat": (catalogue_changes_in_a_repeat, "rollups"),
    "silent_gap": (retention, "unexpected"),
    "trust_tokens": (token_without_its_part, "lost"),
    "no_window": (dies_and_returns("after_insert", table="usage_1h"), "rollups"),
}
"""Breakage -> the story that shows it, and the kind of difference that it must make."""
