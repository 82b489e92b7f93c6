"""Record batches for tests, made as the transport makes them."""

from streams.record_batches import RecordBatch, keep_whole


def record_batch(
    first_offset: int, *values: bytes | None, append_time_ms: int = 1_780_000_000_000
) -> RecordBatch:
    """Return a record batch of ``values`` at consecutive offsets."""
    return keep_whole(list(values), None, first_offset, first_offset + len(values), append_time_ms)
