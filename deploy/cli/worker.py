"""``tokentide worker``: store usage events until stopped."""

import os
import sys
from pathlib import Path

import click

from deploy.cli.stack import data_dir_option, settings_for

# Set before the allocator is first used. Large buffers come and go with every batch: returning them
# to the kernel each time costs a page fault per 4 KiB. They come and go in several threads: with one
# arena, and with Arrow's buffers in it, what one thread frees another one uses.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    "MALLOC_ARENA_MAX": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


@click.command()
@data_dir_option
def worker(data_dir: Path | None) -> None:
    """Read usage events from Kafka, enrich them and write ClickHouse, until stopped.

    Several workers share the partitions of the usage topic. SIGTERM or Ctrl-C lets the ranges in
    flight land, for 10 seconds at most; the next owner repeats what is cut short, and nothing is
    stored twice.

    Health: http://HOST:PORT/livez, /readyz (503 with the reasons) and /metrics (Prometheus), at
    TOKENTIDE_WORKER_HOST and TOKENTIDE_WORKER_PORT.
    """
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, "-m", "deploy.cli.main", *sys.argv[1:]])
    # Imported here: only now is the environment right.
    from deploy.worker import run

    run(settings_for(data_dir))
