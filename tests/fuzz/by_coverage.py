"""Bytes led by coverage through the decode path: ``make fuzzbytes``. Needs atheris.

Atheris watches which branches of our Python code an input takes, and keeps those that took a new one.
The first two bytes seed how values lie in record batches; a NUL NUL splits the rest into values.
Compiled loops run as plain Python here: so their branches are seen, and a read beyond the end raises.
"""

import os
import sys
import tempfile
from pathlib import Path
from random import Random

import numpy as np

os.environ["NUMBA_DISABLE_JIT"] = "1"  # Before Numba is imported.
np.seterr(over="ignore")  # Hashes overflow, as they should.

try:
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]
except ImportError:
    sys.exit("atheris is not installed: .venv/bin/pip install atheris==3.0.0")

with atheris.instrument_imports(include=["schemas", "streams"]):
    from schemas.usage_event import FIELDS
    from tests.fuzz.checking import check
    from tests.fuzz.mutating import PIECES, SCALARS, seeds

SEPARATOR = b"\x00\x00"


def check_bytes(data: bytes) -> None:
    """Take the bytes apart and check them."""
    seed, *values = int.from_bytes(data[:2], "big"), *data[2:].split(SEPARATOR)
    check(values, Random(seed))


def main() -> None:
    """Run until stopped; options are libFuzzer's."""
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name)
        for number, value in enumerate(seeds()):
            (corpus / f"{number:03}").write_bytes(b"\x00\x01" + value)
        words = corpus.with_suffix(".dict")
        texts = [each.encode("utf-8", "surrogatepass") for each in SCALARS]
        names = [f'"{field.name}":'.encode() for field in FIELDS]
        words.write_text("".join(f'"{escaped(each)}"\n' for each in (*texts, *names, *PIECES)))
        atheris.Setup([*sys.argv, f"-dict={words}", str(corpus)], check_bytes)
        atheris.Fuzz()


def escaped(word: bytes) -> str:
    """Return a word as libFuzzer's dictionaries spell it."""
    return "".join(f"\\x{each:02x}" for each in word)


if __name__ == "__main__":
    main()
