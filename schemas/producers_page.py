"""The tables of PRODUCERS.md, written from ``usage_event/v1.json``.

``python -m schemas.producers_page`` rewrites them in place; a test fails when they are out of date.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from schemas.errors import Reason
from schemas.usage_event import (
    FIELDS,
    INT64_END,
    SCHEMA_FILE,
    SCHEMA_VERSION,
    VALUE_BYTES_MAX,
    Field,
)

PAGE_FILE = Path(__file__).parent / "PRODUCERS.md"


def page(text: str) -> str:
    """Return the page with its tables brought up to date.

    A table stands between ``<!-- NAME -->`` and ``<!-- end -->``.
    """
    schema = orjson.loads(SCHEMA_FILE.read_bytes())
    for name, table in {"fields": field_table(), "refusals": refusal_table(schema)}.items():
        start = f"<!-- {name} -->\n"
        before, _, rest = text.partition(start)
        _, end, after = rest.partition("<!-- end -->")
        assert end, f"PRODUCERS.md has no place for the table of {name}"
        text = before + start + table + end + after
    return text


def field_table() -> str:
    """Return the fields as a Markdown table."""
    rows = ["| field | type | limits | meaning |", "|---|---|---|---|"]
    for field in FIELDS:
        name = f"**`{field.name}`**" if field.required else f"`{field.name}`"
        rows.append(f"| {name} | {field.kind} | {_limits(field)} | {_meaning(field)} |")
    return "\n".join(rows) + "\n"


def refusal_table(schema: Mapping[str, Any]) -> str:
    """Return the reason codes and what each one means, as a Markdown table."""
    rows = ["| reason | the record is refused when |", "|---|---|"]
    causes: dict[str, dict[str, list[str]]] = {reason: {} for reason in Reason}
    for rule in schema["x-record-rules"] + schema["x-cross-field-rules"]:
        if rule.get("reason"):
            fields = [f"`{name}`" for name in rule.get("fields", [])][:1]
            causes[rule["reason"]].setdefault(rule["when"], []).extend(fields)
    for kind, rules in schema["x-kinds"].items():
        for rule in rules:
            if rule.get("reason"):
                kinds = [] if kind == "*" else [kind]
                causes[rule["reason"]].setdefault(rule["when"], []).extend(kinds)
    for reason, whens in causes.items():
        lines = [": ".join([", ".join(of), when] if of else [when]) for when, of in whens.items()]
        rows.append(f"| `{reason}` | {'<br>'.join(lines)} |")
    return "\n".join(rows) + "\n"


def _limits(field: Field) -> str:
    if field.name == "schema_version":
        return str(SCHEMA_VERSION)
    if field.kind == "integer" and field.maximum < INT64_END - 1:
        unit = f" {field.unit}" if field.unit else ""
        return f"{field.minimum:,} to {field.maximum:,}{unit}"
    if field.kind == "text" and field.max_length < VALUE_BYTES_MAX:
        return f"{field.max_length} characters"
    return {"hash": "64 hex digits", "tags": "16 texts", "timestamp": "RFC 3339"}.get(
        field.kind, ""
    )


def _meaning(field: Field) -> str:
    parts = [field.description.replace("<", "\\<")]
    if field.values:
        values = ", ".join(f"`{value}`" for value in field.values)
        parts.append(f"One of {values}; another value is stored as `{field.unknown_value}`.")
    if field.default is not None:
        parts.append(f"Default `{field.default}`.")
    return " ".join(parts)


if __name__ == "__main__":
    PAGE_FILE.write_text(page(PAGE_FILE.read_text()))
