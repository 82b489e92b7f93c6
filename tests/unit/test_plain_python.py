"""Compiled loops once more as plain Python, where a read beyond the end of the text raises."""

import os
import subprocess
import sys

from tests.conftest import PROJECT


def test_no_compiled_loop_reads_beyond_the_text() -> None:
    """The tests of the pass and of the decoder hold without Numba's compiler too."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"),
            *("-W", "ignore:overflow encountered:RuntimeWarning"),
            *("tests/unit/test_scanning.py", "tests/property/test_decoding.py"),
        ],
        cwd=PROJECT,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stdout[-3000:]
