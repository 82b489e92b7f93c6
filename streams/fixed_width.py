"""Timestamps and hashes of a whole batch, read from their bytes at once.

Each function also returns which rows it could read; the caller gives the others to the strict
decoder, so a form that is missing here costs time, never a record.
"""

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int64)
_HASH_DIGITS = 64
_FRACTION_DIGITS_MAX = 9
_NO_DIGIT = 255
_NIBBLES = bytes(
    int(chr(byte), 16) if chr(byte) in "0123456789abcdefABCDEF" else _NO_DIGIT
    for byte in range(256)
)
"""Value of each byte as a hexadecimal digit, for ``bytes.translate``."""
_MINUTE_WIDTH = len("YYYY-MM-DDTHH:MM:")
_SAME_MINUTE_MIN = 4
"""Rows of one minute are read together while they are at least one in so many."""


def _matrix(series: pl.Series, width: int) -> Bytes:
    """Return texts of ``width`` bytes each as rows of bytes; no nulls."""
    array = series.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    assert isinstance(array, pa.LargeStringArray)
    _, offsets, data = array.buffers()
    first = int(np.frombuffer(offsets, dtype=np.int64)[array.offset])
    flat = np.frombuffer(data, dtype=np.uint8)[first : first + len(array) * width]
    return flat.reshape(len(array), width)


def instants(series: pl.Series) -> tuple[Int64s, Mask]:
    """Return epoch milliseconds of RFC 3339 timestamps, and which rows could be read.

    Read are ``YYYY-MM-DDTHH:MM:SS[.f...](Z|+HH:MM|-HH:MM)`` with one to nine fraction digits, cut
    (not rounded) to milliseconds.
    """
    epoch_ms = np.zeros(len(series), dtype=np.int64)
    readable = np.zeros(len(series), dtype=np.bool_)
    widths = series.str.len_bytes().fill_null(0).to_numpy()
    for width in np.unique(widths):
        if not 20 <= width <= 35:
            continue
        rows = np.flatnonzero(widths == width)
        whole = len(rows) == len(series)
        text = _matrix(series if whole else series.gather(rows), int(width))
        epoch_ms[rows], readable[rows] = _instants_of_width(text)
    return epoch_ms, readable


def _instants_of_width(text: Bytes) -> tuple[Int64s, Mask]:
    """Read timestamps of one width, those of the same minute together: live traffic has one or two."""
    epoch_ms = np.zeros(len(text), dtype=np.int64)
    readable = np.zeros(len(text), dtype=np.bool_)
    left = np.arange(len(text))
    while len(left):
        rows = text if len(left) == len(text) else text[left]
        same = _same_minute(rows)
        if np.count_nonzero(same) * _SAME_MINUTE_MIN < len(rows):
            epoch_ms[left], readable[left] = _instants_one_by_one(rows)
            break
        of_minute = left[same]
        epoch_ms[of_minute], readable[of_minute] = _of_one_minute(
            rows if len(of_minute) == len(rows) else rows[same]
        )
        left = left[~same]
    return epoch_ms, readable


def _same_minute(text: Bytes) -> Mask:
    """Return the rows that are in UTC and have the minute of the first row."""
    same: Mask = text[:, -1] == ord("Z")
    words = np.ascontiguousarray(text[:, :16]).view(np.uint64)
    same &= words[:, 0] == words[0, 0]
    same &= words[:, 1] == words[0, 1]
    same &= text[:, 16] == ord(":")
    return same


def _of_one_minute(text: Bytes) -> tuple[Int64s, Mask]:
    """Read timestamps that differ in seconds and fraction only."""
    minute = text[:1].copy()
    digits = minute[0, _MINUTE_WIDTH:-1]
    digits[digits != ord(".")] = ord("0")
    start_ms, is_minute = _without_zone(minute, 1)
    past_ms, readable = _seconds(text, text.shape[1] - 1)
    return start_ms + past_ms, readable & is_minute


def _instants_one_by_one(text: Bytes) -> tuple[Int64s, Mask]:
    """Read timestamps of one width: those that end in Z, and those that end in an offset."""
    epoch_ms, readable = _without_zone(text, 1)
    is_utc = text[:, -1] == ord("Z")
    readable &= is_utc
    if is_utc.all() or text.shape[1] < 25:
        return epoch_ms, readable
    zoned_ms, zoned = _without_zone(text, 6)
    sign, hours, minutes = text[:, -6], _number(text, -5, -3), _number(text, -2, None)
    zoned &= ((sign == ord("+")) | (sign == ord("-"))) & (text[:, -3] == ord(":"))
    zoned &= (hours >= 0) & (hours <= 23) & (minutes >= 0) & (minutes <= 59) & ~is_utc
    shift_ms = (hours * 60 + minutes) * 60_000
    zoned_ms = zoned_ms - np.where(sign == ord("-"), -shift_ms, shift_ms)
    return np.where(zoned, zoned_ms, epoch_ms), readable | zoned


def _without_zone(text: Bytes, zone_width: int) -> tuple[Int64s, Mask]:
    year, month, day = _number(text, 0, 4), _number(text, 5, 7), _number(text, 8, 10)
    hour, minute = _number(text, 11, 13), _number(text, 14, 16)
    dash, colon = ord("-"), ord(":")
    past_ms, valid = _seconds(text, text.shape[1] - zone_width)
    valid &= (text[:, 4] == dash) & (text[:, 7] == dash) & (text[:, 10] == ord("T"))
    valid &= (text[:, 13] == colon) & (text[:, 16] == colon)
    valid &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0)) & (month == 2)
    valid &= day <= _DAYS_IN_MONTH[np.clip(month, 0, 12)] + leap
    valid &= (hour >= 0) & (hour <= 23) & (minute >= 0) & (minute <= 59)
    days = _days_from_civil(year, month, day)
    return ((days * 24 + hour) * 60 + minute) * 60_000 + past_ms, valid


def _seconds(text: Bytes, end: int) -> tuple[Int64s, Mask]:
    """Return milliseconds since the minute began; ``end`` is where the zone begins."""
    second = _number(text, _MINUTE_WIDTH, _MINUTE_WIDTH + 2)
    valid: Mask = (second >= 0) & (second <= 59)
    if end == _MINUTE_WIDTH + 2:
        return second * 1000, valid
    digits = end - 20
    if not 1 <= digits <= _FRACTION_DIGITS_MAX:
        return np.zeros(len(text), dtype=np.int64), np.zeros(len(text), dtype=np.bool_)
    fraction = _number(text, 20, end)
    valid &= (text[:, 19] == ord(".")) & (fraction >= 0)
    milliseconds = fraction * 10 ** (3 - digits) if digits <= 3 else fraction // 10 ** (digits - 3)
    return second * 1000 + milliseconds, valid


def _number(text: Bytes, start: int, stop: int | None) -> Int64s:
    """Return the decimal number in some columns, -1 where one is no digit."""
    digits = text[:, start:stop] - np.uint8(ord("0"))  # Anything below "0" wraps round to above 9.
    value = np.zeros(len(text), dtype=np.int64)
    for column in range(digits.shape[1]):
        value = value * 10 + digits[:, column]
    if digits.max(initial=0) <= 9:
        return value
    return np.where((digits <= 9).all(axis=1), value, -1)


def _days_from_civil(year: Int64s, month: Int64s, day: Int64s) -> Int64s:
    """Return days since 1970-01-01.

    Source:
        Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
    """
    year = year - (month <= 2)
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    days: Int64s = era * 146_097 + day_of_era - 719_468
    return days


def hash_prefixes(series: pl.Series) -> tuple[pa.Array, Mask]:
    """Return the first 16 of 64 hex digits as a big-endian integer, null for null.

    Also returns which rows could be read; null can.
    """
    absent = series.is_null().to_numpy()
    widths = series.str.len_bytes().fill_null(0).to_numpy()
    fits = widths == _HASH_DIGITS
    values = np.zeros(len(series), dtype=np.uint64)
    readable = absent.copy()
    if fits.any():
        text = _matrix(series if fits.all() else series.filter(pl.Series(fits)), _HASH_DIGITS)
        nibbles = np.frombuffer(text.tobytes().translate(_NIBBLES), dtype=np.uint8)
        are_digits = nibbles.max() != _NO_DIGIT
        nibbles = nibbles.reshape(text.shape)
        head = (nibbles[:, 0:16:2] << 4) | nibbles[:, 1:16:2]
        values[fits] = np.ascontiguousarray(head).view(">u8").ravel()
        readable[fits] = True if are_digits else (nibbles != _NO_DIGIT).all(axis=1)
    return pa.array(values, mask=absent), readable
