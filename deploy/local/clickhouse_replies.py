"""Answers to queries over HTTP: headers, chunks, packing, and errors after the headers."""

import asyncio
import functools
import secrets
from contextlib import suppress
from typing import Any

import orjson
from aiohttp import hdrs, web

from deploy.local.clickhouse_bodies import PACKERS
from deploy.local.clickhouse_engine import Result

WRITE_BYTES = 1 << 20
"""Bytes packed and written at once."""
INLINE_BYTES = 1 << 16
"""Fewer bytes are packed on the event loop: a thread costs more."""


class Reply:
    """The answer to one query, sent as it comes, packed as the client accepts."""

    def __init__(
        self, http: web.Request, format_name: str, headers: dict[str, str], encoding: str | None
    ) -> None:
        self.format = format_name
        self.started = False
        self._http = http
        self._tag = secrets.token_hex(8)
        self._packer = PACKERS[encoding]() if encoding else None
        self._response = web.StreamResponse(headers=headers)
        if encoding:
            self._response.headers[hdrs.CONTENT_ENCODING] = encoding

    async def whole(self, result: Result) -> web.StreamResponse:
        """Send a finished query's result."""
        summary = {
            "read_rows": result.read_rows,
            "read_bytes": result.read_bytes,
            "written_rows": result.written_rows,
            "written_bytes": result.written_bytes,
            "total_rows_to_read": 0,
            "result_rows": result.result_rows,
            "result_bytes": len(result.body),
            "elapsed_ns": result.elapsed_ns,
        }
        self._response.headers["X-ClickHouse-Summary"] = orjson.dumps(
            {name: str(value) for name, value in summary.items()}
        ).decode()
        if not result.body:
            self._packer = None
            self._response.headers.pop(hdrs.CONTENT_ENCODING, None)
        if self._packer is None:
            self._response.content_length = len(result.body)
        await self.start()
        await self.write(result.body)
        return await self.end()

    async def start(self) -> None:
        """Send the headers."""
        if self._response.content_length is None:
            self._response.headers["X-ClickHouse-Exception-Tag"] = self._tag
            self._response.enable_chunked_encoding()
        await self._response.prepare(self._http)
        self.started = True

    async def write(self, data: bytes | memoryview) -> None:
        """Send bytes; waits while the client does not read."""
        piece = memoryview(data)
        for start in range(0, len(piece), WRITE_BYTES):
            part = piece[start : start + WRITE_BYTES]
            if self._packer is None:
                await self._response.write(part)
                continue
            pack = functools.partial(_pack, self._packer, part)
            packed = pack() if len(part) < INLINE_BYTES else await asyncio.to_thread(pack)
            if packed:
                await self._response.write(packed)

    async def end(self, tail: bytes = b"") -> web.StreamResponse:
        """Send the last bytes."""
        await self.write(tail)
        if self._packer is not None:
            await self._response.write(bytes(self._packer.finish()))
        await self._response.write_eof()
        return self._response

    async def break_off(self, text: bytes) -> web.StreamResponse:
        """Tell of an error after the headers: its text between marks, then a cut connection.

        Source: ClickHouse 25.11, X-ClickHouse-Exception-Tag.
        """
        tag = self._tag.encode()
        mark = b"\r\n__exception__\r\n"
        body = b"%b%b\r\n%b%d %b%b" % (mark, tag, text, len(text), tag, mark)
        with suppress(ConnectionError):
            await self.write(body)
        if self._http.transport is not None:
            self._http.transport.close()
        return self._response


def _pack(packer: Any, part: memoryview) -> bytes:
    packer.compress(bytes(part))
    return bytes(packer.flush())
