"""Damage record batches where a broker keeps them, as a failing disk or a faulty broker would.

Over the network they can't be damaged: the broker refuses what it can't read itself.
"""

import struct
from pathlib import Path

import crc32c

BATCH_HEAD = struct.Struct(">qi")
CRC_AT, ATTRIBUTES_AT, RECORDS_AT = 17, 21, 61
"""Positions in a record batch of format 2: https://kafka.apache.org/documentation/#recordbatch."""


def segment(data_dir: Path, topic: str, partition: int) -> Path:
    """Return the file of a partition's only segment."""
    (found,) = data_dir.rglob(f"{topic}-{partition}/*.log")
    return found


def damage(file: Path, number: int, records: bytes | None) -> None:
    """Damage a record batch in place.

    Args:
        number: Which batch of the file, from 0 on.
        records: What stands for its records from now on, padded with zeros or cut; the checksum is
            made right. None flips a byte and leaves the checksum as it is.
    """
    data = bytearray(file.read_bytes())
    begin = 0
    for _ in range(number):
        begin += BATCH_HEAD.size + BATCH_HEAD.unpack_from(data, begin)[1]
    end = begin + BATCH_HEAD.size + BATCH_HEAD.unpack_from(data, begin)[1]
    if records is None:
        data[end - 1] ^= 0xFF
    else:
        room = end - begin - RECORDS_AT
        data[begin + RECORDS_AT : end] = records[:room].ljust(room, b"\0")
        crc = crc32c.crc32c(bytes(data[begin + ATTRIBUTES_AT : end]))
        struct.pack_into(">I", data, begin + CRC_AT, crc)
    with file.open("r+b") as opened:
        opened.write(data)
