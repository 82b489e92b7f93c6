"""The client of ClickHouse, and the one place that sorts its failures: retry, reject or stop.

Every access goes through clickhouse-connect over HTTP, so the embedded server of one machine and a
cluster differ in an address only.
"""

import logging
import math
import re
from dataclasses import dataclass, field

import clickhouse_connect
import urllib3
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError, ProgrammingError
from clickhouse_connect.driver.httpclient import HttpClient

from schemas.errors import FatalError, RejectedBatchError, SinkUnavailableError

# The client reports each failure as an exception, which is logged or printed where it is handled;
# its own log lines would say everything twice.
for _name in ("clickhouse_connect", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

CAUGHT = (ClickHouseError, urllib3.exceptions.HTTPError, OSError)
"""What a call to the client may raise for ClickHouse's or the network's reasons."""

MESSAGE_CHARS_MAX = 400

# Server code -> name (ClickHouse src/Common/ErrorCodes.cpp). Not listed: stop, a person is needed.
RETRYABLE_CODES = {
    # The body or the connection broke on the way; the next request may get through.
    3: "UNEXPECTED_END_OF_FILE",
    32: "ATTEMPT_TO_READ_AFTER_EOF",
    33: "CANNOT_READ_ALL_DATA",
    95: "CANNOT_READ_FROM_SOCKET",
    96: "CANNOT_WRITE_TO_SOCKET",
    198: "DNS_ERROR",
    203: "NO_FREE_CONNECTION",
    209: "SOCKET_TIMEOUT",
    210: "NETWORK_ERROR",
    # Overload and shutdown.
    159: "TIMEOUT_EXCEEDED",
    160: "TOO_SLOW",
    173: "CANNOT_ALLOCATE_MEMORY",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    236: "ABORTED",
    241: "MEMORY_LIMIT_EXCEEDED",
    252: "TOO_MANY_PARTS",
    394: "QUERY_WAS_CANCELLED",
    425: "SYSTEM_ERROR",
    439: "CANNOT_SCHEDULE_TASK",
    473: "DEADLOCK_AVOIDED",
    # The disk: someone will make room, and until then nothing may be acknowledged.
    75: "CANNOT_WRITE_TO_FILE_DESCRIPTOR",
    76: "CANNOT_OPEN_FILE",
    243: "NOT_ENOUGH_SPACE",
    # Read-only. 242 is a replica without its Keeper. 164 is a server or user switched to read-only:
    # operators do that for a while, and a worker that waits does no harm, says so on /readyz and
    # goes on by itself.
    164: "READONLY",
    242: "TABLE_IS_READ_ONLY",
    # Keeper, replicas and quorum.
    225: "NO_ZOOKEEPER",
    285: "TOO_FEW_LIVE_REPLICAS",
    286: "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE",
    289: "REPLICA_IS_NOT_IN_QUORUM",
    319: "UNKNOWN_STATUS_OF_INSERT",
    999: "KEEPER_EXCEPTION",
}
REJECTED_CODES = {
    6: "CANNOT_PARSE_TEXT",
    27: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
    38: "CANNOT_PARSE_DATE",
    41: "CANNOT_PARSE_DATETIME",
    53: "TYPE_MISMATCH",
    69: "ARGUMENT_OUT_OF_BOUND",
    70: "CANNOT_CONVERT_TYPE",
    72: "CANNOT_PARSE_NUMBER",
    117: "INCORRECT_DATA",
    131: "TOO_LARGE_STRING_SIZE",
    321: "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
    349: "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN",
    407: "DECIMAL_OVERFLOW",
    467: "CANNOT_PARSE_BOOL",
    469: "VIOLATED_CONSTRAINT",
}
RETRYABLE_HTTP_STATUSES = frozenset({408, 429, 502, 503, 504})


@dataclass(frozen=True)
class ClickHouseAddress:
    """Where ClickHouse is and who asks.

    Attributes:
        database: Database of unqualified names; must exist when connecting to a server.
        connect_timeout_seconds: Longest wait for a connection.
        request_timeout_seconds: Longest wait for the next bytes of an answer. A query that takes
            longer must be bounded by the server's own ``max_execution_time``.
    """

    host: str
    port: int
    user: str
    password: str = field(default="", repr=False)
    database: str = "default"
    secure: bool = False
    connect_timeout_seconds: float = 5.0
    request_timeout_seconds: float = 60.0


def connect(address: ClickHouseAddress) -> HttpClient:
    """Return a client; it may be shared by threads. ``close()`` it to free its connections.

    * No session, so requests run side by side.
    * The driver retries nothing but one case: when the server closes the connection, it sends an
      insert or a read once more without knowing whether the first was executed. That is safe for
      inserts only because each carries a deduplication token.
    * No compression: on one machine or one network the CPU it takes costs more than the bytes.

    Raises:
        SinkUnavailableError: Nothing answers there now.
        FatalError: It answers, but not to this user or database, or it is not ClickHouse.
    """
    try:
        client = clickhouse_connect.get_client(
            host=address.host,
            port=address.port,
            username=address.user,
            password=address.password,
            database=address.database,
            secure=address.secure,
            compress=False,
            query_retries=0,
            # The driver takes whole seconds here and a timeout of 0 is refused.
            connect_timeout=math.ceil(address.connect_timeout_seconds),
            send_receive_timeout=math.ceil(address.request_timeout_seconds),
            autogenerate_session_id=False,
            show_clickhouse_errors="scrub",
            client_name="tokentide",
            tz_mode="aware",
            dedicated_pool=True,
        )
    except CAUGHT as error:
        if _server_code(error) is None and isinstance(_sorted(error), SinkUnavailableError):
            raise SinkUnavailableError(
                f"clickhouse at {address.host}:{address.port} does not answer: {_cause(error)}"
            ) from error
        raise sorted_error(error) from error
    assert isinstance(client, HttpClient)
    # Set after the fact: get_client has no parameter for them.
    client.timeout = urllib3.Timeout(
        connect=address.connect_timeout_seconds, read=address.request_timeout_seconds
    )
    client.http_retries = 0
    return client


def sorted_error(
    error: Exception, *, detail: bool = True
) -> SinkUnavailableError | RejectedBatchError | FatalError:
    """Return what a failed request means for its caller: try again, refuse the rows, or stop.

    Args:
        error: One of ``CAUGHT``.
        detail: Put the server's text into the message. It may quote values of rows.

    Returns:
        The exception to raise, with a message of one line such as
        ``clickhouse: code 252 TOO_MANY_PARTS: too many parts ...``. Anything that is not
        foreseen is a ``FatalError``.
    """
    kind = type(_sorted(error))
    code = _server_code(error)
    if code is None:
        return kind(f"clickhouse: {_cause(error)}")
    text = str(error)
    name = _server_name(code, text)
    head = f"clickhouse: code {code}{f' {name}' if name else ''}"
    return kind(f"{head}: {_server_text(text)}" if detail else head)


def _sorted(error: Exception) -> SinkUnavailableError | RejectedBatchError | FatalError:
    code = _server_code(error)
    if code in RETRYABLE_CODES:
        return SinkUnavailableError()
    if code in REJECTED_CODES:
        return RejectedBatchError()
    if code is not None or isinstance(error, ProgrammingError):
        return FatalError()
    status = re.search(r"HTTP status (\d+)", str(error))
    if status:
        retry = int(status[1]) in RETRYABLE_HTTP_STATUSES
        return SinkUnavailableError() if retry else FatalError()
    network = (OperationalError, urllib3.exceptions.HTTPError, OSError)
    return SinkUnavailableError() if isinstance(error, network) else FatalError()


def _server_code(error: Exception) -> int | None:
    """The server's code: from the header, else from the text (an error in a streamed body)."""
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return code
    found = re.search(r"Code: (\d+)\. DB::", str(error))
    return int(found[1]) if found else None


def _server_name(code: int, text: str) -> str:
    known = RETRYABLE_CODES.get(code) or REJECTED_CODES.get(code)
    if known:
        return known
    names = re.findall(r"\(([A-Z][A-Z0-9_]+)\)", text)
    return str(names[-1]) if names else ""


def _server_text(text: str) -> str:
    """The server's message on one line, without what the code and name have said already."""
    body = text.rpartition("DB::Exception: ")[2] or text
    body = re.sub(r"\s*\(version [^)]*\)+\s*$", "", " ".join(body.split()))
    body = re.sub(r"\s*\([A-Z][A-Z0-9_]+\)$", "", body)
    return body if len(body) <= MESSAGE_CHARS_MAX else body[: MESSAGE_CHARS_MAX - 1] + "…"


def _cause(error: BaseException) -> str:
    """The innermost reason of a network failure, short."""
    while True:
        inner = error.__cause__ or getattr(error, "reason", None) or error.__context__
        if not isinstance(inner, BaseException):
            break
        error = inner
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError):
        return "timed out"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:MESSAGE_CHARS_MAX] or type(error).__name__
