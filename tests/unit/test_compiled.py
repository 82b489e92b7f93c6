"""Compiled loops in other circumstances: as plain Python, changed, without a place for what is compiled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT


def test_no_compiled_loop_reads_beyond_the_text() -> None:
    """The tests of these loops hold without Numba's compiler too."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"),
            *("-W", "ignore:overflow encountered:RuntimeWarning"),
            *(f"tests/{name}.py" for name in PLAINLY),
        ],
        cwd=PROJECT,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stdout[-3000:]


PLAINLY = (
    "unit/test_scanning",
    "unit/test_splitting",
    "property/test_decoding",
    "property/test_sorted_ids",
)
READ_ZERO = """
from streams.compiled import IS_KEPT
from streams.scanning import scan
line = b'{"schema_version":1,"event_id":"a","source":"b","occurred_at":"2026-05-28T20:26:39Z",'
line += b'"model_raw":"m","attempt":0,"status":"error"}\\n'
print(IS_KEPT, scan(line, 1).doubt[0])
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the sources, with nothing compiled yet."""
    for name in ("schemas", "streams"):
        shutil.copytree(
            PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path


def read_zero(sources: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", READ_ZERO],
        cwd=sources,
        env={**os.environ, "PYTHONPATH": str(sources)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_change_of_any_source_is_compiled(sources: Path) -> None:
    """Also one that stands in another file than the function that calls it."""
    assert read_zero(sources) == "True 0\n"
    kept = sorted(sources.rglob("*.nbc"))
    assert kept
    assert read_zero(sources) == "True 0\n"
    assert sorted(sources.rglob("*.nbc")) == kept
    values = sources / "streams" / "json_values.py"
    values.write_text(values.read_text().replace("= 0x30, 0x39", "= 0x31, 0x39", 1))
    assert read_zero(sources) == "True 1\n"


def test_without_a_place_for_it_each_process_compiles(sources: Path) -> None:
    """A package that cannot be written works all the same."""
    (sources / "streams" / "__pycache__").write_text("a file where a directory would be")
    assert read_zero(sources) == "False 0\n"


CHECK_A_RANGE = """
from deploy import worker
from streams import scanning, seen_ids, sorted_ids, splitting, text_hashes
from streams.batches import Batch
from streams.decoding import decode
from streams.record_batches import keep_whole
from faust.types import TP

def compiled():
    return {
        f"{module.__name__}.{name}": len(function.signatures)
        for module in (scanning, sorted_ids, splitting, text_hashes)
        for name, function in vars(module).items()
        if hasattr(function, "signatures")
    }

class Nothing:
    def newest_second(self, partition):
        return None

worker.load_compiled()
before = compiled()
line = b'{"schema_version":1,"event_id":"a","source":"b","occurred_at":"2026-05-28T20:26:39Z",'
line += b'"model_raw":"m","attempt":0,"status":"error"}'
records = keep_whole([line], None, 0, 1, 1_780_000_000_000)
batch = Batch(TP("t", 0), [records], 0, 1)
seen = seen_ids.SeenIds(0, Nothing(), ids_max=10, window_ms=86_400_000_000)
seen.remember(seen.check(decode([records]).events, batch))
assert len(seen) == 1
print({name: count for name, count in compiled().items() if count != before[name]})
"""


def test_nothing_is_left_to_compile_for_the_first_range() -> None:
    """A worker compiles before it joins its group: later its partitions would wait for it."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK_A_RANGE],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "{}\n"
