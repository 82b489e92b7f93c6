"""The catalogue: what names mean, what models are, what requests cost, and what bad data says.

Facts are checked against the vendors' own statements and the published ranking, not our output.
"""

import csv
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from click import UsageError

from deploy.cli.catalogue import edited, plan_publish
from deploy.cli.catalogue_topic import Stored
from schemas.catalogue import (
    VARIANTS,
    Catalogue,
    Model,
    Price,
    decode_model,
    encode_model,
    list_cost_nanousd,
    load_directory,
    load_shipped,
    origin,
    price_at,
    size_class,
)
from schemas.catalogue_files import SHIPPED_DIRECTORY, picousd_per_token
from schemas.errors import ConfigurationError, Reason, RecordError
from schemas.model import PICOUSD_PER_TOKEN_MAX

RANKINGS = Path(__file__).parents[2] / "deploy/local/data/openrouter_daily/rankings_daily.csv"
FILES = ("models.csv", "aliases.csv", "price_history.csv")


def ms(year: int, month: int, day: int, hour: int = 0) -> int:
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp()) * 1000


def resolved(name: str, catalogue: Catalogue | None = None) -> tuple[str, str] | None:
    found = (catalogue or load_shipped()).resolve(name)
    return (found.model.model_id, found.variant) if found else None


def model(name: str) -> Model:
    found = load_shipped().resolve(name)
    assert found is not None, name
    return found.model


# Resolution


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai/gpt-4o", ("openai/gpt-4o", "")),
        ("  OpenAI/GPT-4o\t", ("openai/gpt-4o", "")),
        # Alias of LiteLLM, and OpenRouter's dated permaslug.
        (
            "bedrock/us-gov-east-1/claude-sonnet-4-5-20250929-v1:0",
            ("anthropic/claude-sonnet-4.5", ""),
        ),
        ("z-ai/glm-5.2-20260616", ("z-ai/glm-5.2", "")),
        # Variants: in the catalogue, not in it, two of them, after a permaslug.
        ("deepseek/deepseek-v4-flash:free", ("deepseek/deepseek-v4-flash", "free")),
        ("openai/gpt-4o:nitro", ("openai/gpt-4o", "nitro")),
        ("openai/gpt-4o:free:online", ("openai/gpt-4o", "free")),
        ("openai/gpt-4o:online:free", ("openai/gpt-4o", "free")),
        ("z-ai/glm-5.2-20260616:free", ("z-ai/glm-5.2", "free")),
        # Two checkpoints under one name are two models.
        ("deepseek/deepseek-v4-flash-20260423", ("deepseek/deepseek-v4-flash", "")),
        ("deepseek/deepseek-v4-flash-20260731", ("deepseek/deepseek-v4-flash-0731", "")),
        ("qwen/qwen3.8-max-20260902", ("qwen/qwen3.8-max-0902", "")),
        ("gpt-4o-2024-05-13", ("openai/gpt-4o-2024-05-13", "")),
        # A known date in the other spelling.
        ("gpt-4o-20240513", ("openai/gpt-4o-2024-05-13", "")),
        ("z-ai/glm-5.2-2026-06-16", ("z-ai/glm-5.2", "")),
        # A date on a model of which no dated name is known.
        ("01-ai/yi-34b-chat-20240101", ("01-ai/yi-34b-chat", "")),
    ],
)
def test_name_resolves(name: str, expected: tuple[str, str]) -> None:
    """Exact id, alias, variant and date are the ways a name is resolved."""
    assert resolved(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ":free",
        "gpt",
        "openai/",
        "openai/gpt-4o-mini-tts-nonsense",  # begins with a known id
        "my-openai/gpt-4o",  # ends in one
        "openai/gpt-4o:70b",  # not a variant
        "openai/gpt-4o:",
        "openai/gpt-embedding:free",
        # Another date than the known ones may be another checkpoint.
        "openai/gpt-4o-2031-01-01",
        "z-ai/glm-5.2-20310101",
        "deepseek/deepseek-v4-flash-20260615",
        # Moving names, bare and dated.
        "deepseek-chat",
        "deepseek-reasoner",
        "mistral-small-latest",
        "qwen-plus",
        "deepseek-v4-flash",
        "deepseek-v4-pro",
        "deepseek/deepseek-chat-20250101",
        "mistralai/mistral-small-20250101",
        "openai/chatgpt-4o-latest-20250101",
        # Outside the catalogue: not a text model.
        "openai/text-embedding-3-small",
    ],
)
def test_name_stays_unresolved(name: str) -> None:
    """What the rules do not cover is nothing: no part of a name matches, nothing is guessed."""
    assert resolved(name) is None


def test_published_tokens_resolve() -> None:
    """Of the tokens of OpenRouter's daily top 50 the published share resolves: 99.63 %."""
    total = found = 0
    unresolved = set()
    with RANKINGS.open(newline="") as lines:
        for row in csv.DictReader(lines):
            name, tokens = row["model_permaslug"], int(row["total_tokens"])
            if name == "other":
                continue
            total += tokens
            if resolved(name):
                found += tokens
            else:
                unresolved.add(name)
    assert round(100 * found / total, 2) == 99.63
    assert all("embed" in name or "bge" in name for name in unresolved)


def test_alias_of_two_models_resolves_to_nothing() -> None:
    """An alias two models claim is listed and unresolved, also with a variant or another case."""
    catalogue = Catalogue.of([Model("a/one", ("Same",)), Model("b/two", ("same", "own"))])
    assert catalogue.ambiguous == ("same",)
    assert resolved("same", catalogue) is None
    assert resolved("SAME:free", catalogue) is None
    assert resolved("own", catalogue) == ("b/two", "")


def test_ambiguous_alias_is_not_cut_further() -> None:
    """What two models claim is undecided, even if a shorter name would decide."""
    claims = ("v/m:free", "v/m-20260101")
    catalogue = Catalogue.of([Model("v/m"), Model("a", claims), Model("b", claims)])
    assert catalogue.ambiguous == ("v/m-20260101", "v/m:free")
    assert resolved("v/m:free", catalogue) is None
    assert resolved("v/m-20260101", catalogue) is None
    assert resolved("v/m:beta", catalogue) == ("v/m", "beta")


def test_model_id_wins_over_alias() -> None:
    """A name that is a model id means that model, whoever claims it as an alias."""
    catalogue = Catalogue.of([Model("a/one"), Model("b/two", ("a/one",)), Model("c", ("A/One",))])
    assert resolved("a/one", catalogue) == ("a/one", "")
    assert catalogue.ambiguous == ()


def test_short_checkpoint_dates_keep_unknown_dates_out() -> None:
    """Beside ``m-0731`` a date on ``m`` may mean either, so it is unresolved."""
    plain = Catalogue.of([Model("v/m")])
    assert resolved("v/m-20260801", plain) == ("v/m", "")
    both = plain.with_changes({"v/m-0731": Model("v/m-0731")})
    assert resolved("v/m-20260801", both) is None


def test_date_of_two_models_resolves_to_nothing() -> None:
    """When one base and date name two models in two spellings, a third spelling decides nothing."""
    one = Model("v/m", ("x", "v/m-20260101"))
    two = Model("v/n", ("x-2026-01-01",))
    catalogue = Catalogue.of([one, two])
    assert resolved("v/m-20260101", catalogue) == ("v/m", "")
    assert resolved("x-2026-01-01", catalogue) == ("v/n", "")
    assert resolved("x-20260101", catalogue) is None


def test_shipped_aliases_all_resolve() -> None:
    """Every alias of the files means its model, and none means two."""
    catalogue = load_shipped()
    assert catalogue.ambiguous == ()
    wrong = [
        alias
        for model in catalogue.models.values()
        for alias in (*model.aliases, model.model_id)
        if (found := catalogue.resolve(alias)) is None or found.model is not model
    ]
    assert wrong == []


def test_shipped_variants_are_documented() -> None:
    """Of the suffixes OpenRouter's own variants carry in the files, all are in the list."""
    with (SHIPPED_DIRECTORY / "aliases.csv").open(newline="") as lines:
        suffixes = {
            row["alias"].rpartition(":")[2]
            for row in csv.DictReader(lines)
            if row["kind"] == "openrouter-variant"
        }
    assert {"free", "batch", "thinking"} <= suffixes <= set(VARIANTS)


def test_change_makes_a_new_snapshot() -> None:
    """A change is seen in the new snapshot with the next version, and not in the old one."""
    old = Catalogue.of([Model("a"), Model("b")])
    new = old.with_changes({"a": Model("a", vendor="acme"), "b": None, "c": Model("c", ("sea",))})
    assert (old.version, new.version) == (0, 1)
    assert sorted(new.models) == ["a", "c"]
    assert new.models["a"].vendor == "acme"
    assert resolved("sea", new) == ("c", "")
    assert (resolved("b", new), resolved("b", old)) == (None, ("b", ""))
    assert old.models["a"].vendor is None


# Facts


@pytest.mark.parametrize(
    ("name", "country", "group", "size"),
    [
        ("moonshotai/kimi-k2", "CN", "chinese_open", "large"),
        ("z-ai/glm-5.2", "CN", "chinese_open", "large"),
        ("qwen/qwen3-8b", "CN", "chinese_open", "small"),
        ("qwen/qwen-2.5-coder-32b-instruct", "CN", "chinese_open", "medium"),
        ("openai/gpt-oss-120b", "US", "other_open", "large"),
        ("openai/gpt-oss-20b", "US", "other_open", "medium"),
        ("meta-llama/llama-3.3-70b-instruct", "US", "other_open", "large"),
        ("mistralai/mistral-7b-instruct", "FR", "other_open", "small"),
        ("openai/gpt-4o", "US", "proprietary", "unknown"),
        ("anthropic/claude-sonnet-4.5", "US", "proprietary", "unknown"),
        ("qwen/qwen-max", "CN", "proprietary", "unknown"),
        # Anonymous test listings and a vendor about which sources disagree: not guessed.
        ("openrouter/owl-alpha", None, "unknown", "unknown"),
        ("poolside/laguna-m.1", None, "unknown", "large"),
    ],
)
def test_known_facts(name: str, country: str | None, group: str, size: str) -> None:
    """Country of the lab, origin group and size class are those of the study and the vendors."""
    found = model(name)
    assert (found.vendor_country, origin(found), size_class(found)) == (country, group, size)


def test_openai_models_are_american() -> None:
    """All of OpenAI's GPT models but the open ones are proprietary and from the US."""
    gpts = [found for id_, found in load_shipped().models.items() if id_.startswith("openai/gpt-")]
    closed = [found for found in gpts if "gpt-oss" not in found.model_id]
    assert len(closed) > 40
    assert {(found.vendor_country, origin(found)) for found in closed} == {("US", "proprietary")}
    assert {found.license for found in closed} == {"proprietary"}


@pytest.mark.parametrize(
    ("params_b", "expected"),
    [(None, "unknown"), (14.9, "small"), (15.0, "medium"), (69.9, "medium"), (70.0, "large")],
)
def test_size_class_bounds(params_b: float | None, expected: str) -> None:
    """Small ends below 15B and medium below 70B, by total parameters."""
    assert size_class(Model("m", total_params_b=params_b, active_params_b=3.0)) == expected


@pytest.mark.parametrize(
    ("open_weights", "country", "expected"),
    [
        (None, "CN", "unknown"),
        (False, None, "proprietary"),
        (False, "CN", "proprietary"),
        (True, None, "unknown"),
        (True, "CN", "chinese_open"),
        (True, "FR", "other_open"),
    ],
)
def test_origin_groups(open_weights: bool | None, country: str | None, expected: str) -> None:
    """What is not known of weights or country is never counted for a group that needs it."""
    assert origin(Model("m", open_weights=open_weights, vendor_country=country)) == expected


# Prices


@pytest.mark.parametrize(
    ("at_ms", "prompt", "completion"),
    [
        # From the captures of August 2026: 02 Aug 0.2926/0.9196, 03 Aug 1.19/3.74, 09 Aug 0.0826.
        (ms(2026, 8, 2, 23), 292_600, 919_600),
        (ms(2026, 8, 3) - 1, 292_600, 919_600),
        (ms(2026, 8, 3), 1_190_000, 3_740_000),
        (ms(2026, 8, 9, 12), 82_600, 259_600),
        (ms(2026, 11, 1), 966_000, 3_036_000),
    ],
)
def test_price_moves_with_event_time(at_ms: int, prompt: int, completion: int) -> None:
    """GLM 5.2 costs what it cost on the day of the event, and the last price stays valid."""
    cost = list_cost_nanousd(model("z-ai/glm-5.2"), "", at_ms, 1_000_000, 0)
    assert cost == prompt * 1000
    assert list_cost_nanousd(model("z-ai/glm-5.2"), "", at_ms, 0, 1_000) == completion


def test_price_is_unknown_before_the_first_one() -> None:
    """No price is carried back in time."""
    first = model("z-ai/glm-5.2").prices[0].valid_from_ms
    assert first == ms(2026, 7, 2)
    assert list_cost_nanousd(model("z-ai/glm-5.2"), "", first - 1, 10, 10) is None
    assert list_cost_nanousd(model("z-ai/glm-5.2"), "", first, 10, 10) is not None


@pytest.mark.parametrize(
    ("variant", "known"), [("nitro", True), ("batch", False), ("extended", False)]
)
def test_price_of_variants(variant: str, known: bool) -> None:
    """Routing variants cost what the model costs; variants with prices of their own are unknown."""
    cost = list_cost_nanousd(model("openai/gpt-4o"), variant, ms(2026, 8, 1), 10, 10)
    assert (cost is not None) == known


def test_free_variant_costs_nothing() -> None:
    """``:free`` costs 0, a measured zero, even before any price or without token counts."""
    found = load_shipped().resolve("deepseek/deepseek-v4-flash:free")
    assert found is not None
    assert list_cost_nanousd(found.model, found.variant, 0, None, None) == 0


def test_cost_without_token_counts_is_unknown() -> None:
    """A missing count makes the cost unknown, not smaller."""
    at_ms = ms(2026, 8, 1)
    assert list_cost_nanousd(model("openai/gpt-4o"), "", at_ms, None, 10) is None
    assert list_cost_nanousd(model("openai/gpt-4o"), "", at_ms, 10, None) is None


def test_cost_rounds_half_up() -> None:
    """499 picoUSD are 0 nanoUSD and 500 are 1."""
    priced = Model("m", prices=(Price(0, 1, 500),))
    assert list_cost_nanousd(priced, "", 0, 499, 0) == 0
    assert list_cost_nanousd(priced, "", 0, 500, 0) == 1
    assert list_cost_nanousd(priced, "", 0, 0, 1) == 1


def test_largest_cost_fits_signed_64_bits() -> None:
    """The most tokens of one event at the highest price stay below 2**63 picoUSD."""
    assert (50_000_000 + 10_000_000) * PICOUSD_PER_TOKEN_MAX + 500 < 2**63


def test_prices_keep_changes_only() -> None:
    """A capture that repeats a price adds nothing; days are at 00:00 UTC and ascend."""
    for found in load_shipped().models.values():
        amounts = [price_at(found, price.valid_from_ms) for price in found.prices]
        assert amounts == list(found.prices)
        for before, after in zip(found.prices, found.prices[1:], strict=False):
            assert before.valid_from_ms < after.valid_from_ms
            assert replace(before, valid_from_ms=0) != replace(after, valid_from_ms=0)
        assert all(price.valid_from_ms % 86_400_000 == 0 for price in found.prices)


# Columns for joins


# The record


def test_shipped_models_survive_encoding() -> None:
    """Every shipped model comes back equal from its record, whose bytes depend on it alone."""
    for found in load_shipped().models.values():
        value = encode_model(found)
        assert decode_model(value, found.model_id.encode()) == found
        assert encode_model(decode_model(value)) == value


def test_record_has_every_model_below_kafkas_limit() -> None:
    """The largest record is far below Kafka's default limit of 1 MB."""
    assert max(len(encode_model(found)) for found in load_shipped().models.values()) < 100_000


GOOD = {
    "schema_version": 1,
    "model_id": "acme/rocket",
    "aliases": ["rocket"],
    "vendor": "acme",
    "open_weights": True,
    "total_params_b": 8,
    "context_length": 4096,
    "release_date": "2026-01-31",
    "prices": [
        {"valid_from_ms": 1, "prompt_picousd_per_token": 2, "completion_picousd_per_token": 3}
    ],
    "from_the_next_version": {"is": "ignored"},
}


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"schema_version": 2}, Reason.UNSUPPORTED_VERSION, "schema_version"),
        ({"schema_version": True}, Reason.UNSUPPORTED_VERSION, "schema_version"),
        ({"schema_version": None}, Reason.MISSING_FIELD, "schema_version"),
        ({"model_id": None}, Reason.MISSING_FIELD, "model_id"),
        ({"model_id": ""}, Reason.EMPTY_TEXT, "model_id"),
        ({"model_id": "Acme/Rocket"}, Reason.OUT_OF_RANGE, "model_id"),
        ({"model_id": "acme rocket"}, Reason.OUT_OF_RANGE, "model_id"),
        ({"model_id": "unknown"}, Reason.OUT_OF_RANGE, "model_id"),
        ({"model_id": "other"}, Reason.OUT_OF_RANGE, "model_id"),
        ({"model_id": "a" * 257}, Reason.TOO_LONG, "model_id"),
        ({"vendor": 7}, Reason.WRONG_TYPE, "vendor"),
        ({"vendor": "unknown"}, Reason.OUT_OF_RANGE, "vendor"),
        ({"vendor": "a\0b"}, Reason.OUT_OF_RANGE, "vendor"),
        ({"vendor_country": "USA"}, Reason.OUT_OF_RANGE, "vendor_country"),
        ({"vendor_country": "us"}, Reason.OUT_OF_RANGE, "vendor_country"),
        ({"open_weights": 1}, Reason.WRONG_TYPE, "open_weights"),
        ({"open_weights": "true"}, Reason.WRONG_TYPE, "open_weights"),
        ({"total_params_b": True}, Reason.WRONG_TYPE, "total_params_b"),
        ({"total_params_b": "8"}, Reason.WRONG_TYPE, "total_params_b"),
        ({"total_params_b": 0}, Reason.OUT_OF_RANGE, "total_params_b"),
        ({"active_params_b": -1}, Reason.OUT_OF_RANGE, "active_params_b"),
        ({"reasoning": "maybe"}, Reason.OUT_OF_RANGE, "reasoning"),
        ({"context_length": 4096.0}, Reason.WRONG_TYPE, "context_length"),
        ({"release_date": "20260131"}, Reason.OUT_OF_RANGE, "release_date"),
        ({"release_date": "2026-02-30"}, Reason.OUT_OF_RANGE, "release_date"),
        ({"aliases": "rocket"}, Reason.WRONG_TYPE, "aliases"),
        ({"aliases": [""]}, Reason.EMPTY_TEXT, "aliases"),
        ({"aliases": [1]}, Reason.WRONG_TYPE, "aliases"),
        ({"aliases": ["x"] * 1001}, Reason.TOO_LONG, "aliases"),
        ({"prices": [1]}, Reason.WRONG_TYPE, "prices"),
        ({"prices": [{}]}, Reason.MISSING_FIELD, "prices.valid_from_ms"),
        ({"prices": GOOD["prices"] * 2}, Reason.OUT_OF_RANGE, "prices.valid_from_ms"),  # type: ignore[operator]
        (
            {"prices": [{**GOOD["prices"][0], "prompt_picousd_per_token": -1}]},  # type: ignore[index]
            Reason.OUT_OF_RANGE,
            "prices.prompt_picousd_per_token",
        ),
    ],
)
def test_corrupt_record_is_refused(change: dict[str, object], reason: Reason, field: str) -> None:
    """A value that cannot be right names its field and why; the good record itself is accepted."""
    assert decode_model(orjson.dumps(GOOD)).vendor == "acme"
    with pytest.raises(RecordError) as caught:
        decode_model(orjson.dumps({**GOOD, **change}))
    assert (caught.value.reason, caught.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.EMPTY_VALUE),
        (b"{", Reason.INVALID_JSON),
        (b"\xff", Reason.INVALID_JSON),
        (b"[]", Reason.NOT_AN_OBJECT),
        (b"null", Reason.NOT_AN_OBJECT),
    ],
)
def test_value_that_is_no_object_is_refused(value: bytes, reason: Reason) -> None:
    """What is not one JSON object is refused as a whole."""
    with pytest.raises(RecordError) as caught:
        decode_model(value)
    assert (caught.value.reason, caught.value.field) == (reason, "")


def test_record_under_another_key_is_refused() -> None:
    """A model under another model's key would shadow it after compaction."""
    with pytest.raises(RecordError, match="model_id"):
        decode_model(orjson.dumps(GOOD), b"acme/other")


# Files


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


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("0.098", 98_000), ("0.000001", 1), ("1e2", 10**8)]
)
def test_price_text_is_exact(text: str, expected: int) -> None:
    """USD per million tokens become picoUSD per token without a rounding error."""
    assert picousd_per_token(text) == expected


# What is published


def stored(found: Model, *, from_files: bool) -> Stored:
    return Stored(encode_model(found), from_files)


def test_publish_writes_what_differs_and_keeps_edits() -> None:
    """Equal models are left alone, edits kept, corrupt values repaired, extra ones only reported."""
    wanted = {name: encode_model(Model(name, vendor="files")) for name in "abcde"}
    topic = {
        "a": stored(Model("a", vendor="files"), from_files=True),
        "b": stored(Model("b", vendor="old"), from_files=True),
        "c": stored(Model("c", vendor="edited"), from_files=False),
        "d": Stored(b"{", from_files=False),
        "x": stored(Model("x"), from_files=False),
    }
    plan = plan_publish(wanted, topic, everything=False, delete=False)
    assert plan.changes == {name: wanted[name] for name in "bde"}
    assert plan.summary == (
        "3 models published (1 new), 1 unchanged, 1 edited, kept (--all replaces them),"
        " 1 only on the topic, kept (--delete-missing deletes them)"
    )
    everything = plan_publish(wanted, topic, everything=True, delete=True)
    assert everything.changes == {**wanted, "x": None}
    assert everything.summary == "5 models published (1 new), 0 unchanged, 1 deleted"


def test_edit_changes_fields() -> None:
    """Texts are read like the columns of models.csv; blank makes unknown; names and prices are added."""
    old = Model("a", ("x",), vendor="acme", open_weights=True, prices=(Price(5, 1, 1),))
    new = edited(
        old, ["vendor=", "open_weights=false", "modalities_in=text|image"], ["y"], "0.5/1.5", 9
    )
    assert new == Model(
        "a",
        ("x", "y"),
        open_weights=False,
        modalities_in=("text", "image"),
        prices=(Price(5, 1, 1), Price(9, 500_000, 1_500_000)),
    )
    dated = edited(new, [], [], "1/1@1970-01-01", 9)
    assert [price.valid_from_ms for price in dated.prices] == [0, 5, 9]


@pytest.mark.parametrize(
    ("fields", "price"),
    [
        (["country=US"], None),
        (["model_id=b"], None),
        (["vendor"], None),
        (["total_params_b=big"], None),
        ([], "1"),
        ([], "1/x"),
        ([], "1/1@tomorrow"),
    ],
)
def test_edit_refuses_what_it_cannot_read(fields: list[str], price: str | None) -> None:
    """Wrong usage is said before anything is written."""
    with pytest.raises(UsageError):
        edited(Model("a"), fields, [], price, 9)


def test_edit_refuses_what_cannot_be_right() -> None:
    """An edit passes the checks of the record."""
    with pytest.raises(RecordError, match="vendor_country"):
        edited(Model("a"), ["vendor_country=Mars"], [], None, 9)
