"""How long each stage of the path takes, in wall and in CPU time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, disable_created_metrics

SECONDS = Counter("tokentide_stage_seconds", "Wall time by stage.", ["stage"])
CPU_SECONDS = Counter("tokentide_stage_cpu_seconds", "CPU time of the thread, by stage.", ["stage"])

# When a series was made says nothing that its value does not.
disable_created_metrics()  # type: ignore[no-untyped-call]

STAGES = ("fetch", "decode", "check", "enrich", "build", "insert", "panes", "windows")
for _stage in STAGES:
    SECONDS.labels(_stage)
    CPU_SECONDS.labels(_stage)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the time spent inside; ``name`` is one of `STAGES`."""
    wall, cpu = time.perf_counter(), time.thread_time()
    try:
        yield
    finally:
        SECONDS.labels(name).inc(time.perf_counter() - wall)
        CPU_SECONDS.labels(name).inc(time.thread_time() - cpu)
