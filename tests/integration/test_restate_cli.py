"""``tokentide restate`` beside a worker that stores events, as users run it."""

from pathlib import Path
from typing import Any

import orjson
from click.testing import Result

from tests.conftest import invoke_tokentide
from tests.integration.test_exactly_once import event, send
from tests.integration.test_reconcile_cli import parts_in
from tests.integration.test_worker import Parts, wait_for, working

NAME = "acme-corp/brand-new-1"
BY_MODEL = "SELECT toString(model), count() FROM usage_events GROUP BY model ORDER BY model"


def run(parts: Parts, *options: str) -> Result:
    return invoke_tokentide("restate", *options, **parts.settings())


def told(parts: Parts, *options: str) -> dict[str, Any]:
    done = run(parts, "--format", "json", *options)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = orjson.loads(done.stdout)
    return found


def test_a_name_that_was_learned_late(tmp_path: Path) -> None:
    """Said first, then changed, rollups too; asked again, nothing is left; wrong options are refused."""
    with parts_in(tmp_path) as parts, working(parts):
        send(parts, [event(number, model_raw=NAME, cost_nanousd=None) for number in range(30)])
        send(parts, [event(number) for number in range(30, 50)])
        wait_for(lambda: parts.query("SELECT count() FROM usage_events") == [(50,)], "all requests")
        assert told(parts)["changes"] == []
        assert "Every row says" in run(parts).stdout
        edited = invoke_tokentide(
            "catalogue", "edit", "openai/gpt-4o", "--alias", NAME, **parts.settings()
        )
        assert edited.exit_code == 0, edited.output
        ((before,),) = parts.query("SELECT sum(ifNull(cost_nanousd, 0)) FROM usage_events")

        plan = run(parts).stdout
        assert "30 requests would change" in plan
        (change,) = told(parts)["changes"]
        was, becomes = change["was"], change["becomes"]
        assert (change["model_raw"], was, becomes) == (NAME, "unknown", "openai/gpt-4o")
        assert change["rows"] == 30
        assert change["nanousd_after"] > change["nanousd_before"] == 0
        assert dict(parts.query(BY_MODEL))["unknown"] == 30

        assert run(parts, "--apply").exit_code == 2
        done = run(parts, "--apply", "--note", "learned [red]late")
        assert done.exit_code == 0, done.output
        assert "30 requests restated in 1 month" in done.stdout
        assert "unknown" not in dict(parts.query(BY_MODEL))
        ((after, in_rollup),) = parts.query(
            "SELECT sum(ifNull(cost_nanousd, 0)), (SELECT sum(cost_nanousd) FROM usage_1d)"
            " FROM usage_events"
        )
        assert after == in_rollup == before + change["nanousd_after"]
        assert parts.query("SELECT note, rows FROM restatements WHERE state = 'done'") == [
            ("learned [red]late", 30)
        ]
        assert told(parts, "--apply", "--note", "again")["months_restated"] == []
        assert told(parts, "--month", "2020-01")["changes"] == []
        send(parts, [event(number) for number in range(50, 60)])
        wait_for(lambda: parts.query("SELECT count() FROM usage_events") == [(60,)], "new ones")
        checked = invoke_tokentide("reconcile", "--deep", **parts.settings())
        assert checked.exit_code == 0, checked.output
