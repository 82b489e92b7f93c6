"""What runs, and what is refused before anything runs."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from sinks.migrate import SHARE_VIEWS, Applied, Script, migrations, plan, render, views

AT = datetime(2026, 11, 24, tzinfo=UTC)
ONE, TWO, THREE = (Script(n, f"000{n}_step", f"SELECT {n}") for n in (1, 2, 3))
VIEW = Script(0, "a_view", "CREATE OR REPLACE VIEW a_view AS SELECT 1")


def applied(script: Script) -> Applied:
    return Applied(script.version, script.name, script.sha256, AT)


def test_an_empty_database_runs_everything_in_order() -> None:
    """Nothing applied: every script is pending."""
    steps = plan([ONE, TWO, VIEW], [])
    assert [(step.script, step.pending) for step in steps] == [
        (ONE, True),
        (TWO, True),
        (VIEW, True),
    ]


def test_what_ran_does_not_run_again() -> None:
    """Only what is new is pending; what ran says when."""
    steps = plan([ONE, TWO, VIEW], [applied(ONE), applied(VIEW)])
    assert [step.pending for step in steps] == [False, True, False]
    assert [step.applied_at for step in steps] == [AT, None, AT]


def test_a_changed_view_is_replaced() -> None:
    """A view holds no data: its new text runs."""
    changed = dataclasses.replace(VIEW, sql=VIEW.sql + "+ 1")
    assert [step.pending for step in plan([ONE, changed], [applied(ONE), applied(VIEW)])] == [
        False,
        True,
    ]


def test_a_changed_migration_is_refused() -> None:
    """Editing what ran would leave databases that differ under one number."""
    changed = dataclasses.replace(ONE, sql="SELECT 11")
    with pytest.raises(ConfigurationError, match="0001_step was changed after it ran"):
        plan([changed, TWO], [applied(ONE)])


def test_a_newer_database_is_refused() -> None:
    """An old program does not touch a schema that it does not know."""
    with pytest.raises(ConfigurationError, match="0002_step, which this version"):
        plan([ONE], [applied(ONE), applied(TWO)])


def test_a_gap_in_what_ran_is_refused() -> None:
    """A later migration without the one before it."""
    with pytest.raises(ConfigurationError, match="0002_step did not run but a later one did"):
        plan([ONE, TWO, THREE], [applied(ONE), applied(THREE)])


def test_a_gap_in_the_files_is_refused(tmp_path: Path) -> None:
    """Numbers are consecutive from 1."""
    (tmp_path / "0001_a.sql").write_text("SELECT 1")
    (tmp_path / "0003_c.sql").write_text("SELECT 3")
    with pytest.raises(ConfigurationError, match="0003_c found where number 0002"):
        migrations(tmp_path)


def test_a_number_used_twice_is_refused(tmp_path: Path) -> None:
    """Two files of one number have no order."""
    (tmp_path / "0001_a.sql").write_text("SELECT 1")
    (tmp_path / "0001_b.sql").write_text("SELECT 2")
    with pytest.raises(ConfigurationError, match="0001_b found where number 0002"):
        migrations(tmp_path)


def test_statements_end_where_a_line_ends_in_a_semicolon() -> None:
    """A semicolon inside a line does not cut; the database name is filled in."""
    script = Script(1, "0001_x", "SELECT ';' FROM {database}.a;\n\nSELECT 2;\n")
    assert script.statements("d") == ["SELECT ';' FROM d.a", "SELECT 2"]


def test_the_hash_does_not_depend_on_the_database_name() -> None:
    """The same files are up to date under any name."""
    assert ONE.sha256 == Script(1, "other", ONE.sql).sha256


def test_rendering_keeps_parameters_of_views() -> None:
    """{name} is ours, {name:Type} is ClickHouse's, an unknown name is an error."""
    assert render("{database}.x {top_n:UInt32}", {"database": "d"}) == "d.x {top_n:UInt32}"
    with pytest.raises(KeyError):
        render("{databse}", {"database": "d"})


REPEATABLE = (
    "IF NOT EXISTS",
    "IF EXISTS",
    "OR REPLACE",
    "MODIFY SETTING",
    "MODIFY COLUMN",
    "RESET SETTING",
)


def test_shipped_scripts_are_complete() -> None:
    """Every migration and view renders, views that read others come after them."""
    assert [script.version for script in migrations()] == list(range(1, len(migrations()) + 1))
    names = [script.name for script in views()]
    assert {f"share_by_{view.name}" for view in SHARE_VIEWS} <= set(names)
    assert names.index("share_last_hour") > names.index("share_by_model")
    assert names.index("study_02_weekly_volume") > names.index("study_01_open_and_closed")
    for script in [*migrations(), *views()]:
        for statement in script.statements("d"):
            assert statement.startswith(("CREATE ", "ALTER ", "--"))
            # Whatever is done a second time does nothing.
            assert any(words in statement for words in REPEATABLE), statement
