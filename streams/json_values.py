"""JSON values in the bytes of a line, read by compiled loops.

Each function takes where a value begins and returns where it ends, or `DOUBT` when it is not plainly
valid; the strict decoder then says what it is. Every loop ends at a newline, which no JSON text holds
and which follows each line, the last one too: so none looks beyond the text.
"""

from typing import Final

import numpy as np

from streams.compiled import Pointer, compiled

DOUBT: Final = -1

NEWLINE, TAB, RETURN, SPACE = 0x0A, 0x09, 0x0D, 0x20
QUOTE, BACKSLASH, COLON, COMMA, DOT, PLUS, DASH = 0x22, 0x5C, 0x3A, 0x2C, 0x2E, 0x2B, 0x2D
OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY = 0x7B, 0x7D, 0x5B, 0x5D
ZERO, NINE, LETTER_A, LETTER_F = 0x30, 0x39, 0x61, 0x66
LETTER_E, LETTER_N, LETTER_T, LETTER_Z = 0x65, 0x6E, 0x74, 0x7A
LOWER = 0x20
"""Set in a letter, it makes it a small one."""
FIRST_PRINTABLE, FIRST_BEYOND_ASCII = 0x20, 0x80
CONTINUED, CONTINUED_MASK = 0x80, 0xC0
"""Bytes after the first one of a character in UTF-8."""
TRUE, FALSE, NULL = (tuple(word) for word in (b"true", b"false", b"null"))
SHORT_ESCAPES = tuple(b'"\\/bfnrt')
DIGITS_MAX = 18
"""So many digits fit an Int64, whatever they are."""
HASH_DIGITS, PREFIX_DIGITS = 64, 16
DEPTH_MAX = 60
NO_DIGITS = -10_000


@compiled
def after_space(text: Pointer, at: int) -> int:
    """Return where something else begins."""
    while text[at] == SPACE or text[at] == TAB or text[at] == RETURN:
        at += 1
    return at


@compiled
def after_null(text: Pointer, at: int) -> int:
    """Read ``null``."""
    return _after_word(text, at, NULL)


@compiled
def after_boolean(text: Pointer, at: int) -> int:
    """Read ``true`` or ``false``."""
    return _after_word(text, at, TRUE) if text[at] == LETTER_T else _after_word(text, at, FALSE)


@compiled
def _after_word(text: Pointer, at: int, word: tuple[int, ...]) -> int:
    for letter in word:
        if text[at] != letter:
            return DOUBT
        at += 1
    return at


@compiled
def integer(text: Pointer, at: int) -> tuple[int, int]:
    """Read an integer; return where it ends and its value.

    A dot or an exponent after it is left to the caller, who wants a comma or a bracket.
    """
    is_negative = text[at] == DASH
    start = at + 1 if is_negative else at
    at = start
    value = 0
    while ZERO <= text[at] <= NINE and at - start <= DIGITS_MAX:
        value = value * 10 + (text[at] - ZERO)
        at += 1
    digits = at - start
    if digits == 0 or digits > DIGITS_MAX:
        return DOUBT, 0
    # Zeros in front are no JSON; "-0" is left to the strict decoder too.
    if text[start] == ZERO and (digits > 1 or is_negative):
        return DOUBT, 0
    return at, -value if is_negative else value


@compiled
def end_of_name(text: Pointer, at: int) -> int:
    """Return where the quote is that ends a text of ASCII without escapes."""
    while text[at] != QUOTE:
        byte = text[at]
        if byte < FIRST_PRINTABLE or byte >= FIRST_BEYOND_ASCII or byte == BACKSLASH:
            return DOUBT
        at += 1
    return at


@compiled
def end_of_id(text: Pointer, at: int, length_max: int, is_utf8: bool) -> int:
    """Return where the quote is that ends a text without escapes of so many characters at most."""
    start, continued = at, 0
    while text[at] != QUOTE:
        byte = text[at]
        if byte < FIRST_PRINTABLE or byte == BACKSLASH:
            return DOUBT
        if byte >= FIRST_BEYOND_ASCII:
            if not is_utf8:
                return DOUBT
            if byte & CONTINUED_MASK == CONTINUED:
                continued += 1
        at += 1
    return DOUBT if at - start - continued > length_max else at


@compiled
def hash_prefix(text: Pointer, at: int, end: int) -> tuple[int, np.uint64]:
    """Read 64 hexadecimal digits and a quote; return where they end, and the first 16 as a number.

    Without a branch for each digit: whether one is a letter is chance, which processors guess badly.
    """
    value, are_digits = np.uint64(0), True
    if at + HASH_DIGITS >= end:
        return DOUBT, value
    for digit in range(HASH_DIGITS):
        byte = text[at + digit]
        is_decimal = (byte >= ZERO) & (byte <= NINE)
        is_letter = (byte | LOWER >= LETTER_A) & (byte | LOWER <= LETTER_F)
        are_digits &= is_decimal | is_letter
    for digit in range(PREFIX_DIGITS):
        byte = text[at + digit]
        value = (value << np.uint64(4)) | np.uint64((byte & 0x0F) + (byte >> 6) * 9)
    at += HASH_DIGITS
    return (at + 1, value) if are_digits and text[at] == QUOTE else (DOUBT, value)


# --- Instants ----------------------------------------------------------------------------------


@compiled
def instant(text: Pointer, at: int) -> tuple[int, int]:
    """Read an RFC 3339 timestamp and a quote; return where they end, and epoch milliseconds.

    Finer digits than three of a second are cut, not rounded.

    Source:
        RFC 3339 section 5.6, as `schemas.usage_event.parse_timestamp` restricts it.
    """
    # One after the other: what comes after a newline is not this line's, or beyond the text.
    days = _day(text, at)
    if days == NO_DIGITS:
        return DOUBT, 0
    at, seconds = _clock(text, at + 10)
    if at == DOUBT:
        return DOUBT, 0
    at, milliseconds = _fraction(text, at)
    if at == DOUBT:
        return DOUBT, 0
    at, ahead_minutes = _zone(text, at)
    if at == DOUBT or text[at] != QUOTE:
        return DOUBT, 0
    minutes = days * 24 * 60 - ahead_minutes
    return at + 1, (minutes * 60 + seconds) * 1000 + milliseconds


@compiled
def _day(text: Pointer, at: int) -> int:
    """Return days since 1970-01-01 of ``YYYY-MM-DD``, or `NO_DIGITS`.

    Source:
        Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
    """
    year = _two_digits(text, at) * 100
    if year < 0:
        return NO_DIGITS
    year += _two_digits(text, at + 2)
    if year < 1 or text[at + 4] != DASH:
        return NO_DIGITS
    month = _two_digits(text, at + 5)
    if not 1 <= month <= 12 or text[at + 7] != DASH:
        return NO_DIGITS
    day = _two_digits(text, at + 8)
    if not 1 <= day <= _days_in_month(year, month):
        return NO_DIGITS
    if month <= 2:
        year -= 1
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468


@compiled
def _days_in_month(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@compiled
def _two_digits(text: Pointer, at: int) -> int:
    tens = text[at] - ZERO
    if not 0 <= tens <= 9:
        return NO_DIGITS
    ones = text[at + 1] - ZERO
    return tens * 10 + ones if 0 <= ones <= 9 else NO_DIGITS


@compiled
def _clock(text: Pointer, at: int) -> tuple[int, int]:
    """Read ``THH:MM:SS``; return the seconds."""
    if text[at] | LOWER != LETTER_T:
        return DOUBT, 0
    hour = _two_digits(text, at + 1)
    if not 0 <= hour <= 23 or text[at + 3] != COLON:
        return DOUBT, 0
    minute = _two_digits(text, at + 4)
    if not 0 <= minute <= 59 or text[at + 6] != COLON:
        return DOUBT, 0
    second = _two_digits(text, at + 7)
    if not 0 <= second <= 59:
        return DOUBT, 0
    return at + 9, (hour * 60 + minute) * 60 + second


@compiled
def _fraction(text: Pointer, at: int) -> tuple[int, int]:
    """Read one to nine digits of a second, or none at all; return the milliseconds."""
    if text[at] != DOT:
        return at, 0
    start = at + 1
    at = start
    milliseconds = 0
    while ZERO <= text[at] <= NINE:
        if at - start < 3:
            milliseconds = milliseconds * 10 + (text[at] - ZERO)
        at += 1
    digits = at - start
    if not 1 <= digits <= 9:
        return DOUBT, 0
    for _ in range(digits, 3):
        milliseconds *= 10
    return at, milliseconds


@compiled
def _zone(text: Pointer, at: int) -> tuple[int, int]:
    """Read ``Z`` or an offset; return the minutes that it is ahead of UTC."""
    if text[at] | LOWER == LETTER_Z:
        return at + 1, 0
    if text[at] != PLUS and text[at] != DASH:
        return DOUBT, 0
    hour = _two_digits(text, at + 1)
    if not 0 <= hour <= 23 or text[at + 3] != COLON:
        return DOUBT, 0
    minute = _two_digits(text, at + 4)
    if not 0 <= minute <= 59:
        return DOUBT, 0
    minutes = hour * 60 + minute
    return at + 6, minutes if text[at] == PLUS else -minutes


# --- Values that nobody asked for --------------------------------------------------------------


@compiled
def after_any(text: Pointer, at: int, is_utf8: bool) -> int:
    """Read any value: members that are not known may hold what they like."""
    is_object = np.uint64(0)  # A bit for each depth: an object, or an array.
    depth = 0
    while True:
        if depth and (is_object >> np.uint64(depth)) & np.uint64(1):
            at = _after_name(text, at, is_utf8)
            if at == DOUBT:
                return DOUBT
        if text[at] == OPEN_OBJECT or text[at] == OPEN_ARRAY:
            opened_object = text[at] == OPEN_OBJECT
            at = after_space(text, at + 1)
            if text[at] != (CLOSE_OBJECT if opened_object else CLOSE_ARRAY):
                depth += 1
                if depth > DEPTH_MAX:
                    return DOUBT
                bit = np.uint64(1) << np.uint64(depth)
                is_object = is_object | bit if opened_object else is_object & ~bit
                continue
            at += 1
        else:
            at = _after_scalar(text, at, is_utf8)
            if at == DOUBT:
                return DOUBT
        while depth:
            at = after_space(text, at)
            if text[at] == COMMA:
                at = after_space(text, at + 1)
                break
            in_object = (is_object >> np.uint64(depth)) & np.uint64(1)
            if text[at] != (CLOSE_OBJECT if in_object else CLOSE_ARRAY):
                return DOUBT
            depth -= 1
            at += 1
        if depth == 0:
            return at


@compiled
def _after_name(text: Pointer, at: int, is_utf8: bool) -> int:
    if text[at] != QUOTE:
        return DOUBT
    at = _after_text(text, at + 1, is_utf8)
    if at == DOUBT:
        return DOUBT
    at = after_space(text, at)
    return after_space(text, at + 1) if text[at] == COLON else DOUBT


@compiled
def _after_scalar(text: Pointer, at: int, is_utf8: bool) -> int:
    if text[at] == QUOTE:
        return _after_text(text, at + 1, is_utf8)
    if text[at] == LETTER_N:
        return after_null(text, at)
    if text[at] == DASH or ZERO <= text[at] <= NINE:
        return _after_number(text, at)
    return after_boolean(text, at)


@compiled
def _after_text(text: Pointer, at: int, is_utf8: bool) -> int:
    while text[at] != QUOTE:
        byte = text[at]
        if byte < FIRST_PRINTABLE or (byte >= FIRST_BEYOND_ASCII and not is_utf8):
            return DOUBT
        at += 1
        if byte == BACKSLASH:
            # After "\u" may stand half of a pair; the strict decoder knows.
            if text[at] not in SHORT_ESCAPES:
                return DOUBT
            at += 1
    return at + 1


@compiled
def _after_number(text: Pointer, at: int) -> int:
    """Read a number without exponent."""
    start = at + 1 if text[at] == DASH else at
    at = _after_digits(text, start)
    if at == start or at - start > DIGITS_MAX or (text[start] == ZERO and at - start > 1):
        return DOUBT
    if text[at] == DOT:
        start = at + 1
        at = _after_digits(text, start)
        if at == start:
            return DOUBT
    return DOUBT if text[at] | LOWER == LETTER_E else at


@compiled
def _after_digits(text: Pointer, at: int) -> int:
    while ZERO <= text[at] <= NINE:
        at += 1
    return at
