"""Arrows between folders go one way: deploy -> agents -> streams, sinks -> schemas."""

import ast
import gc
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
MAY_IMPORT = {
    "schemas": {"schemas"},
    "streams": {"schemas", "streams"},
    "sinks": {"schemas", "sinks"},
    "agents": {"schemas", "streams", "sinks", "agents"},
    "deploy": {"schemas", "streams", "sinks", "agents", "deploy"},
}


def imported(file: Path) -> set[str]:
    """Return the top-level names that a file imports, wherever in it."""
    names: set[str] = set()
    # Python 3.11 takes a collection of garbage within the parser for a fault of its own.
    gc.disable()
    try:
        tree = ast.parse(file.read_text())
    finally:
        gc.enable()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_lies_below_it(folder: str) -> None:
    """No file of a folder imports one above it, nor the tests."""
    ours = {*MAY_IMPORT, "tests"}
    for file in (PROJECT / folder).rglob("*.py"):
        assert imported(file) & ours <= MAY_IMPORT[folder], file


def test_sinks_are_given_values() -> None:
    """Sinks never read settings, and only streams and the agents know Faust."""
    for file in (PROJECT / "sinks").rglob("*.py"):
        assert not imported(file) & {"pydantic_settings", "faust"}, file
    for file in (PROJECT / "schemas").rglob("*.py"):
        assert "faust" not in imported(file), file
