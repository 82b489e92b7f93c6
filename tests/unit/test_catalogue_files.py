"""The files of a catalogue: read alike, and each bad row named."""

import re
import shutil
from pathlib import Path

import pytest

from schemas.catalogue import (
    Price,
    load_directory,
    load_shipped,
)
from schemas.catalogue_files import SHIPPED_DIRECTORY
from schemas.errors import ConfigurationError
from tests.catalogue import ms

FILES = ("models.csv", "aliases.csv", "price_history.csv")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the shipped files that a test may damage."""
    for name in FILES:
        shutil.copyfile(SHIPPED_DIRECTORY / name, tmp_path / name)
    return tmp_path


def test_copied_files_load_equal(directory: Path) -> None:
    """A directory with the same files is the same catalogue."""
    assert load_directory(directory) == load_shipped()


@pytest.mark.parametrize(
    ("file", "pattern", "replacement", "message"),
    [
        ("models.csv", r"^01-ai/yi-1\.5-34b-chat,(.*),CN,true,", r"01-ai/yi-1.5-34b-chat,\1,CN,yes,", "line 2: open_weights: must be true, false or blank, is 'yes'"),
        ("models.csv", r"^01-ai/yi-1\.5-34b-chat,(.*),CN,true,", r"01-ai/yi-1.5-34b-chat,\1,China,true,", "line 2: vendor_country: out of range"),
        ("models.csv", ",34,34,none,", ",34,many,none,", "line 2: active_params_b: must be a number or blank, is 'many'"),
        ("models.csv", ",34,34,none,", ",34,nan,none,", "line 2: active_params_b: out of range"),
        ("models.csv", "2024-05-13", "13.05.2024", "line 2: release_date: out of range"),
        ("models.csv", "^01-ai/yi-34b,", "01-ai/yi-1.5-34b-chat,", "line 3: model_id: 01-ai/yi-1.5-34b-chat is already in line 2"),
        ("models.csv", "^01-ai/yi-34b,", "01-ai/yi-34b,,", "line 3: must have 18 columns"),
        ("models.csv", "vendor_country", "country", "line 1: column vendor_country is missing"),
        ("aliases.csv", ",01-ai/yi-34b,", ",01-ai/yi-35b,", "line 2: model_id: '01-ai/yi-35b' is not in models.csv"),
        ("price_history.csv", "2025-05-07", "yesterday", "line 2: as_of: must be a date, YYYY-MM-DD, is 'yesterday'"),
        ("price_history.csv", ",3,3$", ",3,", "line 2: price_completion_usd_per_mtok: must be a number, is ''"),
        ("price_history.csv", ",3,3$", ",-3,3", "line 2: price_prompt_usd_per_mtok: must be from 0 to 100000, is '-3'"),
        ("price_history.csv", ",3,3$", ",0.0000001,3", "line 2: price_prompt_usd_per_mtok: must have at most 6 decimals, is '0.0000001'"),
    ],
)  # fmt: skip
def test_bad_row_is_named(
    directory: Path, file: str, pattern: str, replacement: str, message: str
) -> None:
    """The first bad row stops the reading, with file, line and column."""
    path = directory / file
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_directory(directory)
    assert str(caught.value) == f"{path} {message}"


def test_price_column_must_repeat_the_history(directory: Path) -> None:
    """A price changed in models.csv only would never be used, so it is refused."""
    path = directory / "models.csv"
    lines = path.read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith("openai/gpt-4o,"))
    assert ",2.5,10," in lines[at]
    lines[at] = lines[at].replace(",2.5,10,", ",2.6,10,")
    path.write_text("".join(lines))
    with pytest.raises(
        ConfigurationError, match=r"price_prompt_usd_per_mtok: is 2\.6, not the last"
    ):
        load_directory(directory)


def test_missing_file_is_named(directory: Path) -> None:
    """A directory without one of the files says which."""
    (directory / "aliases.csv").unlink()
    with pytest.raises(ConfigurationError, match=r"cannot read .*aliases\.csv: No such file"):
        load_directory(directory)


def test_prices_of_one_day_follow_the_order_of_sources(tmp_path: Path) -> None:
    """OpenRouter's capture beats compilations, an operator's own source beats it, first row of a tie."""
    (tmp_path / "models.csv").write_text(
        (SHIPPED_DIRECTORY / "models.csv").read_text().splitlines()[0]
        + "\nacme/a" + "," * 15 + "9,9,\n"
    )  # fmt: skip
    (tmp_path / "aliases.csv").write_text("alias,model_id,kind,source\n")
    (tmp_path / "price_history.csv").write_text(
        "model_id,as_of,source,price_prompt_usd_per_mtok,price_completion_usd_per_mtok\n"
        "acme/a,2026-01-01,modelsdev-openrouter,1,1\n"
        "acme/a,2026-01-01,or-2026-01-01,2,2\n"
        "acme/a,2026-01-01,or-2026-01-01,3,3\n"
        "acme/a,2026-01-02,or-2026-01-02,2,2\n"
        "acme/a,2026-01-03,contract,9,9\n"
        "acme/a,2026-01-03,or-2026-01-03,4,4\n"
    )
    found = load_directory(tmp_path).models["acme/a"]
    assert found.prices == (
        Price(ms(2026, 1, 1), 2_000_000, 2_000_000),
        Price(ms(2026, 1, 3), 9_000_000, 9_000_000),
    )
