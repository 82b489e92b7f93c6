"""Bodies of requests and responses: unpacked into memory files, packed as the client accepts."""

import os
import sys
import tempfile
import zlib
from collections.abc import Callable
from typing import IO, Any, Protocol

import cramjam
import lz4.frame  # type: ignore[import-untyped]  # has no stubs

from deploy.local.clickhouse_errors import (
    CANNOT_DECOMPRESS,
    NOT_ENOUGH_SPACE,
    QUERY_IS_TOO_LARGE,
    UNKNOWN_COMPRESSION_METHOD,
    EngineError,
    refusal,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd  # What clickhouse-connect itself depends on.

BODY_BYTES_MAX = 2 << 30
"""Longest request body, unpacked. It is kept in memory until the engine has read it."""


# In the order in which they are chosen: cheapest first, most links are loopback.
PACKERS: dict[str, Callable[[], Any]] = {
    "lz4": cramjam.lz4.Compressor,
    "zstd": cramjam.zstd.Compressor,
    "gzip": cramjam.gzip.Compressor,
    "deflate": cramjam.zlib.Compressor,
}


class _Frame(Protocol):
    """A decompressor of one compressed frame."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes | None: ...

    def decompress(self, data: bytes, /) -> bytes: ...


_FRAMES: dict[str, Callable[[], _Frame]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "deflate": zlib.decompressobj,
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
}


class Unpacker:
    """Unpacks a body chunk by chunk. A body may be several frames: clients pack block by block."""

    def __init__(self, content_encoding: str) -> None:
        """Choose the decompressor.

        Raises:
            EngineError: If the encoding is unknown.
        """
        self._encoding = content_encoding.strip().lower()
        self._frame: _Frame | None = None
        if self._encoding not in ("", "identity", *_FRAMES):
            raise refusal(
                UNKNOWN_COMPRESSION_METHOD, f"Unknown Content-Encoding {content_encoding[:40]!r}"
            )

    def unpack(self, chunk: bytes) -> bytes:
        """Return what can be unpacked so far.

        Raises:
            EngineError: If the body is not what its encoding says.
        """
        if self._encoding not in _FRAMES:
            return chunk
        parts = []
        try:
            while chunk:
                if self._frame is None or self._frame.eof:
                    self._frame = _FRAMES[self._encoding]()
                parts.append(self._frame.decompress(chunk))
                chunk = (self._frame.unused_data or b"") if self._frame.eof else b""
        except (zlib.error, zstd.ZstdError, RuntimeError, EOFError) as error:
            raise self._broken(str(error)) from None
        return b"".join(parts)

    def finish(self) -> None:
        """Check that the body was complete.

        Raises:
            EngineError: If its last frame is cut off.
        """
        if self._frame is not None and not self._frame.eof:
            raise self._broken("cut off")

    def _broken(self, detail: str) -> EngineError:
        return refusal(CANNOT_DECOMPRESS, f"Cannot unpack {self._encoding} body: {detail}")


def accepted_encoding(accept_encoding: str) -> str | None:
    """Return the encoding to answer in, or ``None`` for plain bytes."""
    asked = {
        part.split(";")[0].strip().lower()
        for part in accept_encoding.split(",")
        if part.replace(" ", "").partition(";q=")[2] not in ("0", "0.0", "0.00", "0.000")
    }
    return next((name for name in PACKERS if name in asked), None)


class Spool:
    """A file in memory that takes an insert's data and that the engine reads by path.

    It has no name, so that nothing is left of it after a kill.
    """

    def __init__(self) -> None:
        self._file: IO[bytes]
        if hasattr(os, "memfd_create"):
            self._file = os.fdopen(os.memfd_create("insert"), "w+b", buffering=0)
        else:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # lives as long as the spool
        self.size_bytes = 0

    @property
    def path(self) -> str:
        """Path of the data for this process."""
        return f"/dev/fd/{self._file.fileno()}"

    def write(self, data: bytes) -> None:
        """Append ``data``.

        Raises:
            EngineError: If the body is too long or there is no room for it.
        """
        self.size_bytes += len(data)
        if self.size_bytes > BODY_BYTES_MAX:
            raise refusal(QUERY_IS_TOO_LARGE, f"Body is longer than {BODY_BYTES_MAX} bytes")
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise refusal(NOT_ENOUGH_SPACE, f"No room for the body: {error.strerror}") from None

    def rewind(self) -> None:
        """Let the engine read from the start, also where opening the path shares the position."""
        self._file.seek(0)

    def close(self) -> None:
        """Free the memory."""
        self._file.close()
