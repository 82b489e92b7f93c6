"""A TCP proxy between worker and ClickHouse that does to requests what networks and servers do.

It reads HTTP just far enough to know where a request and an answer end. What happens to a request is
decided by the `Rule` in force when it has arrived.
"""

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc

from deploy.local.processes import LOOPBACK

Kind = str
CUT_REQUEST = "cut request"
CUT_ANSWER = "cut answer"
HOLD_REQUEST = "hold request"
HOLD_ANSWER = "hold answer"
RESET = "reset"
ANSWER = "answer"
CALL = "call"
CALL_AFTER = "call after the answer"
KINDS = (CUT_REQUEST, CUT_ANSWER, HOLD_REQUEST, HOLD_ANSWER, RESET, ANSWER, CALL, CALL_AFTER)
HEAD_BYTES_MAX = 1 << 20
CHUNK_BYTES = 1 << 18
STATEMENT_BYTES_MAX = 4096
INTO = re.compile(r"INSERT\s+INTO\s+([\w.`]+)")
T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """What happens to requests.

    Attributes:
        kind: Of `KINDS`. Cuts end both connections after ``part`` of the request or the answer;
            holds keep the request, or its answer, until the rule is lifted; an answer comes in
            ClickHouse's place with error ``code``; a call runs ``call`` while ClickHouse works, or as
            soon as its answer has been passed on.
        part: How much gets through a cut, 0 to 1.
        code: ClickHouse's error code; 0 is an HTTP status 503 without one.
        marker: Only inserts of Arrow rows of which an ``event_id`` starts with these bytes.
        inserts_only: Leave queries alone.
        table: Only inserts into this table. A worker's others come when they may, in between.
        times: How many requests; -1 until the rule is lifted.
    """

    kind: Kind
    part: float = 0.0
    code: int = 0
    marker: bytes = b""
    inserts_only: bool = True
    table: str = ""
    times: int = -1
    call: Callable[[], None] = lambda: None


@dataclass
class Proxy:
    """Listens on ``port`` and passes on to ``target_port``, both of the loopback interface.

    Attributes:
        hits: How often each kind of rule was applied.
    """

    port: int
    target_port: int
    hits: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    inserts: int = 0

    def start(self) -> None:
        """Listen, in a thread of its own."""
        self._rules: list[Rule] = []
        self._used: dict[int, int] = {}
        self._lifted = asyncio.Event()
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._listen())

    def stop(self) -> None:
        """End every connection and the thread."""
        self._run(self._close())
        self._run(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, *rules: Rule) -> None:
        """Put rules in force, in place of those that are; what is held is let go."""
        self._run(self._set(rules))

    def lift(self) -> None:
        """Pass everything on again."""
        self.set()

    def refuse(self) -> None:
        """Stop listening: connections are refused."""
        self._run(self._close())

    def accept(self) -> None:
        """Listen again."""
        self._run(self._listen())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _set(self, rules: tuple[Rule, ...]) -> None:
        self._rules = list(rules)
        self._used = dict.fromkeys(range(len(rules)), 0)
        self._lifted.set()
        self._lifted = asyncio.Event()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, LOOPBACK, self.port, limit=HEAD_BYTES_MAX
            )

    async def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in list(self._connections):
            writer.transport.abort()

    async def _end_tasks(self) -> None:
        tasks = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._connections.add(writer)
        try:
            while (request := await read_message(reader)) is not None:
                rule = self._rule(request)
                if rule is not None and rule.kind in (RESET, ANSWER):
                    if rule.kind == RESET:
                        return
                    writer.write(refusal(rule.code))
                    await writer.drain()
                    continue
                if rule is not None and rule.kind == HOLD_REQUEST:
                    await self._lifted.wait()
                    return
                if upstream is None:
                    upstream = await asyncio.open_connection(
                        LOOPBACK, self.target_port, limit=HEAD_BYTES_MAX
                    )
                    self._connections.add(upstream[1])
                answer = await self._pass_on(request, rule, *upstream)
                if answer is None:
                    return
                writer.write(answer[: _cut(rule, CUT_ANSWER, answer)])
                await writer.drain()
                if rule is not None and rule.kind == CALL_AFTER:
                    rule.call()
                if rule is not None and rule.kind == CUT_ANSWER:
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            pass
        finally:
            for each in (writer, upstream[1]) if upstream else (writer,):
                self._connections.discard(each)
                each.transport.abort()

    async def _pass_on(
        self,
        request: bytes,
        rule: Rule | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bytes | None:
        """Return the answer, or ``None`` if there is none to give."""
        writer.write(request[: _cut(rule, CUT_REQUEST, request)])
        await writer.drain()
        if rule is not None and rule.kind == CUT_REQUEST:
            return None
        if rule is not None and rule.kind == CALL:
            asyncio.get_running_loop().call_later(rule.part, rule.call)
        answer = await read_message(reader)
        if rule is not None and rule.kind == HOLD_ANSWER:
            await self._lifted.wait()
            return None
        return answer

    def _rule(self, request: bytes) -> Rule | None:
        table = inserted_into(request)
        self.inserts += bool(table)
        for number, rule in enumerate(self._rules):
            if (rule.inserts_only and not table) or rule.table not in ("", table):
                continue
            if rule.times >= 0 and self._used[number] >= rule.times:
                continue
            if rule.marker and not has_event(request, rule.marker):
                continue
            self._used[number] += 1
            self.hits[rule.kind] += 1
            return rule
        return None


def inserted_into(request: bytes) -> str:
    """Return the table of an insert, without its database, or an empty string."""
    query, _, rest = request[:STATEMENT_BYTES_MAX].partition(b"\r\n")
    for text in (unquote_plus(query.decode()), rest.decode(errors="replace")):
        found = INTO.search(text)
        if found:
            return found[1].replace("`", "").rpartition(".")[2]
    return ""


def _cut(rule: Rule | None, kind: Kind, message: bytes) -> int:
    if rule is None or rule.kind != kind:
        return len(message)
    return min(int(len(message) * rule.part), len(message) - 1)


async def read_message(reader: asyncio.StreamReader) -> bytes | None:
    """Return one HTTP request or answer, head and body, or ``None`` where the connection ends.

    Raises:
        asyncio.IncompleteReadError: If it ends in the middle.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    fields = head.lower()
    if re.search(rb"\r\ntransfer-encoding: *chunked", fields):
        return head + await _chunked_body(reader)
    length = re.search(rb"\r\ncontent-length: *(\d+)", fields)
    return head + await reader.readexactly(int(length[1])) if length else head


async def _chunked_body(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if size == 0:
            return bytes(body)


def has_event(request: bytes, start: bytes) -> bool:
    """Return whether an insert has a row whose ``event_id`` starts with ``start``.

    The bytes alone do not tell: Arrow pads what it writes with its neighbours.
    """
    begin = request.find(b"ARROW1")
    if start not in request or begin < 0:
        return False
    with pa.ipc.open_file(pa.BufferReader(_unchunked(request, begin))) as rows:
        ids = rows.read_all()["event_id"].cast(pa.string())
    return bool(pc.any(pc.starts_with(ids, start.decode())).as_py())


def _unchunked(request: bytes, begin: int) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return request[begin:]
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].split(b";")[0], 16)
        if size == 0:
            joined = b"".join(parts)
            return joined[joined.index(b"ARROW1") :]
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


def refusal(code: int) -> bytes:
    """Return ClickHouse's answer with an error, or a gateway's 503 without one for code 0."""
    status = b"500 Internal Server Error" if code else b"503 Service Unavailable"
    body = f"Code: {code}. DB::Exception: made up. (MADE_UP)\n" if code else "try later\n"
    header = f"X-ClickHouse-Exception-Code: {code}\r\n" if code else ""
    head = f"{header}Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return b"HTTP/1.1 " + status + b"\r\n" + (head + body).encode()
