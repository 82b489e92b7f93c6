"""The delivery protocol as a model: owners, broker, ClickHouse and dead letters, in plain Python.

One partition of the usage topic. Each assignment makes a new *owner* with the next generation; those
before it live on as zombies, which may take their next step at any later time, or never: a crash is an
owner that is not moved again. What they share:

* the broker: the committed offset and the declaration beside it; an old generation's commit is refused;
* ClickHouse: a table and two views, filled one after the other by each request, each with its own
  deduplication window. A request outlives its owner's patience and its owner, and may die after any table;
* the dead-letter topic: one transaction per range; whoever opens the partition's producer shuts out those
  who did before, and then asks the broker whether it may: a zombie may open it, but not send;
* the catalogue: it changes once, at any time, and with it the rows made of the same records.

`Protocol.moves` is all that can happen next, `Protocol.faults` what must never be. `Rules` switches a
rule of the protocol off, to see that it is needed. `tests.model.exploring` visits every state.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

REFUSED = "x"
"""In a log: a record for the dead letters. Any other letter is the month of a valid one."""


@dataclass(frozen=True)
class Rules:
    """The protocol; each rule can be broken."""

    tokens_follow_from_the_range: bool = True
    commit_comes_last: bool = True
    ranges_are_declared: bool = True
    declaration_checks_generation: bool = True
    declared_range_is_repeated: bool = True
    views_have_windows: bool = True
    stored_rows_are_read_back: bool = True
    table_fills_before_views: bool = True
    dead_letters_are_fenced: bool = True
    fencing_is_confirmed: bool = True
    fencing_precedes_reading_dead_letters: bool = True
    dead_letters_are_looked_up: bool = True


@dataclass(frozen=True)
class Bounds:
    """How much is explored.

    Attributes:
        log: The partition: one letter per record, see `REFUSED`.
        generations: Assignments, at most.
        requests: Inserts on their way at once, at most.
        catalogue_changes: The catalogue may change, once.
        former_inserts_overlap: Inserts of former owners may run after a new owner has read back what is
            stored: a zombie that wakes up just then, or a request still in the network.
    """

    log: str = "axb"
    generations: int = 2
    requests: int = 2
    catalogue_changes: bool = True
    former_inserts_overlap: bool = True


class Owner(NamedTuple):
    """A worker in one generation of the group, and the range it is at.

    Attributes:
        at: The step it takes next: a method of `Protocol`.
        first, end: The range ``[first, end)``; ``end`` is -1 before it is cut.
        versions: Catalogue that the rows were made with, per block.
        block: Index of the block that is inserted next.
        has_producer: It has opened the dead-letter producer; others may have since.
        was_fenced: Whether its dead letters were sent is not known.
        sent_through: Last dead letter that it found sent.
    """

    at: str
    first: int = 0
    end: int = -1
    is_repeat: bool = False
    versions: tuple[int, ...] = ()
    block: int = 0
    has_producer: bool = False
    was_fenced: bool = False
    sent_through: int = -1


class Insert(NamedTuple):
    """The rows of one month of a range, under a token."""

    token: tuple[int | str, ...]
    first: int
    end: int
    month: str
    version: int


class Request(NamedTuple):
    """An insert on its way.

    Attributes:
        generation: Of the owner that sent it.
        is_awaited: Its owner waits for the answer.
        filled: Number of tables that it has passed.
    """

    insert: Insert
    generation: int
    is_awaited: bool = True
    filled: int = 0


class State(NamedTuple):
    """Everything there is; the owner of generation ``g`` is ``owners[g - 1]``.

    Attributes:
        declared: End of the declared range, -1 if none.
        tables: What is in the table, in view 1 and in view 2.
        dead_letters: Offsets, in the topic's order.
        producer: Generation that opened the dead-letter producer last.
        catalogue: Version that rows are made with now.
        inserting_from: Generations below may no longer insert; see `former_inserts_overlap`.
    """

    committed: int = 0
    declared: int = -1
    owners: tuple[Owner, ...] = ()
    tables: tuple[tuple[Insert, ...], ...] = ((), (), ())
    requests: tuple[Request, ...] = ()
    dead_letters: tuple[int, ...] = ()
    producer: int = 0
    catalogue: int = 0
    inserting_from: int = 0


class Move(NamedTuple):
    """One step.

    Attributes:
        generation: Of the owner that takes it or sent the request; 0 for the catalogue.
        value: End of a range that is cut (-1: none is), or index of the request.
    """

    name: str
    generation: int = 0
    value: int = -1


Moves = Iterator[tuple[Move, State]]


@dataclass(frozen=True)
class Protocol:
    """What can happen and what must not."""

    bounds: Bounds = Bounds()
    rules: Rules = Rules()

    def moves(self, state: State) -> Moves:
        """Yield every move that is possible now, with the state after it."""
        log = self.bounds.log
        if len(state.owners) < self.bounds.generations and state.committed < len(log):
            yield Move("assign", len(state.owners) + 1), self._assigned(state)
        if self.bounds.catalogue_changes and state.catalogue == 0:
            yield Move("change_catalogue"), state._replace(catalogue=1)
        for index in range(len(state.requests)):
            yield from self._request_moves(state, index)
        for generation, owner in enumerate(state.owners, 1):
            if owner.at not in ("idle", "stopped", "wait"):
                step = getattr(self, owner.at)
                yield from step(state, generation, owner)

    def is_done(self, state: State) -> bool:
        """Say whether all of the log is committed."""
        return state.committed == len(self.bounds.log)

    # --- The group -----------------------------------------------------------------------------

    def _assigned(self, state: State) -> State:
        """A new owner reads what is committed, and what is declared."""
        is_repeat = state.declared >= 0 and self.rules.declared_range_is_repeated
        at, end = ("make", state.declared) if is_repeat else ("declare", -1)
        owner = Owner(at, first=state.committed, end=end, is_repeat=is_repeat)
        return state._replace(owners=(*state.owners, owner))

    def _is_current(self, state: State, generation: int) -> bool:
        return generation == len(state.owners)

    # --- The owner's steps, in their order -------------------------------------------------------

    def _steps(self, owner: Owner) -> list[str]:
        """Return the steps of a range once it is declared."""
        rules = self.rules
        steps = ["make"]
        if owner.is_repeat and rules.stored_rows_are_read_back and self.months(owner):
            steps.append("read_back")
        if not rules.commit_comes_last:
            steps.append("commit_early")
        if self.months(owner):
            steps.append("insert")
        if self.refused(owner):
            steps += self._dead_letter_steps(owner)
        return [*steps, "commit"]

    def _dead_letter_steps(self, owner: Owner) -> list[str]:
        rules = self.rules
        steps = []
        if rules.dead_letters_are_fenced and not owner.has_producer:
            steps = ["fence", "confirm"] if rules.fencing_is_confirmed else ["fence"]
        if (owner.is_repeat or owner.was_fenced) and rules.dead_letters_are_looked_up:
            is_last = rules.fencing_precedes_reading_dead_letters
            steps.insert(len(steps) if is_last else 0, "read_dead_letters")
        return [*steps, "send"]

    def _after(self, step: str, owner: Owner) -> Owner:
        steps = self._steps(owner)
        return owner._replace(at=steps[steps.index(step) + 1])

    def declare(self, state: State, generation: int, owner: Owner) -> Moves:
        """Cut a range, of any length, and commit where it begins with where it ends."""
        is_refused = not self._is_current(state, generation)
        for end in range(owner.first + 1, len(self.bounds.log) + 1):
            move = Move("declare", generation, end)
            cut = owner._replace(at="make", end=end)
            if not self.rules.ranges_are_declared:
                yield move, _put(state, generation, cut)
            elif is_refused and self.rules.declaration_checks_generation:
                yield move, _put(state, generation, Owner("stopped"))
            else:
                after = state._replace(committed=owner.first, declared=end)
                yield move, _put(after, generation, cut)

    def make(self, state: State, generation: int, owner: Owner) -> Moves:
        """Make the rows with the catalogue as it is now."""
        versions = (state.catalogue,) * len(self.months(owner))
        made = self._after("make", owner)._replace(versions=versions, block=0)
        yield Move("make", generation), _put(state, generation, made)

    def read_back(self, state: State, generation: int, owner: Owner) -> Moves:
        """Take the rows of the range that the table has, as they are."""
        if not self.bounds.former_inserts_overlap:
            if any(request.generation < generation for request in state.requests):
                return
            state = state._replace(inserting_from=max(generation, state.inserting_from))
        stored = {
            each.month: each.version
            for each in state.tables[0]
            if owner.first <= each.first and each.end <= owner.end
        }
        made = zip(self.months(owner), owner.versions, strict=True)
        versions = tuple(stored.get(month, version) for month, version in made)
        moved = self._after("read_back", owner)._replace(versions=versions)
        yield Move("read_back", generation), _put(state, generation, moved)

    def insert(self, state: State, generation: int, owner: Owner) -> Moves:
        """Send the next block."""
        if len(state.requests) == self.bounds.requests or generation < state.inserting_from:
            return
        month = self.months(owner)[owner.block]
        token: tuple[int | str, ...] = (owner.first, owner.end, month)
        if not self.rules.tokens_follow_from_the_range:
            token = (generation, *token)
        insert = Insert(token, owner.first, owner.end, month, owner.versions[owner.block])
        after = _with_requests(state, (*state.requests, Request(insert, generation)))
        yield Move("insert", generation), _put(after, generation, owner._replace(at="wait"))

    def fence(self, state: State, generation: int, owner: Owner) -> Moves:
        """Open the dead-letter producer, which shuts out whoever had it."""
        moved = self._after("fence", owner)
        if moved.at != "confirm":
            moved = moved._replace(has_producer=True)
        yield (
            Move("fence", generation),
            _put(state._replace(producer=generation), generation, moved),
        )

    def confirm(self, state: State, generation: int, owner: Owner) -> Moves:
        """Ask the broker whether the partition is still ours."""
        moved = self._after("confirm", owner)._replace(has_producer=True)
        if not self._is_current(state, generation):
            moved = Owner("stopped")
        yield Move("confirm", generation), _put(state, generation, moved)

    def read_dead_letters(self, state: State, generation: int, owner: Owner) -> Moves:
        """Look up the last dead letter that was sent."""
        last = state.dead_letters[-1] if state.dead_letters else -1
        moved = self._after("read_dead_letters", owner)._replace(sent_through=last)
        if all(offset <= last for offset in self.refused(owner)):
            moved = moved._replace(at="commit")
        yield Move("read_dead_letters", generation), _put(state, generation, moved)

    def send(self, state: State, generation: int, owner: Owner) -> Moves:
        """Send the range's dead letters, all or none; who was shut out asks the broker first."""
        move = Move("send", generation)
        if self.rules.dead_letters_are_fenced and state.producer != generation:
            fenced = owner._replace(has_producer=False, was_fenced=True)
            after = fenced._replace(at=self._dead_letter_steps(fenced)[0])
            is_lost = self.rules.fencing_is_confirmed and not self._is_current(state, generation)
            yield move, _put(state, generation, Owner("stopped") if is_lost else after)
            return
        fresh = [each for each in self.refused(owner) if each > owner.sent_through]
        after_send = state._replace(dead_letters=(*state.dead_letters, *fresh))
        yield move, _put(after_send, generation, self._after("send", owner))

    def commit_early(self, state: State, generation: int, owner: Owner) -> Moves:
        """Break the protocol: commit before anything is stored."""
        after = state._replace(committed=owner.end, declared=-1)
        moved = self._after("commit_early", owner)
        yield Move("commit_early", generation), _put(after, generation, moved)

    def commit(self, state: State, generation: int, owner: Owner) -> Moves:
        """Commit the range, and declare the next one if it is cut already."""
        log_end = len(self.bounds.log)
        cuts = range(owner.end + 1, log_end + 1) if self.rules.ranges_are_declared else ()
        for end in (-1, *cuts):
            move = Move("commit", generation, end)
            if not self._is_current(state, generation):
                yield move, _put(state, generation, Owner("stopped"))
                continue
            at = "make" if end >= 0 else "declare" if owner.end < log_end else "idle"
            following = Owner(at, first=owner.end, end=end, has_producer=owner.has_producer)
            after = state._replace(committed=owner.end, declared=end)
            yield move, _put(after, generation, following)

    # --- ClickHouse ------------------------------------------------------------------------------

    def _request_moves(self, state: State, index: int) -> Moves:
        request = state.requests[index]
        generation = request.generation
        others = state.requests[:index] + state.requests[index + 1 :]
        owner = state.owners[generation - 1]
        is_filled = request.filled == len(state.tables)
        again = _put(state, generation, owner._replace(at="insert"))
        if is_filled:
            moved = owner._replace(block=owner.block + 1, at="insert")
            if moved.block == len(self.months(owner)):
                moved = self._after("insert", owner)
            after = _with_requests(_put(state, generation, moved), others)
            yield Move("answer", generation, index), after
        else:
            yield Move("fill", generation, index), self._filled(state, request, others)
            after = again if request.is_awaited else state
            yield Move("die", generation, index), _with_requests(after, others)
        if request.is_awaited:
            lost = () if is_filled else (request._replace(is_awaited=False),)
            yield Move("give_up", generation, index), _with_requests(again, (*others, *lost))

    def _filled(self, state: State, request: Request, others: tuple[Request, ...]) -> State:
        """Put the rows into the next table, unless its window has the token."""
        order = (0, 1, 2) if self.rules.table_fills_before_views else (1, 2, 0)
        index = order[request.filled]
        table = state.tables[index]
        has_window = index == 0 or self.rules.views_have_windows
        if not has_window or all(each.token != request.insert.token for each in table):
            table = tuple(sorted((*table, request.insert)))
        filled = request._replace(filled=request.filled + 1)
        is_over = filled.filled == len(state.tables) and not filled.is_awaited
        tables = (*state.tables[:index], table, *state.tables[index + 1 :])
        after = state._replace(tables=tables)
        return _with_requests(after, others if is_over else (*others, filled))

    # --- What must hold --------------------------------------------------------------------------

    def faults(self, state: State) -> list[str]:
        """Return what is wrong in a state: lost, doubled or differing records."""
        found = [
            f"dead letter doubled: {offset}"
            for offset in set(state.dead_letters)
            if state.dead_letters.count(offset) > 1
        ]
        for offset, letter in enumerate(self.bounds.log):
            is_committed = offset < state.committed
            if letter == REFUSED:
                if is_committed and offset not in state.dead_letters:
                    found.append(f"dead letter lost: {offset}")
                continue
            rows = [self._versions(table, offset) for table in state.tables]
            if max(map(len, rows)) > 1:
                found.append(f"row doubled: {offset}")
            elif is_committed and min(map(len, rows)) == 0:
                found.append(f"row lost: {offset}")
            elif len({each[0] for each in rows if each}) > 1:
                found.append(f"row differs between table and view: {offset}")
        return found

    def _versions(self, table: tuple[Insert, ...], offset: int) -> list[int]:
        letter = self.bounds.log[offset]
        return [
            each.version
            for each in table
            if each.first <= offset < each.end and each.month == letter
        ]

    def months(self, owner: Owner) -> list[str]:
        """Return the months of a range's valid records: its blocks, in order."""
        return sorted(set(self.bounds.log[owner.first : owner.end]) - {REFUSED})

    def refused(self, owner: Owner) -> list[int]:
        """Return the offsets of a range's refused records."""
        return [i for i in range(owner.first, owner.end) if self.bounds.log[i] == REFUSED]


def _put(state: State, generation: int, owner: Owner) -> State:
    owners = state.owners
    return state._replace(owners=(*owners[: generation - 1], owner, *owners[generation:]))


def _with_requests(state: State, requests: tuple[Request, ...]) -> State:
    return state._replace(requests=tuple(sorted(requests)))
