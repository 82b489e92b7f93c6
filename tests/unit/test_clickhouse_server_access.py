"""Who is let in, and which settings of a reader come before its readonly."""

import pytest

from deploy.local.clickhouse_access import READER_LIMITS, authenticate, reader_settings, users
from deploy.local.clickhouse_errors import EngineError

USERS = users("writer", "secret", "reader", "")


def test_users_have_their_role() -> None:
    """The writer writes; the reader and the nameless default only read."""
    assert not authenticate(USERS, "writer", "secret").read_only
    for name in ("reader", "default"):
        user = authenticate(USERS, name, "")
        assert user.read_only
        assert user.role == "reader"


@pytest.mark.parametrize(
    ("name", "password"),
    [("writer", ""), ("writer", "Secret"), ("nobody", ""), ("reader", "x"), ("", "")],
)
def test_others_are_refused(name: str, password: str) -> None:
    """A wrong password and an unknown name look alike."""
    with pytest.raises(EngineError) as caught:
        authenticate(USERS, name, password)
    assert (caught.value.code, caught.value.status) == (516, 403)


@pytest.mark.parametrize("name", READER_LIMITS)
def test_a_reader_can_only_tighten_its_limits(name: str) -> None:
    """No value, 0 for no limit included, raises a limit."""
    limit = READER_LIMITS[name]
    for wish in ("0", "00", str(limit + 1), str(2**64 - 1)):
        before, after = reader_settings({name: wish})
        assert int(before[name]) == limit
        assert after == {}
    assert reader_settings({name: "1"})[0][name] == "1"


@pytest.mark.parametrize("wish", ["-1", "1e9", "99999.5", " 5", "0x10", "", "٣", "auto"])
def test_a_limit_that_is_no_whole_number_is_left_to_the_engine(wish: str) -> None:
    """What cannot be compared is set after readonly, where the engine refuses it."""
    before, after = reader_settings({"max_execution_time": wish})
    assert before["max_execution_time"] == str(READER_LIMITS["max_execution_time"])
    assert after == {"max_execution_time": wish}


@pytest.mark.parametrize(
    "name",
    [
        "allow_experimental_eval_table_function",
        "format_avro_schema_registry_url",
        "format_schema",
        "format_template_resultset",
        "max_rows",
        "output_format_schema",
        "profile",
        "readonly",
    ],
)
def test_other_settings_come_after_readonly(name: str) -> None:
    """Nothing that can name a file, an address or a right is set before readonly."""
    before, after = reader_settings({name: "1"})
    assert name not in before
    assert after == {name: "1"}


def test_formats_are_a_readers_own() -> None:
    """How results look is free."""
    asked = {"date_time_output_format": "iso", "output_format_json_quote_decimals": "1"}
    before, after = reader_settings(asked)
    assert after == {}
    assert asked.items() <= before.items()
