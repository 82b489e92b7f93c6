"""ClickHouse's HTTP interface over the embedded engine: the server of one machine and of tests.

A real server replaces it by changing one address. It differs from one in this: sessions keep no
state (temporary tables, SET), ClickHouse's own block compression (``compress``, ``decompress``),
external tables and ``input()`` with data are refused, and KILL QUERY knows a query by
``Settings['log_comment']``, not by the id a client gave it.

Source of the interface: ClickHouse, "HTTP interface"; src/Server/HTTPHandler.cpp.
"""

import asyncio
import os
import re
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
import uvloop
from aiohttp import BasicAuth, hdrs, web

from deploy.local.clickhouse_access import User, authenticate
from deploy.local.clickhouse_bodies import Spool, Unpacker, accepted_encoding
from deploy.local.clickhouse_engine import Engine, Request, Result, Stream
from deploy.local.clickhouse_errors import (
    AUTHENTICATION_FAILED,
    NOT_IMPLEMENTED,
    SYNTAX_ERROR,
    TOO_MANY_SIMULTANEOUS_QUERIES,
    UNKNOWN_TYPE_OF_QUERY,
    EngineError,
    refusal,
)
from deploy.local.clickhouse_formats import JOINS, TAILS
from deploy.local.clickhouse_replies import Reply
from deploy.local.clickhouse_statements import (
    QUERY_BYTES_MAX,
    InsertHead,
    first_word,
    insert_head,
    output_format,
    reads_infile,
)
from schemas.errors import FatalError

READ_THREADS = 8
WRITE_THREADS = 8
"""Writes have threads of their own: readers cannot hold up the workers."""
REQUESTS_MAX = 128
"""Requests that run or wait at once; one more is refused with code 202."""
SOCKET_BYTES = 1 << 20
SPOOL_BYTES = 1 << 20
"""Bytes of a body taken off the event loop at once."""
STOP_SECONDS_MAX = 10.0
"""Longest wait for running requests when the server is stopped, then again for the engine."""

# Parameters that speak of the request, not of the engine.
_TRANSPORT = frozenset(
    {
        "add_http_cors_header",
        "buffer_size",
        "cancel_http_readonly_queries_on_client_close",
        "client_protocol_version",
        "compress",
        "database",
        "decompress",
        "default_format",
        "enable_http_compression",
        "http_headers_progress_interval_ms",
        "http_zlib_compression_level",
        "log_comment",
        "password",
        "query",
        "query_id",
        "quota_key",
        "role",
        "send_progress_in_http_headers",
        "session_check",
        "session_id",
        "session_timeout",
        "stacktrace",
        "user",
        "wait_end_of_query",
    }
)
_UNSUPPORTED = ("compress", "decompress", "role")
_STREAMED_WORDS = (b"SELECT", b"WITH", b"(")

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True)
class Received:
    """A statement and, for an INSERT, its data."""

    statement: bytes
    head: InsertHead | None = None
    data: Spool | None = None


class ClickHouseServer:
    """The HTTP interface of one engine."""

    def __init__(self, engine: Engine, users: Mapping[str, User]) -> None:
        self._engine = engine
        self._users = users
        self._readers = ThreadPoolExecutor(READ_THREADS, "read")
        self._writers = ThreadPoolExecutor(WRITE_THREADS, "write")
        self._spoolers = ThreadPoolExecutor(2, "spool")
        self._requests = 0
        self._background: set[asyncio.Future[None]] = set()

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application(client_max_size=16 * QUERY_BYTES_MAX)
        application.router.add_route("*", "/", self._answer)
        for path in ("/ping", "/replicas_status"):
            application.router.add_get(path, _ok)
        return application

    async def close(self) -> None:
        """Wait for what still runs in threads, then for the engine to close."""
        if self._background:
            await asyncio.wait(self._background)
        for pool in (self._readers, self._writers, self._spoolers):
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)
        self._engine.close()

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        if http.method not in ("GET", "HEAD", "POST"):
            return web.Response(status=501, text="only GET and POST\n")
        if http.method != "POST" and "query" not in http.query:
            return await _ok(http)
        try:
            if self._requests >= REQUESTS_MAX:
                raise refusal(
                    TOO_MANY_SIMULTANEOUS_QUERIES,
                    f"Too many simultaneous queries. Maximum: {REQUESTS_MAX}",
                )
            self._requests += 1
            try:
                return await self._run(http)
            finally:
                self._requests -= 1
        except EngineError as error:
            return self._error(error, http.query.get("query_id", ""))

    async def _run(self, http: web.Request) -> web.StreamResponse:
        parameters = {**http.query}
        user = authenticate(self._users, *_credentials(http, parameters))
        if http.content_type == "multipart/form-data":
            parameters.update(await _form_fields(http))
        for name in _UNSUPPORTED:
            if parameters.get(name, "0") not in ("", "0"):
                raise refusal(NOT_IMPLEMENTED, f"Parameter {name} is not supported here")
        received = await self._receive(http, parameters.get("query", "").encode(), user)
        request = Request(
            user=user,
            query_id=str(uuid.uuid4()),
            statement=received.statement,
            database=parameters.get("database", http.headers.get("X-ClickHouse-Database", "")),
            settings={
                name: value
                for name, value in parameters.items()
                if name not in _TRANSPORT and not name.startswith("param_")
            },
            parameters={
                name.removeprefix("param_"): value
                for name, value in parameters.items()
                if name.startswith("param_")
            },
            default_format=parameters.get("default_format")
            or http.headers.get("X-ClickHouse-Format")
            or "TabSeparated",
            get=http.method != "POST",
        )
        reply = self._reply(http, request, parameters)
        if received.head is not None and received.data is not None:
            head, data = received.head, received.data
            return await reply.whole(await self._insert(request, head, data))
        reads = self._engine.reads_only(request.statement)
        wait = parameters.get("wait_end_of_query", "0") not in ("", "0")
        word = first_word(request.statement)
        if reads and not wait and reply.format in JOINS and word in _STREAMED_WORDS:
            return await self._stream(request, reply)
        pool = self._readers if reads else self._writers
        query = self._in(pool, self._engine.query, request)
        return await reply.whole(await (self._stoppable(request, query) if reads else query))

    async def _insert(self, request: Request, head: InsertHead, data: Spool) -> Result:
        def insert() -> Result:
            try:
                return self._engine.insert(request, head, data)
            finally:
                data.close()

        # Shielded: a client that leaves does not stop an insert half way through its views.
        return await asyncio.shield(self._in(self._writers, insert))

    async def _stream(self, request: Request, reply: Reply) -> web.StreamResponse:
        stream = Stream(self._engine, request)
        try:
            index = 0
            piece = await self._stoppable(request, self._in(self._readers, stream.fetch))
            await reply.start()
            while piece is not None:
                await reply.write(JOINS[reply.format](piece, index))
                index += 1
                piece = await self._stoppable(request, self._in(self._readers, stream.fetch))
            return await reply.end(TAILS.get(reply.format, b"") if index else b"")
        except EngineError as error:
            if not reply.started:
                raise
            return await reply.break_off(self._text(error))
        finally:
            self._later(self._in(self._readers, stream.close))

    async def _stoppable(self, request: Request, running: asyncio.Future[T]) -> T:
        """Wait for a query; stop it if the client leaves."""
        try:
            return await running
        except asyncio.CancelledError:
            self._later(self._in(self._writers, self._engine.stop, request.query_id))
            raise

    async def _receive(self, http: web.Request, query: bytes, user: User) -> Received:
        """Return the statement of a request, the INSERT's data already in memory files."""
        buffer = query + b"\n" if query.strip() else b""
        unpacker = Unpacker(http.headers.get(hdrs.CONTENT_ENCODING, ""))
        head = insert_head(buffer, complete=False)
        chunks = _chunks(http)
        if head is None:
            async for chunk in chunks:
                buffer += unpacker.unpack(chunk)
                if (head := insert_head(buffer, complete=False)) is not None:
                    break
                if len(buffer) > QUERY_BYTES_MAX:
                    raise refusal(SYNTAX_ERROR, f"Max query size exceeded: {QUERY_BYTES_MAX} bytes")
            else:
                unpacker.finish()
                head = insert_head(buffer, complete=True)
        if head is None:
            if reads_infile(buffer):
                raise refusal(UNKNOWN_TYPE_OF_QUERY, "Query has infile and was sent over HTTP")
            return Received(buffer)
        statement = b"%b %b FORMAT %b" % (head.target, head.settings, head.format)
        data = Spool()
        if not user.read_only:  # A reader's data is not taken: the engine refuses the INSERT.
            data.write(buffer[head.data_start :])
            await self._spool(chunks, unpacker, data)
        return Received(statement, head, data)

    async def _spool(self, chunks: AsyncIterator[bytes], unpacker: Unpacker, data: Spool) -> None:
        def take(batch: list[bytes]) -> None:
            for chunk in batch:
                data.write(unpacker.unpack(chunk))

        batch: list[bytes] = []
        size = 0
        async for chunk in chunks:
            batch.append(chunk)
            size += len(chunk)
            if size >= SPOOL_BYTES:
                await self._in(self._spoolers, take, batch)
                batch, size = [], 0
        if batch:
            await self._in(self._spoolers, take, batch)
        unpacker.finish()

    def _in(
        self, pool: ThreadPoolExecutor, function: Callable[..., T], *arguments: object
    ) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(pool, function, *arguments)

    def _later(self, running: asyncio.Future[None]) -> None:
        self._background.add(running)
        running.add_done_callback(self._background.discard)

    def _reply(self, http: web.Request, request: Request, parameters: Mapping[str, str]) -> Reply:
        format_name = output_format(request.statement) or request.default_format
        headers = {
            **self._headers(parameters.get("query_id") or request.query_id),
            hdrs.CONTENT_TYPE: self._engine.content_types.get(
                format_name, "text/plain; charset=UTF-8"
            ),
            "X-ClickHouse-Format": _header_text(format_name),
        }
        encoding = None
        if parameters.get("enable_http_compression", "1") not in ("0", "false"):
            encoding = accepted_encoding(http.headers.get(hdrs.ACCEPT_ENCODING, ""))
        return Reply(http, format_name, headers, encoding)

    def _headers(self, query_id: str) -> dict[str, str]:
        return {
            "X-ClickHouse-Server-Display-Name": self._engine.host,
            "X-ClickHouse-Query-Id": _header_text(query_id),
            "X-ClickHouse-Timezone": self._engine.timezone,
        }

    def _text(self, error: EngineError) -> bytes:
        return f"{error.text} (version {self._engine.version})\n".encode(errors="replace")

    def _error(self, error: EngineError, query_id: str) -> web.Response:
        headers = self._headers(query_id) | {"X-ClickHouse-Exception-Code": str(error.code)}
        if error.status == 401:
            headers[hdrs.WWW_AUTHENTICATE] = 'Basic realm="ClickHouse server HTTP API"'
        return web.Response(
            status=error.status,
            headers=headers,
            body=self._text(error),
            content_type="text/plain",
            charset="UTF-8",
        )


async def _ok(_: web.Request) -> web.Response:
    return web.Response(body=b"Ok.\n", content_type="text/html", charset="UTF-8")


async def _chunks(http: web.Request) -> AsyncIterator[bytes]:
    if http.content_type == "multipart/form-data":
        return  # Its fields are read already.
    while chunk := await http.content.readany():
        yield chunk


async def _form_fields(http: web.Request) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in (await http.post()).items():
        if not isinstance(value, str):
            raise refusal(NOT_IMPLEMENTED, "External tables are not supported here")
        fields[name] = value
    return fields


def _credentials(http: web.Request, parameters: Mapping[str, str]) -> tuple[str, str]:
    """Return user and password, of the headers, Basic authentication or the URL."""
    headers = http.headers
    if "X-ClickHouse-User" in headers:
        return headers["X-ClickHouse-User"], headers.get("X-ClickHouse-Key", "")
    if hdrs.AUTHORIZATION in headers:
        try:
            basic = BasicAuth.decode(headers[hdrs.AUTHORIZATION], encoding="utf-8")
        except ValueError as error:
            raise refusal(AUTHENTICATION_FAILED, f"Invalid authentication: {error}") from None
        return basic.login or "default", basic.password
    return parameters.get("user", "default"), parameters.get("password", "")


def _header_text(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text)[:200]


async def _serve(engine: Engine, users: Mapping[str, User], host: str, port: int) -> None:
    server = ClickHouseServer(engine, users)
    runner = web.AppRunner(
        server.application(),
        access_log=None,
        handler_cancellation=True,
        auto_decompress=False,
        read_bufsize=SOCKET_BYTES,
        shutdown_timeout=STOP_SECONDS_MAX,
    )
    await runner.setup()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise FatalError(
            f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()};"
            " stop what listens there or choose another --port"
        ) from None
    print(f"clickhouse {engine.version} ready: http://{host}:{port}", flush=True)
    await stopped.wait()
    log.info("clickhouse.stopping")
    await runner.cleanup()
    try:
        await asyncio.wait_for(server.close(), STOP_SECONDS_MAX)
    except TimeoutError:
        # As a kill, which the data survives: what runs has not been acknowledged.
        log.warning("clickhouse.stopped_while_busy")
        os._exit(1)
    log.info("clickhouse.stopped")


def run_server(directory: Path, users: Mapping[str, User], host: str, port: int) -> None:
    """Serve the engine of ``directory`` until SIGTERM or SIGINT.

    Raises:
        FatalError: If the directory or the port cannot be used.
    """
    engine = Engine(directory)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(engine, users, host, port))
