"""The dashboard's web server: one page, its files, and answers to its questions as JSON.

Nothing is loaded from elsewhere, and nothing is written: every question is asked as ClickHouse's
reader. It knows no users, so it listens on the loopback interface unless told otherwise.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import structlog
from aiohttp import web

from deploy.alert_evidence import read_evidence
from deploy.dashboard.annotations import annotations
from deploy.dashboard.answering import Answering
from deploy.dashboard.questions import BadQuestionError
from schemas.errors import FatalError, RejectedBatchError, SinkUnavailableError
from sinks.clickhouse import CAUGHT, ClickHouseAddress, sorted_error

PAGE = Path(__file__).parent / "page"
HEADERS = {
    # ECharts positions its tooltips with inline styles.
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ANSWERING = web.AppKey("answering", Answering)
log = structlog.get_logger()


def application(address: ClickHouseAddress) -> web.Application:
    """Return the web application, which asks the ClickHouse at ``address``."""
    app = web.Application(middlewares=[_guarded])
    app[ANSWERING] = Answering(address)
    app.router.add_get("/", _page)
    app.router.add_get("/livez", _alive)
    app.router.add_get("/api/ask/{question}", _ask)
    app.router.add_get("/api/annotations", _annotations)
    app.router.add_get("/api/alerts/{alert_id}/evidence.svg", _evidence)
    app.router.add_static("/page", PAGE)
    app.on_cleanup.append(_close)
    return app


async def _close(app: web.Application) -> None:
    app[ANSWERING].close()


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except BadQuestionError as error:
        response = _json({"error": str(error), "kind": "question"}, 400)
    except SinkUnavailableError as error:
        log.warning("question.failed", path=request.path, error=str(error))
        response = _json({"error": str(error), "kind": "unavailable"}, 503)
    except (FatalError, RejectedBatchError) as error:
        log.warning("question.refused", path=request.path, error=str(error))
        response = _json({"error": str(error), "kind": "refused"}, 502)
    except web.HTTPException as error:
        response = _json({"error": error.reason, "kind": "page"}, error.status)
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-cache")
    return response


def _json(content: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(content), status=status, content_type="application/json")


async def _page(_: web.Request) -> web.StreamResponse:
    return web.FileResponse(PAGE / "index.html")


async def _alive(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _ask(request: web.Request) -> web.Response:
    answer = await request.app[ANSWERING].ask(request.match_info["question"], request.query)
    return _json(
        {
            "sql": answer.sql,
            "columns": answer.columns,
            "rows": answer.rows,
            "asked_at_ms": answer.asked_at_ms,
            "elapsed_ms": answer.elapsed_ms,
        }
    )


async def _annotations(request: web.Request) -> web.Response:
    return _json({"annotations": await annotations(request.app[ANSWERING], request.query)})


async def _evidence(request: web.Request) -> web.Response:
    alert_id = request.match_info["alert_id"]

    def draw(client: Any) -> str | None:
        try:
            evidence = read_evidence(client, request.app[ANSWERING].database, alert_id)
        except CAUGHT as error:
            raise sorted_error(error) from error
        return evidence.svg if evidence else None

    picture = await request.app[ANSWERING].call(draw)
    if picture is None:
        raise web.HTTPNotFound(reason=f"no alert {alert_id}")
    return web.Response(text=picture, content_type="image/svg+xml")
