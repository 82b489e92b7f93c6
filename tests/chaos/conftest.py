"""One broker, one engine and one proxy for all chaos tests of a pytest process."""

from collections.abc import Iterator

import pytest

from tests.chaos.stage import Stage, stage

SEED = 4
BATCH_ROWS_MAX = 600
"""Fewer than a worker that comes back is given, which would cut other ranges."""
REQUEST_TIMEOUT_SECONDS = 60
"""An insert that is given up on a machine that is busy, and repeated, keeps it busy for good."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The stage, whatever state the test before has left it in."""
    with stage(tmp_path_factory.mktemp("chaos")) as found:
        found.settings["batch_rows_max"] = BATCH_ROWS_MAX
        found.settings["clickhouse_request_timeout_seconds"] = REQUEST_TIMEOUT_SECONDS
        yield found


@pytest.fixture
def calm(shared: Stage) -> Stage:
    """The stage with no fault in force and nothing waiting."""
    shared.proxy.lift()
    shared.skip_to_end()
    return shared
