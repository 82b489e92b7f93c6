"""Everything that was produced is in the tables, once, whatever dies meanwhile."""

from pathlib import Path

import pytest

from tests.e2e.scenario import Plan, run


@pytest.mark.timeout(600)
def test_sql_equals_an_independent_recount_though_the_worker_is_killed(tmp_path: Path) -> None:
    """Counts, sums, shares and dead letters equal a plain recount of what was sent, exactly.

    The worker is killed with -9 four times in the middle. Then the stack is stopped and started again:
    nothing changes, new events come on top, no process is left.
    """
    result = run(Plan(events=60_000, kills=4, batch_rows_max=2_000), tmp_path, print)
    assert not result.differences, "\n".join(result.differences)
    assert len(result.kills) == 4
    assert result.expected.stored > 58_000
    assert result.expected.refused.total() > 200
    assert result.expected.duplicates > 200
