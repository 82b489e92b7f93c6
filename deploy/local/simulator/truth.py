"""What was produced, counted while it was made: the answer a recount must come to."""

from pathlib import Path
from typing import Any

import orjson
import polars as pl

from deploy.local.simulator.blocks import Block
from deploy.local.simulator.faults import FaultRatios, zeros
from schemas.errors import FatalError

_SUMS = (
    "tokens_prompt",
    "tokens_completion",
    "tokens_reasoning",
    "tokens_cached",
    "cost_nanousd",
)
_COUNTS = {"tokens_unknown": "tokens_prompt", "cost_given": "cost_nanousd"}
_MEASURES = ("records", *_COUNTS, *_SUMS)

Sums = dict[str, int]


class Truth:
    """Counts and sums of the records handed over for sending."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self.records = 0
        self.bytes = 0
        self.faults = dict.fromkeys(FaultRatios().names, 0)
        self.malformed = dict(zeros())
        self._sent: dict[str, Sums] = {}
        self._again: dict[str, Sums] = {}

    def add(self, block: Block) -> None:
        self.records += len(block.values)
        self.bytes += sum(map(len, block.values))
        for name, count in block.faults.items():
            self.faults[name] += count
        for kind, count in block.malformed.items():
            self.malformed[kind] += count
        self._add_facts(self._sent, block.facts)
        self._add_facts(self._again, block.facts.filter("again"))

    def _add_facts(self, into: dict[str, Sums], facts: pl.DataFrame) -> None:
        rows = facts.group_by("model").agg(
            pl.len().alias("records"),
            pl.col("tokens_prompt").is_null().sum().alias("tokens_unknown"),
            pl.col("cost_nanousd").is_not_null().sum().alias("cost_given"),
            *(pl.col(column).sum() for column in _SUMS),
        )
        for row in rows.iter_rows(named=True):
            sums = into.setdefault(self._names[row["model"]], dict.fromkeys(_MEASURES, 0))
            for measure in _MEASURES:
                sums[measure] += int(row[measure])

    def report(self) -> dict[str, Any]:
        """Return everything: ``valid`` is every valid record sent, ``distinct`` each event once."""
        malformed = sum(self.malformed.values())
        return {
            "records": self.records,
            "bytes": self.bytes,
            "malformed": malformed,
            "duplicates": self.faults["duplicates"],
            "faults": self.faults,
            "malformed_by_kind": self.malformed,
            "valid": _with_total(self._sent),
            "distinct": _with_total(_difference(self._sent, self._again)),
        }


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write the file whole or not at all.

    Raises:
        FatalError: If it cannot be written.
    """
    part = file.with_name(file.name + ".part")
    try:
        part.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
        part.replace(file)
    except OSError as error:
        raise FatalError(f"cannot write {file}: {error.strerror}") from None


def _difference(all_: dict[str, Sums], again: dict[str, Sums]) -> dict[str, Sums]:
    nothing = dict.fromkeys(_MEASURES, 0)
    return {
        name: {measure: sums[measure] - again.get(name, nothing)[measure] for measure in sums}
        for name, sums in all_.items()
    }


def _with_total(models: dict[str, Sums]) -> dict[str, Any]:
    total = {measure: sum(sums[measure] for sums in models.values()) for measure in _MEASURES}
    return {**total, "models": models}
