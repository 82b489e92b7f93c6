"""The Faust app of a worker: Kafka, assignment, agents and the health pages."""

from collections.abc import Callable
from typing import Any

import orjson
from aiohttp.web import Response
from faust.web import View
from mode import CrashingSupervisor
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from streams.settings import Settings
from streams.transport import App

FOREVER_SECONDS = 30 * 86_400.0
"""aiokafka leaves the group when nobody polls for this long; a worker whose partitions are all
paused by a long ClickHouse outage does not poll. Progress is watched by /readyz instead."""


def create_app(settings: Settings) -> App:
    """Return an app that has no agents yet."""
    brokers = ";".join(settings.kafka_bootstrap_servers.replace(" ", "").split(","))
    return App(
        settings.consumer_group,
        broker=f"kafka://{brokers}",
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=settings.fetch_bytes_max,
        broker_max_poll_interval=FOREVER_SECONDS,
        consumer_group_instance_id=settings.worker_name or None,
        broker_session_timeout=settings.session_timeout_seconds,
        broker_heartbeat_interval=2.0,
        broker_request_timeout=max(40.0, settings.session_timeout_seconds + 1),
        # Offsets move by commit_range; Faust's own commit has nothing to do.
        broker_commit_interval=3600.0,
        stream_wait_empty=False,
        producer_request_timeout=30.0,
        agent_supervisor=CrashingSupervisor,
        worker_redirect_stdouts=False,
        web_bind=settings.worker_host,
        web_host=settings.worker_host,
        web_port=settings.worker_port,
        web_tables_enabled=False,
    )


def add_health_pages(app: App, faults: Callable[[], list[str]]) -> None:
    """Serve /livez, /readyz and /metrics.

    Args:
        app: Before it starts.
        faults: Why the worker is not ready, empty when it is.
    """

    @app.page("/livez")  # type: ignore[untyped-decorator]
    async def livez(_: View, __: Any) -> Response:
        thread = getattr(app.consumer, "_thread", None)
        alive = thread is not None and thread._thread is not None and thread._thread.is_alive()
        return _json(200 if alive else 503, {"status": "alive" if alive else "no fetch thread"})

    @app.page("/readyz")  # type: ignore[untyped-decorator]
    async def readyz(_: View, __: Any) -> Response:
        found = faults()
        status = "not ready" if found else "ready"
        return _json(503 if found else 200, {"status": status, "reasons": found})

    @app.page("/metrics")  # type: ignore[untyped-decorator]
    async def metrics(_: View, request: Any) -> Response:
        # As Prometheus' own clients take it: only those that are asked for.
        names = request.query.getall("name[]", [])
        registry = REGISTRY.restricted_registry(names) if names else REGISTRY
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return Response(body=generate_latest(registry), headers=headers)


def _json(status: int, body: dict[str, Any]) -> Response:
    return Response(status=status, body=orjson.dumps(body), content_type="application/json")
