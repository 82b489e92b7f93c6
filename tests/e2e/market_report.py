"""A real report about a real market: OpenRouter's 91 published days of 2026. ``make market-report``."""

import shutil
import tempfile
from pathlib import Path

from deploy.local.published import openrouter_days
from tests.conftest import run_tokentide, running_stack

EXAMPLE = Path(__file__).parents[2] / "deploy" / "report" / "examples" / "market-2026"
SECONDS_MAX = 1_800
FROM, TO = "2026-05-23", "2026-08-22"
NOTE = (
    "OpenRouter's public daily ranking of 23 May to 21 August 2026, replayed as requests through the"
    " whole of tokentide: tokens of each model and day are the published ones, divided by one number."
    " What is outside a day's first 50 models is unknown. Single requests are simulated: their"
    " lengths, callers, users, categories, tool calls and prices paid say nothing about that market."
)


def main() -> None:
    """Replay, store, write."""
    with (
        tempfile.TemporaryDirectory(prefix="tokentide-market-") as directory,
        running_stack(Path(directory), "--no-simulator"),
    ):
        at = ("--data-dir", directory)
        for command in (
            ("replay", "openrouter-2026"),
            ("status", "--wait", "--timeout", str(SECONDS_MAX)),
        ):
            done = run_tokentide(*command, *at, timeout_seconds=SECONDS_MAX + 60)
            assert done.returncode == 0, done.stderr
        shutil.rmtree(EXAMPLE, ignore_errors=True)
        done = run_tokentide(
            "report", "--from", FROM, "--to", TO, "--note", NOTE, "--out", str(EXAMPLE), *at,
            timeout_seconds=SECONDS_MAX,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    print(f"{len(openrouter_days())} days; {done.stdout.strip()}")


if __name__ == "__main__":
    main()
