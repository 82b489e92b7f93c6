"""ClickHouse's errors as its HTTP interface shows them: code, text and status."""

import re

ACCESS_DENIED = 497
AUTHENTICATION_FAILED = 516
CANNOT_DECOMPRESS = 271
INCORRECT_DATA = 117
INCORRECT_QUERY = 80
INTO_OUTFILE_NOT_ALLOWED = 358
NOT_ENOUGH_SPACE = 243
NOT_IMPLEMENTED = 48
QUERY_IS_TOO_LARGE = 229
READONLY = 164
SYNTAX_ERROR = 62
TOO_MANY_SIMULTANEOUS_QUERIES = 202
UNKNOWN_COMPRESSION_METHOD = 89
UNKNOWN_EXCEPTION = 1002
UNKNOWN_SETTING = 115
UNKNOWN_TYPE_OF_QUERY = 78

NAMES = {
    ACCESS_DENIED: "ACCESS_DENIED",
    AUTHENTICATION_FAILED: "AUTHENTICATION_FAILED",
    CANNOT_DECOMPRESS: "CANNOT_DECOMPRESS",
    INCORRECT_DATA: "INCORRECT_DATA",
    INCORRECT_QUERY: "INCORRECT_QUERY",
    INTO_OUTFILE_NOT_ALLOWED: "INTO_OUTFILE_NOT_ALLOWED",
    NOT_ENOUGH_SPACE: "NOT_ENOUGH_SPACE",
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    QUERY_IS_TOO_LARGE: "QUERY_IS_TOO_LARGE",
    READONLY: "READONLY",
    SYNTAX_ERROR: "SYNTAX_ERROR",
    TOO_MANY_SIMULTANEOUS_QUERIES: "TOO_MANY_SIMULTANEOUS_QUERIES",
    UNKNOWN_COMPRESSION_METHOD: "UNKNOWN_COMPRESSION_METHOD",
    UNKNOWN_EXCEPTION: "UNKNOWN_EXCEPTION",
    UNKNOWN_SETTING: "UNKNOWN_SETTING",
    UNKNOWN_TYPE_OF_QUERY: "UNKNOWN_TYPE_OF_QUERY",
}

# Source: ClickHouse, src/Server/HTTP/exceptionCodeToHTTPStatus.cpp; any other code is a 500.
_CODES_BY_STATUS = {
    400: {6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223}
    | {321, 376, 427, 441, 675, 676},
    401: {194},
    403: {192, 193, ACCESS_DENIED, 512, AUTHENTICATION_FAILED},
    404: {46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511},
    408: {159},
    411: {381},
    413: {QUERY_IS_TOO_LARGE},
    415: {779},
    501: {NOT_IMPLEMENTED},
    503: {76, 209, 439},
}
_STATUS = {code: status for status, codes in _CODES_BY_STATUS.items() for code in codes}

_CODE = re.compile(r"Code: (\d+)\. DB::Exception: ")
_VERSION = re.compile(r" \(version [\w.]+\)\.(?= \([A-Z_]+\)$)")


class EngineError(Exception):
    """A query failed or was refused.

    Attributes:
        code: ClickHouse's error code.
        text: The text as a server sends it: ``Code: 60. DB::Exception: ... (UNKNOWN_TABLE)``.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def status(self) -> int:
        """HTTP status a server answers with."""
        return _STATUS.get(self.code, 500)


def refusal(code: int, message: str) -> EngineError:
    """Return an error of our own in the form of the engine's."""
    return EngineError(code, f"Code: {code}. DB::Exception: {message}. ({NAMES[code]})")


def from_engine(message: str) -> EngineError:
    """Return the error that a chDB exception's text describes.

    chDB wraps some texts twice (``Code: 164. DB::Exception: Code: 164. DB::Exception: ...``).
    """
    first = _CODE.search(message)
    if first is None:
        return refusal(UNKNOWN_EXCEPTION, message.strip() or "no message")
    code = int(first[1])
    text = message[first.end() :].strip()
    while (again := _CODE.match(text)) and int(again[1]) == code:
        text = _VERSION.sub("", text[again.end() :])
    name = re.search(r"\(([A-Z][A-Z0-9_]+)\)$", text)
    if name and text.endswith(twice := f" ({name[1]}) ({name[1]})"):
        text = f"{text.removesuffix(twice)} ({name[1]})"
    return EngineError(code, f"Code: {code}. DB::Exception: {text}")
