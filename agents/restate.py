"""Give stored rows what the catalogue knows now: what would change, and the change.

Guarantee: reads only, unless told to apply. A restatement that was stopped is finished by the next.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from schemas.catalogue import UNKNOWN, Catalogue
from schemas.errors import FatalError
from schemas.model import FREE_VARIANT, UNPRICED_VARIANTS
from sinks.reconciling import Engine, Frontier, Say, silent
from sinks.restating import (
    Meaning,
    NameChange,
    finish_stopped,
    names_table,
    planned,
    restate_month,
    stored_months,
    stored_names,
)
from streams.enriching import texts_of

NOTE_CHARACTERS_MAX = 500


@dataclass(frozen=True)
class Restatement:
    """What a run found and did.

    Attributes:
        changes: By month and name, as they were before it.
        months: Those that were restated.
        finished: Months of a run that was stopped, and what became of it: ``done`` or ``dropped``.
    """

    changes: tuple[NameChange, ...]
    months: tuple[int, ...] = ()
    finished: tuple[tuple[int, str], ...] = ()


def meaning_of(name: str, catalogue: Catalogue) -> Meaning:
    """Return what a raw model name means: as enrichment would say."""
    resolution = catalogue.resolve(name) if name else None
    texts = tuple(text or UNKNOWN for text in texts_of(resolution))
    if resolution is None:
        return Meaning(name, texts)
    model, variant = resolution.model, resolution.variant
    return Meaning(
        name,
        texts,
        model.total_params_b,
        model.active_params_b,
        () if variant in UNPRICED_VARIANTS else model.prices,
        variant == FREE_VARIANT,
    )


def restate(
    engine: Engine,
    frontier: Callable[[], Frontier],
    catalogue: Catalogue,
    *,
    months: Iterable[int] | None = None,
    apply: bool = False,
    note: str = "",
    say: Say = silent,
) -> Restatement:
    """Compare what rows say of their models with the catalogue; make them say the same if told to.

    Args:
        frontier: Returns the committed offsets as they are now.
        months: ``YYYYMM``; all that have rows by default.
        note: Why, for the log; needed to apply.

    Raises:
        FatalError: Another repair is under way, a note is missing, or the result differs.
        RetryableError: A month was written to all the while; those before it are done.
        SinkUnavailableError: ClickHouse does not answer.
    """
    if apply and not 0 < len(note.strip()) <= NOTE_CHARACTERS_MAX:
        raise FatalError(f"a note of 1 to {NOTE_CHARACTERS_MAX} characters must say why")
    finished = finish_stopped(engine, frontier, say) if apply else []
    stored = stored_months(engine)
    chosen = stored if months is None else sorted(set(months) & set(stored))
    if not chosen:
        return Restatement((), (), tuple(finished))
    meanings = [meaning_of(name, catalogue) for name in stored_names(engine, chosen)]
    with names_table(engine, meanings) as names:
        plan: dict[int, Sequence[NameChange]] = {}
        for month in chosen:
            say(f"looking at {month}")
            plan[month] = planned(engine, names, month)
        changing = [month for month in chosen if plan[month]]
        if apply:
            for month in changing:
                restate_month(engine, frontier, names, plan[month], note.strip(), say=say)
    changes = tuple(change for month in chosen for change in plan[month])
    return Restatement(changes, tuple(changing) if apply else (), tuple(finished))
