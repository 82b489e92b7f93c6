"""Records in a file, one line each, byte for byte what was sent."""

import base64
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from schemas.errors import ConfigurationError, FatalError

# A line that starts with it is base64: the value is empty, holds a newline, or starts with it.
_ESCAPE = b"\x1e"


class RecordsFile:
    """Writes values as lines.

    Raises:
        ConfigurationError: If the file cannot be written.
    """

    def __init__(self, file: Path) -> None:
        try:
            self._stream = file.open("wb", buffering=1 << 20)
        except OSError as error:
            raise ConfigurationError(f"cannot write {file}: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def write(self, values: list[bytes]) -> None:
        """Append the values.

        Raises:
            FatalError: If the disk is full or gone.
        """
        try:
            self._stream.write(b"".join([_line(value) for value in values]))
            self._stream.flush()
        except OSError as error:
            raise FatalError(f"cannot write {self._stream.name}: {error.strerror}") from None


def read_records(file: Path) -> Iterator[bytes]:
    """Yield the values of a file that ``RecordsFile`` wrote."""
    with file.open("rb") as stream:
        for line in stream:
            text = line[:-1]
            yield base64.b64decode(text[1:]) if text.startswith(_ESCAPE) else text


def _line(value: bytes) -> bytes:
    if not value or b"\n" in value or value.startswith(_ESCAPE):
        return _ESCAPE + base64.b64encode(value) + b"\n"
    return value + b"\n"
