"""64-bit hashes of texts, by compiled loops."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.compiled import compiled_once, pointer

UInt64s = npt.NDArray[np.uint64]

FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
"""Of Fowler, Noll and Vo's hash FNV-1a with 64 bits."""
MIX_SHIFT = np.uint64(33)
MIX_FACTORS = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)


def text_hashes(texts: pa.Array, seeds: UInt64s) -> UInt64s:
    """Return a hash of each text and its seed; null is as "".

    Args:
        texts: Strings, at most 2 GiB together.
        seeds: One for each of them.

    Source:
        FNV-1a by Fowler, Noll and Vo, 64 bits, then the last step of Appleby's MurmurHash3, so that
        every bit of a seed and of the last bytes reaches every bit of the hash.
    """
    texts = texts.cast(pa.string())
    texts = texts.cast(pa.string())
    hashes = np.empty(len(texts), dtype=np.uint64)
    _, places, data = texts.buffers()
    if len(texts):
        _hash(
            # Read-only like the first one that was compiled for, whoever made it.
            np.frombuffer(memoryview(data or b"").toreadonly(), dtype=np.uint8),
            np.frombuffer(places, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1],
            seeds,
            hashes,
        )
    return hashes


@compiled_once
def _hash(
    data: npt.NDArray[np.uint8], places: npt.NDArray[np.int32], seeds: UInt64s, hashes: UInt64s
) -> None:
    byte: Any = pointer(data)
    for text in range(len(seeds)):
        hashed = FNV_OFFSET ^ seeds[text]
        for at in range(places[text], places[text + 1]):
            hashed = (hashed ^ np.uint64(byte[at])) * FNV_PRIME
        for factor in MIX_FACTORS:
            hashed = (hashed ^ (hashed >> MIX_SHIFT)) * factor
        hashes[text] = hashed ^ (hashed >> MIX_SHIFT)
