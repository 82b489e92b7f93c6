"""Every log line: structlog, one JSON object a line on stdout, libraries' lines included."""

import logging
import sys
from typing import Any

import orjson
import structlog

QUIET = ("aiokafka", "faust", "mode", "kafka", "asyncio")
"""Libraries whose own informative lines (tables of assignments, say) say nothing ours do not."""


def _dumps(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def _one_line(_: Any, __: str, event: Any) -> Any:
    """Keep a library's multi-line message on one line."""
    event["event"] = " ".join(str(event["event"]).split())
    return event


def configure(level: str) -> None:
    """Write log lines of at least ``level`` ("debug" to "error") to stdout."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, _one_line],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(serializer=_dumps),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
