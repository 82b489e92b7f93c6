"""``tokentide validate``: every refused line, the counts, the exit code."""

import io
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deploy.cli.lines import Line, read_lines
from deploy.cli.validate import hint, validate
from schemas.errors import Reason, RecordError
from schemas.usage_event import FIELDS, SCHEMA_FILE, VALUE_BYTES_MAX, decode

EXAMPLES = SCHEMA_FILE.parent / "examples"
MINIMAL: dict[str, Any] = json.loads((EXAMPLES / "valid" / "minimal.json").read_text())
INVALID = sorted((EXAMPLES / "invalid").glob("*.json"))


def event(**changes: Any) -> bytes:
    """Return an event of now with some fields changed."""
    now = datetime.now(UTC).isoformat()
    return json.dumps({**MINIMAL, "occurred_at": now, **changes}).encode()


def run(lines: bytes, *arguments: str, file: str = "-") -> Result:
    return CliRunner().invoke(validate, [file, *arguments], input=lines)


def test_valid_events_end_with_zero() -> None:
    """A file of valid events prints only its counts."""
    result = run(event() + b"\n" + event(status="error", tokens_prompt=None))
    assert result.exit_code == 0
    assert result.stdout == "2 events: 2 valid, 0 refused\n"
    assert run(b"").stdout == "0 events: 0 valid, 0 refused\n"


def test_refused_lines_are_listed_with_number_field_reason_and_hint() -> None:
    """Each refused line is printed once; blank lines count as lines, not as events."""
    lines = [event(), b"", event(tokens_prompt=None), b" \t\r", b'{"a":', event(country="DEU")]
    result = run(b"\n".join(lines))
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "line 3: tokens_prompt: missing_field (required when status is ok)",
        "line 5: invalid_json (not one UTF-8 JSON document without U+0000 in its texts)",
        "line 6: country: too_long (at most 2 characters)",
        "4 events: 1 valid, 3 refused (missing_field 1, invalid_json 1, too_long 1)",
    ]


def test_flags_of_valid_events_are_counted() -> None:
    """What is kept but flagged shows in the counts and does not fail the file."""
    late = event(occurred_at="2020-01-01T00:00:00Z", source="acme")
    result = run(late + b"\n" + late + b"\n" + event(source="acme"))
    assert result.exit_code == 0
    counts = "3 events: 3 valid, 0 refused; flagged but valid: unknown_source 3, late 2\n"
    assert result.stdout == counts


def test_json_output_is_one_object_per_line() -> None:
    """--format json gives each refused line and the counts as JSON objects."""
    result = run(event() + b"\n[]\n" + event(occurred_at="2020-01-01T00:00:00Z"), "--format=json")
    assert result.exit_code == 1
    refused, counts = map(json.loads, result.stdout.splitlines())
    assert (refused["line"], refused["field"], refused["reason"]) == (2, "", "not_an_object")
    assert counts == {
        "events": 3,
        "valid": 2,
        "refused": {"not_an_object": 1},
        "flags": {"late": 1},
    }


def test_events_are_checked_as_if_they_arrived_now() -> None:
    """The clock that judges the future is the wall clock."""
    ahead = datetime.fromtimestamp(time.time() + 3600, UTC).isoformat()
    assert "occurred_at: from_the_future" in run(event(occurred_at=ahead)).stdout


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    """A file that cannot be opened ends with 2, as any wrong argument."""
    result = run(b"", file=str(tmp_path / "missing.jsonl"))
    assert result.exit_code == 2
    assert "No such file" in result.stderr


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_every_refusal_has_a_hint(file: Path) -> None:
    """Whatever an example is refused for, there is a hint that is no repetition of the code."""
    case = json.loads(file.read_text())
    text = hint(RecordError(Reason(case["reason"]), case["field"]))
    assert text
    assert case["reason"] not in text


def test_hints_name_the_limit() -> None:
    """Ranges and lengths are in the hint, with the unit."""
    fields = {field.name: field for field in FIELDS}
    high = hint(RecordError(Reason.OUT_OF_RANGE, "latency_ms"))
    assert high == f"must be 0 to {fields['latency_ms'].maximum} ms"
    assert hint(RecordError(Reason.TOO_LONG, "app_id")) == "at most 128 characters"


# --- Reading lines -----------------------------------------------------------------------------


class OneReadAtATime(io.BytesIO):
    """Counts the most that was asked for at once."""

    asked_max = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size > 0
        self.asked_max = max(self.asked_max, size)
        return super().readline(size)


def lines_of(*texts: bytes) -> Sequence[Line]:
    return list(read_lines(io.BytesIO(b"\n".join(texts)), "reading"))


def test_lines_keep_their_bytes_and_numbers() -> None:
    """A value is its line without the newline, carriage returns and invalid UTF-8 included."""
    assert lines_of(b"a", b"", b" \t\r", b"\xff\r", b" b") == [
        Line(1, b"a", False),
        Line(4, b"\xff\r", False),
        Line(5, b" b", False),
    ]
    assert lines_of(b"a", b"") == lines_of(b"a") == [Line(1, b"a", False)]


def test_a_line_too_long_is_cut_and_its_neighbours_are_whole() -> None:
    """One value over the limit costs no memory beyond the limit, and only itself."""
    largest = b"x" * VALUE_BYTES_MAX
    for extra in (1, 2, 3, VALUE_BYTES_MAX, 2 * VALUE_BYTES_MAX + 2):
        file = OneReadAtATime(b"a\n" + largest + b"x" * extra + b"\n" + largest + b"\nb")
        lines = list(read_lines(file, "reading"))
        assert [(line.number, line.is_cut) for line in lines] == [
            (1, False),
            (2, True),
            (3, False),
            (4, False),
        ]
        assert [lines[0].value, lines[2].value, lines[3].value] == [b"a", largest, b"b"]
        with pytest.raises(RecordError, match="too_long"):
            decode(lines[1].value, append_time_ms=0)
        assert file.asked_max <= VALUE_BYTES_MAX + 2
