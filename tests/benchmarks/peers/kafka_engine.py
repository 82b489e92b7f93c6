"""ClickHouse's own Kafka table engine: a queue table, a dictionary of models, a materialised view.

At least once: offsets are committed after a block is written, so a crash in between doubles its rows
and every rollup. The settings are the fastest of those that its documentation offers for this: values
as they are, parsed in the view, large blocks, a consumer per core.
"""

from collections.abc import Iterator

from schemas.topics import USAGE_TOPIC
from schemas.usage_event import FIELDS
from sinks.usage_events import arrow_schema

CONSUMERS = 2
BLOCK_ROWS = 262_144
FLUSH_MS = 1000
_KINDS = {"integer": "Nullable(Int64)", "boolean": "Nullable(Bool)", "tags": "String"}
_ATTRIBUTES = {
    "model": "String",
    "vendor": "String",
    "vendor_country": "String",
    "license": "String",
    "open_weights": "String",
    "origin": "String",
    "size_class": "String",
    "reasoning": "String",
    "total_params_b": "Nullable(Float32)",
    "active_params_b": "Nullable(Float32)",
    "per_prompt": "Nullable(Int64)",
    "per_completion": "Nullable(Int64)",
}
_EMPTY = ("model_raw", "model_requested", "finish_reason_native", "error_type", "service_tier")


def set_up(database: str, kafka: str, group: str) -> Iterator[str]:
    """Yield the statements that begin the consumption; the table ``models`` is filled already."""
    attributes = ", ".join(f"{name} {kind}" for name, kind in _ATTRIBUTES.items())
    yield (
        f"CREATE DICTIONARY {database}.model (model_raw String, {attributes}) PRIMARY KEY model_raw"
        f" SOURCE(CLICKHOUSE(DB '{database}' TABLE 'models'))"
        " LIFETIME(0) LAYOUT(COMPLEX_KEY_HASHED())"
    )
    yield f"SYSTEM RELOAD DICTIONARY {database}.model"
    yield (
        f"CREATE TABLE {database}.queue (raw String) ENGINE = Kafka SETTINGS"
        f" kafka_broker_list = '{kafka}', kafka_topic_list = '{USAGE_TOPIC}',"
        f" kafka_group_name = '{group}', kafka_format = 'RawBLOB',"
        f" kafka_num_consumers = {CONSUMERS}, kafka_thread_per_consumer = 1,"
        f" kafka_max_block_size = {BLOCK_ROWS}, kafka_poll_max_batch_size = {BLOCK_ROWS},"
        f" kafka_flush_interval_ms = {FLUSH_MS}"
    )
    yield (
        f"CREATE MATERIALIZED VIEW {database}.queue_to_events TO {database}.usage_events"
        f" AS {_select(database)}"
    )


def models_table(database: str, name: str = "models") -> str:
    """Return the statement that makes the table behind the dictionary."""
    attributes = ", ".join(f"{name} {kind}" for name, kind in _ATTRIBUTES.items())
    return (
        f"CREATE TABLE {database}.{name} (model_raw String, {attributes})"
        " ENGINE = MergeTree ORDER BY model_raw"
    )


def model_columns() -> tuple[str, ...]:
    """Return the columns of that table."""
    return ("model_raw", *_ATTRIBUTES)


def _select(database: str) -> str:
    members = ", ".join(f"{field.name} {_KINDS.get(field.kind, 'String')}" for field in FIELDS)
    names = ", ".join(f"'{name}'" for name in _ATTRIBUTES)
    columns = ", ".join(f"{_expression(name)} AS {name}" for name in arrow_schema().names)
    return (
        f"WITH JSONExtract(raw, 'Tuple({members})') AS e,"
        f" dictGet('{database}.model', ({names}), e.model_raw) AS m,"
        " intDiv(e.tokens_prompt * m.11 + e.tokens_completion * m.12 + 500, 1000) AS by_list"
        f" SELECT {columns} FROM {database}.queue"
    )


def _expression(name: str) -> str:
    special = {
        "occurred_at": "parseDateTime64BestEffort(e.occurred_at, 3, 'UTC')",
        "ingested_at": "now64(3, 'UTC')",
        "kafka_partition": "_partition",
        "kafka_offset": "_offset",
        "operation": "if(e.operation = '', 'chat', e.operation)",
        "source": "if(e.source = '', 'other', e.source)",
        "attempt": "ifNull(e.attempt, 0)",
        "caller_country": "if(e.country = '', 'unknown', e.country)",
        "cost_nanousd": "coalesce(e.cost_nanousd, by_list)",
        "cost_source": "multiIf(isNotNull(e.cost_nanousd), 'gateway',"
        " isNotNull(by_list), 'list_price', 'unknown')",
        "tool_use": "multiIf(e.finish_reason = 'tool_calls' OR ifNull(e.tool_calls, -1) > 0, 'called',"
        " e.tool_calls = 0, 'none', 'unknown')",
        "tags": "e.tags",
        "quality": "''",
    }
    if name in special:
        return special[name]
    if name in ("user_hash", "session_hash"):
        prefix = f"reinterpretAsUInt64(reverse(unhex(substring(e.{name}, 1, 16))))"
        return f"if(e.{name} = '', NULL, {prefix})"
    if name in _ATTRIBUTES:
        number = list(_ATTRIBUTES).index(name) + 1
        is_text = _ATTRIBUTES[name] == "String"
        return f"if(m.{number} = '', 'unknown', m.{number})" if is_text else f"m.{number}"
    kind = next((each.kind for each in FIELDS if each.name == name), "")
    if kind in _KINDS or name in _EMPTY or name in ("event_id", "request_id"):
        return f"e.{name}"
    return f"if(e.{name} = '', 'unknown', e.{name})"
