"""ClickHouse's failures are sorted by what happens next."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from clickhouse_connect.driver.exceptions import (
    DatabaseError,
    OperationalError,
    ProgrammingError,
    StreamFailureError,
)

from schemas.errors import FatalError, RejectedBatchError, SinkUnavailableError
from sinks.clickhouse import (
    REJECTED_CODES,
    RETRYABLE_CODES,
    ClickHouseAddress,
    connect,
    sorted_error,
)


def server_error(code: int, text: str = "it broke", name: str = "NAME") -> DatabaseError:
    return DatabaseError(
        f"Received ClickHouse exception, code: {code}, server response: "
        f"Code: {code}. DB::Exception: {text}. ({name})",
        code=code,
        name=name,
    )


def test_a_code_has_one_meaning() -> None:
    """No code is both retried and rejected."""
    assert not RETRYABLE_CODES.keys() & REJECTED_CODES.keys()


@pytest.mark.parametrize("code", [241, 252, 242, 164, 202, 159, 160, 209, 210, 243, 999, 425])
def test_overload_and_outage_are_retried(code: int) -> None:
    """A server that cannot now may be able to later."""
    assert isinstance(sorted_error(server_error(code)), SinkUnavailableError)


@pytest.mark.parametrize("code", [6, 27, 53, 69, 70, 72, 117, 131, 321, 349])
def test_faults_of_rows_are_rejected(code: int) -> None:
    """Rows that the server cannot read would not be read the second time either."""
    assert isinstance(sorted_error(server_error(code)), RejectedBatchError)


@pytest.mark.parametrize("code", [16, 60, 62, 81, 115, 192, 497, 516, 123456])
def test_what_is_not_foreseen_stops(code: int) -> None:
    """A missing table, a refused user and any unknown code need a person."""
    assert isinstance(sorted_error(server_error(code)), FatalError)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OperationalError("Error ... executing HTTP request"), SinkUnavailableError),
        (ConnectionResetError("reset"), SinkUnavailableError),
        (TimeoutError(), SinkUnavailableError),
        (DatabaseError("HTTP driver received HTTP status 503"), SinkUnavailableError),
        (DatabaseError("HTTP driver received HTTP status 429"), SinkUnavailableError),
        (DatabaseError("HTTP driver received HTTP status 404"), FatalError),
        (ProgrammingError("setting is readonly"), FatalError),
        (StreamFailureError("Code: 241. DB::Exception: memory"), SinkUnavailableError),
        (StreamFailureError("Code: 62. DB::Exception: syntax"), FatalError),
    ],
)
def test_failures_without_a_code_header(error: Exception, kind: type[Exception]) -> None:
    """The network, a proxy and an error inside a streamed answer are sorted too."""
    assert type(sorted_error(error)) is kind


def test_the_message_is_one_line_with_code_and_name() -> None:
    """Code, name and the server's first sentence, without driver wrapping or line feeds."""
    error = server_error(252, "Too many\n parts (300)", "TOO_MANY_PARTS")
    assert str(sorted_error(error)) == "clickhouse: code 252 TOO_MANY_PARTS: Too many parts (300)."


def test_the_message_can_leave_out_what_may_quote_rows() -> None:
    """Without detail no text of the server is passed on: it may hold values of rows."""
    error = server_error(27, "Cannot parse input: expected ',' before: 'secret'")
    assert "secret" not in str(sorted_error(error, detail=False))


def test_a_password_is_not_shown() -> None:
    """An address can be logged."""
    assert "hunter2" not in repr(ClickHouseAddress("h", 1, "u", password="hunter2"))


@contextmanager
def listener(answer: bytes | None) -> Iterator[int]:
    """A port where every connection gets ``answer`` and is closed; ``None`` never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                if answer is None:
                    held.append(connection)
                    continue
                with connection:
                    connection.recv(65_536)
                    connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def test_nobody_there() -> None:
    """A refused connection is one short line that names the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SinkUnavailableError) as caught:
        connect(ClickHouseAddress("127.0.0.1", port, "reader"))
    assert str(caught.value) == (
        f"clickhouse at 127.0.0.1:{port} does not answer: connection refused"
    )


def test_a_hung_server() -> None:
    """A server that accepts and says nothing is given up after the request timeout."""
    with listener(None) as port, pytest.raises(SinkUnavailableError, match="timed out"):
        connect(ClickHouseAddress("127.0.0.1", port, "reader", request_timeout_seconds=1))


def test_a_proxy_in_trouble() -> None:
    """503 from something in between is an outage."""
    answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
    with listener(answer) as port, pytest.raises(SinkUnavailableError, match="503"):
        connect(ClickHouseAddress("127.0.0.1", port, "reader"))


def test_a_refused_user() -> None:
    """Code 516 stops: waiting does not change a password."""
    body = b"Code: 516. DB::Exception: reader: Authentication failed. (AUTHENTICATION_FAILED)"
    head = b"HTTP/1.1 403 x\r\nX-ClickHouse-Exception-Code: 516\r\nContent-Length: %d\r\n\r\n"
    with listener(head % len(body) + body) as port, pytest.raises(FatalError, match="code 516"):
        connect(ClickHouseAddress("127.0.0.1", port, "reader"))
