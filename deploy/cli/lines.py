"""What `validate` and `produce` share: events in a file, one JSON document per line."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from schemas.usage_event import VALUE_BYTES_MAX

METER_LINES = 1000
"""Lines between two updates of the progress bar."""

file_argument = click.argument("file", type=click.File("rb"), metavar="FILE|-")


@dataclass(frozen=True, slots=True)
class Line:
    """A record's value as the file has it, without the newline.

    Attributes:
        number: Of the line, from 1.
        is_cut: The line is longer than a value may be; ``value`` is its beginning, still too long.
    """

    number: int
    value: bytes
    is_cut: bool


def read_lines(file: BinaryIO, title: str) -> Iterator[Line]:
    """Yield every line that is not blank, with a progress bar on a terminal.

    A last line without a newline counts. Memory is bounded by the longest value allowed.
    """
    with _meter(file, title) as meter:
        number = bytes_read = 0
        while text := file.readline(VALUE_BYTES_MAX + 2):
            number += 1
            bytes_read += len(text)
            value = text.removesuffix(b"\n")
            is_cut = len(value) > VALUE_BYTES_MAX
            if is_cut and value is text:
                bytes_read += _skip_line(file)
            if number % METER_LINES == 0:
                meter.update(meter.task_ids[0], completed=bytes_read)
            if is_cut or value.strip():
                yield Line(number, value, is_cut)


def _skip_line(file: BinaryIO) -> int:
    """Read to the end of the line and return how many bytes that was."""
    skipped = 0
    while text := file.readline(VALUE_BYTES_MAX):
        skipped += len(text)
        if text.endswith(b"\n"):
            break
    return skipped


@contextmanager
def _meter(file: BinaryIO, title: str) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    is_shown = sys.stderr.isatty()
    with Progress(
        *columns, TransferSpeedColumn(), console=console, disable=not is_shown, transient=True
    ) as progress:
        progress.add_task(title, total=_size(file))
        yield progress


def _size(file: BinaryIO) -> int | None:
    """Return the bytes of a regular file; None for a pipe or a terminal."""
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
