"""The catalogue on its topic: models as records, what bad ones say, what is published and edited."""

import orjson
import pytest
from click import UsageError

from deploy.cli.catalogue import edited, plan_publish
from deploy.cli.catalogue_topic import Stored
from schemas.catalogue import (
    Model,
    Price,
    decode_model,
    encode_model,
    load_shipped,
)
from schemas.errors import Reason, RecordError


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
