"""What the proxy of the chaos tests takes for an insert, and into which table."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import quote_plus
from urllib.request import urlopen

import pytest

from deploy.local.processes import LOOPBACK
from tests.chaos.proxy import ANSWER, Proxy, Rule, inserted_into
from tests.conftest import free_port

EVENTS = "INSERT INTO `tokentide`.`usage_events` (`event_id`) FORMAT Arrow"
PANES = "INSERT INTO `tokentide`.`share_panes_5m` (`dimension`) FORMAT Arrow"


class _Engine(BaseHTTPRequestHandler):
    """Takes whatever is sent."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before a server that takes everything."""
    server = ThreadingHTTPServer((LOOPBACK, 0), _Engine)
    Thread(target=server.serve_forever, daemon=True).start()
    proxy = Proxy(free_port(), server.server_port)
    proxy.start()
    yield proxy
    proxy.stop()
    server.shutdown()
    server.server_close()


def status(proxy: Proxy, statement: str) -> int:
    """Return what a statement is answered with."""
    url = f"http://{LOOPBACK}:{proxy.port}/?query={quote_plus(statement)}"
    try:
        with urlopen(url, data=b"rows", timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_a_rule_for_a_table_waits_for_its_inserts(proxy: Proxy) -> None:
    """Inserts into other tables get through, and do not use it up."""
    proxy.set(Rule(ANSWER, code=252, table="usage_events", times=1))
    statements = (PANES, "SELECT 'usage_events'", EVENTS, EVENTS)
    assert [status(proxy, statement) for statement in statements] == [200, 200, 500, 200]
    assert proxy.inserts == 3


@pytest.mark.parametrize(
    ("head", "table"),
    [
        (f"POST /?a=b&query={quote_plus(EVENTS)} HTTP/1.1\r\n\r\n", "usage_events"),
        (f"POST / HTTP/1.1\r\nHost: a\r\n\r\n{PANES}", "share_panes_5m"),
        (
            "POST / HTTP/1.1\r\n\r\nINSERT INTO tokentide.usage_events_restored_1 SELECT",
            "usage_events_restored_1",
        ),
        ("POST / HTTP/1.1\r\n\r\nSELECT count() FROM usage_events", ""),
    ],
)
def test_the_table_of_an_insert(head: str, table: str) -> None:
    """Whether the statement is in the address or in the body, quoted or not."""
    assert inserted_into(head.encode()) == table
