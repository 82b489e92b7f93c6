"""The short form of ``make study``: what does not need many requests comes out as published."""

import re
from pathlib import Path

from tests.e2e.study import checked, loaded

EVENTS = 300_000
# Cells that a short form has too few requests for: sampled categories, cohorts and rare models.
NEEDS_MANY = {7, 8, 9, 10, 17, 19, 20, 21, 22, 23, 28, 29, 30, 31, 32}


def test_published_numbers_come_out_of_sql(tmp_path: Path) -> None:
    """Those of shares, authors, lengths and places, through Kafka, worker and ClickHouse."""
    with loaded(tmp_path, EVENTS):
        text = checked(tmp_path)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if re.match(r"\| \d", line)
    ]
    assert len(rows) > 90
    missed = [row for row in rows if int(row[0]) not in NEEDS_MANY and row[5] != "yes"]
    assert not missed
    assert all(row[4] != "none" for row in rows)
