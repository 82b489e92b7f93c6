"""Text columns as codes into a short list of distinct values, as Arrow and ClickHouse keep them.

Whatever must be decided about a text is decided once per distinct value, in plain Python, by the
same function that the strict decoder uses; the rows only carry its code.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Codes = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Coded:
    """A text column: row ``i`` is ``values[codes[i]]``, or null where the code is -1."""

    codes: Codes
    values: tuple[str | None, ...]

    def map(self, change: Callable[[str], str | None]) -> "Coded":
        """Return the column with each distinct value changed; equal results share a code."""
        return self.replace([None if value is None else change(value) for value in self.values])

    def replace(self, new_values: Sequence[str | None]) -> "Coded":
        """Return the column with ``new_values[i]`` in place of ``values[i]``."""
        code_of: dict[str, int] = {}
        codes = [
            -1 if value is None else code_of.setdefault(value, len(code_of)) for value in new_values
        ]
        if codes == list(range(len(codes))):
            return Coded(self.codes, tuple(code_of))
        # The last entry is what code -1 picks.
        return Coded(np.array([*codes, -1], dtype=np.int32)[self.codes], tuple(code_of))

    def fill(self, missing: str) -> "Coded":
        """Return the column with ``missing`` in place of null."""
        if not len(self.codes) or self.codes.min() >= 0:
            return self.replace([missing if value is None else value for value in self.values])
        code_of: dict[str, int] = {}
        # The last entry is what code -1 picks.
        texts = [missing if value is None else value for value in (*self.values, missing)]
        codes = [code_of.setdefault(text, len(code_of)) for text in texts]
        return Coded(np.array(codes, dtype=np.int32)[self.codes], tuple(code_of))

    def pick(self, per_value: Sequence[Any], missing: Any, dtype: Any) -> npt.NDArray[Any]:
        """Return ``per_value`` of each row's value, ``missing`` for null."""
        return np.array([*per_value, missing], dtype=dtype)[self.codes]

    def take(self, keep: Mask) -> "Coded":
        """Return the rows where ``keep`` is true."""
        if keep.all():
            return self
        return Coded(self.codes[keep], self.values)

    def to_arrow(self, missing: str) -> pa.DictionaryArray:
        """Return the column for an insert, null as the text ``missing``."""
        filled = self.fill(missing)
        return pa.DictionaryArray.from_arrays(
            pa.array(filled.codes), pa.array(filled.values, pa.string())
        )


def encode_values(values: Sequence[str | None]) -> Coded:
    """Return a list of texts as codes."""
    code_of: dict[str, int] = {}
    codes = [-1 if v is None else code_of.setdefault(v, len(code_of)) for v in values]
    return Coded(np.array(codes, dtype=np.int32), tuple(code_of))


def join(parts: Sequence[Coded]) -> Coded:
    """Return the rows of each part, one part after the other."""
    shifts = np.cumsum([0, *(len(each.values) for each in parts[:-1])])
    moved = [
        np.where(each.codes < 0, np.int32(-1), each.codes + np.int32(shift))
        for each, shift in zip(parts, shifts, strict=True)
    ]
    both = Coded(np.concatenate(moved), tuple(chain.from_iterable(each.values for each in parts)))
    return both.replace(both.values)
