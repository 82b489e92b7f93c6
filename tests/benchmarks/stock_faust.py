"""The alternative: Faust as its documentation shows it, one event at a time, doing the same work.

Same broker, topic, catalogue, rows, tables and insert as tokentide; it buffers 50,000 rows and
commits Faust's way. It carries none of the guarantees, and of the validation only what reading the
fields needs, so the comparison favours it. Its settings are the fastest that its documentation
offers for this: raw values, no web views.
"""

import tempfile
import time
from datetime import datetime
from typing import Any

import faust
import orjson
from prometheus_client import CollectorRegistry, Counter, start_http_server

from deploy.addresses import writer_address
from schemas.catalogue import load_shipped
from schemas.topics import USAGE_TOPIC
from schemas.usage_event import FIELDS, UsageEvent
from sinks import clickhouse
from sinks.usage_events import UsageEventWriter
from streams.decoding import events_of
from streams.enriching import blocks_by_month, enrich
from streams.settings import Settings

ROWS_MAX = 50_000
# Under the names that the benchmark reads from every stack.
REGISTRY = CollectorRegistry()
READ = Counter("tokentide_records_read", "Records taken from the topic.", registry=REGISTRY)
COMMITTED = Counter("tokentide_records_committed", "Records inserted.", registry=REGISTRY)


PLAIN = tuple(field.name for field in FIELDS if field.kind not in ("timestamp", "hash", "tags"))[
    1:
]  # Without schema_version.


def read_event(value: bytes) -> UsageEvent:
    """Return an event as a careful hand would read it, without the schema's checks."""
    members = orjson.loads(value)
    fields = {name: members.get(name) for name in PLAIN}
    fields["attempt"] = fields["attempt"] or 0
    fields["operation"] = fields["operation"] or "chat"
    for name in ("user_hash", "session_hash"):
        text = members.get(name)
        fields[name] = int(text[:16], 16) if text else None
    tags = members.get("tags")
    return UsageEvent(
        **fields,
        occurred_at_ms=int(datetime.fromisoformat(members["occurred_at"]).timestamp() * 1000),
        tags=orjson.dumps(tags).decode() if tags else "",
        quality=(),
    )


def main() -> None:
    """Run until stopped."""
    settings = Settings.load()
    start_http_server(settings.worker_port, settings.worker_host, registry=REGISTRY)
    writer = UsageEventWriter(
        clickhouse.connect(writer_address(settings)), settings.clickhouse_database
    )
    catalogue = load_shipped()
    app = faust.App(
        settings.consumer_group,
        broker=f"kafka://{settings.kafka_bootstrap_servers}",
        consumer_auto_offset_reset="earliest",
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        web_enabled=False,
        stream_wait_empty=False,
        datadir=tempfile.gettempdir(),  # Else it makes a directory here, for tables it has none of.
    )
    topic = app.topic(USAGE_TOPIC, value_serializer="raw", value_type=bytes)
    rows: list[tuple[int, UsageEvent]] = []

    def flush() -> None:
        table = enrich(
            events_of(rows), catalogue, partition=0, ingested_at_ms=time.time_ns() // 1_000_000
        )
        for block in blocks_by_month(table):
            writer.write(block.rows, f"{time.time_ns()}")
        COMMITTED.inc(len(rows))
        rows.clear()

    @app.agent(topic)  # type: ignore[untyped-decorator]
    async def store(stream: Any) -> None:
        async for event in stream.events():
            READ.inc()
            rows.append((event.message.offset, read_event(event.value)))
            if len(rows) >= ROWS_MAX:
                flush()

    faust.Worker(app, quiet=True, loglevel="error").execute_from_commandline()


if __name__ == "__main__":
    main()
