"""Functions compiled to machine code by Numba, for loops over every byte of a batch.

They take pointers, not arrays: an array would be counted as held at each call and let go after it,
which took four times as long as the work itself. With ``NUMBA_DISABLE_JIT=1`` the same functions run
as plain Python and pointers are arrays that raise when an index is beyond their end: so tests look
for a read out of bounds.

What was compiled is kept beside the sources, by a digest of them all: Numba itself would look at the
file of the outermost function only, and go on with what it had compiled of another.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])
SOURCES = Path(__file__).parent


class Pointer(Protocol):
    """Numbers one after the other; nothing checks where they end."""

    def __getitem__(self, at: int, /) -> int: ...

    def __setitem__(self, at: int, value: int | np.uint64, /) -> None: ...


def _can_keep() -> bool:
    """Give Numba its directory; there may be none that can be written."""
    digest = hashlib.sha256()
    for source in sorted(SOURCES.glob("*.py")):
        digest.update(source.read_bytes())
    parent = Path(numba.config.CACHE_DIR or SOURCES / "__pycache__")  # type: ignore[attr-defined]
    directory = parent / f"compiled-{digest.hexdigest()[:16]}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    numba.config.CACHE_DIR = str(directory)  # type: ignore[attr-defined]
    return True


IS_KEPT = _can_keep()


def compiled(function: Function) -> Function:
    """Compile a function at its first call; it does not hold Python's lock while it runs."""
    return cast(Function, numba.njit(nogil=True, error_model="numpy")(function))


def compiled_once(function: Function) -> Function:
    """Compile a function with all that it calls, and keep the result if there is a place for it."""
    return cast(Function, numba.njit(nogil=True, error_model="numpy", cache=IS_KEPT)(function))


if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]

    def pointer(array: npt.NDArray[Any]) -> Pointer:
        """Return an array's numbers one after the other."""
        return cast(Pointer, memoryview(array.reshape(-1).data))

else:

    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def pointer(context: Any, array: Any) -> Any:  # noqa: ARG001
        """Return an array's numbers one after the other; called in compiled functions only."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return context.make_array(signature.args[0])(context, builder, arguments[0]).data

        return types.CPointer(array.dtype)(array), generate  # type: ignore[no-untyped-call]
