"""Send a great many nasty values through the decode path: ``make fuzz INPUTS=1000000``."""

import argparse
import sys
import time
from collections import Counter
from random import Random, SystemRandom

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from tests.fuzz.checking import check, smallest
from tests.fuzz.mutating import Mutator


def fuzz(inputs: int, seed: int, progress: Progress | None = None) -> Counter[str]:
    """Check ``inputs`` values; return what became of them: ``stored``, or the reason of refusal.

    Raises:
        AssertionError: With the smallest values that fail.
    """
    became: Counter[str] = Counter()
    task = progress.add_task("values", total=inputs) if progress else None
    for number, values in enumerate(Mutator(seed).batches(inputs)):
        try:
            outcome = check(values, Random(number))
        except Exception as error:
            few = smallest(values, number)
            raise AssertionError(
                f"seed {seed}, lot {number}: {type(error).__name__}: {str(error)[:300]}\n"
                f"smallest: check({few!r:.3000}, Random({number}))"
            ) from error
        became += outcome.reasons
        became["stored"] += outcome.rows
        if progress and task is not None:
            progress.advance(task, len(values))
    return became


def main() -> None:
    """Fuzz with options from the command line; print what became of the values."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    begin = time.monotonic()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    print(f"seed {options.seed}")
    with Progress(*columns, console=Console(stderr=True)) as progress:
        try:
            became = fuzz(options.inputs, options.seed, progress)
        except AssertionError as error:
            sys.exit(str(error))
    for name, count in became.most_common():
        print(f"{count:>10,}  {name}")
    print(f"{became.total():>10,}  values in {time.monotonic() - begin:.0f} s")
    assert became.total() == options.inputs


if __name__ == "__main__":
    main()
