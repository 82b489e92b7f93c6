"""What receivers get: a signed body, stable labels, and a JSON that its schema describes."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from jsonschema import Draft202012Validator

from deploy.local.processes import free_port
from schemas.errors import ConfigurationError, RetryableError
from schemas.share_alert import SCHEMA_FILE, ShareAlert, decode, encode
from sinks.alertmanager import Alertmanager, labels, payload
from sinks.webhook import RefusedError, Webhook, headers, secret_bytes
from streams.alerts.sentences import sentence
from tests.alert_examples import alert

SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())
EXAMPLES = sorted((SCHEMA_FILE.parent / "examples").glob("*.json"))


@dataclass
class Endpoint:
    """A server that keeps what it got and answers with the statuses it is told."""

    url: str
    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((request.path, dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 200
        location = {"Location": f"{self.url}/elsewhere"} if status == 302 else {}
        return web.Response(status=status, text="because\n of this", headers=location)


@asynccontextmanager
async def endpoint(*statuses: int) -> AsyncIterator[Endpoint]:
    port = free_port()
    found = Endpoint(f"http://127.0.0.1:{port}", list(statuses))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield found
    finally:
        await runner.cleanup()


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of Standard Webhooks: its secret, id, time and body give its signature."""
    # https://github.com/standard-webhooks/standard-webhooks, spec and library tests.
    key = secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    assert base64.b64encode(digest).decode() == "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receiver_can_check_the_signature() -> None:
    """It is over id, time and the very bytes of the body; without a secret there is none."""
    body = encode(alert())
    found = headers(alert(), body, b"secret", 1_764_000_000)
    message_id = f"{alert().alert_id}-1"
    assert found["webhook-id"] == found["idempotency-key"] == message_id
    signed = f"{message_id}.1764000000.".encode() + body
    expected = base64.b64encode(hmac.new(b"secret", signed, hashlib.sha256).digest()).decode()
    assert found["webhook-signature"] == f"v1,{expected}"
    assert "webhook-signature" not in headers(alert(), body, b"", 1)
    with pytest.raises(ConfigurationError, match="must be base64"):
        secret_bytes("whsec_no!")


async def test_a_webhook_gets_the_alert() -> None:
    """The body is the JSON of the topic, under the path that was given."""
    async with endpoint() as server:
        await Webhook(f"{server.url}/hooks/alerts?key=1", "secret").send(alert(), 1_764_000_000)
    ((path, sent, body),) = server.requests
    assert path == "/hooks/alerts"
    assert decode(body) == alert()
    assert sent["webhook-id"] == alert().idempotency_key
    assert sent["webhook-timestamp"] == "1764000000"


@pytest.mark.parametrize("status", [302, 401, 404, 408, 410, 429, 500, 503])
async def test_what_may_be_put_right_is_tried_again(status: int) -> None:
    """A wrong path, a wrong secret, a server that is down: nothing is given up, or followed."""
    async with endpoint(status) as server:
        with pytest.raises(RetryableError, match=f"HTTP {status}: because of this"):
            await Webhook(server.url, "").send(alert(), 1)
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_body_that_is_refused_is_told_apart(status: int) -> None:
    """The same body would be refused again."""
    async with endpoint(status) as server:
        with pytest.raises(RefusedError, match=f"HTTP {status}"):
            await Webhook(server.url, "").send(alert(), 1)


async def test_nobody_there_is_tried_again_and_the_address_is_not_told() -> None:
    """It may hold a key."""
    with pytest.raises(RetryableError) as caught:
        await Webhook(f"http://127.0.0.1:{free_port()}/key-abc", "").send(alert(), 1)
    assert "key-abc" not in str(caught.value)


def test_labels_never_hold_what_changes() -> None:
    """Every transition and every number of one alert has the same labels."""
    expected = {
        "alertname": "ShareChange",
        "kind": "share_change",
        "dimension": "vendor",
        "series": "openai",
        "direction": "down",
    }
    assert labels(alert()) == expected
    later = alert(
        version=7,
        state="resolved",
        since="2026-11-25T00:00:00Z",
        share_after=0.5,
        statistic=9.0,
        sentence="Other.",
        alert_id="e" * 32,
        explanation=None,
    )
    assert labels(later) == expected
    # A label that is empty is none to Alertmanager.
    assert labels(alert(kind="total_drop", dimension="", value="", direction="down")) == {
        "alertname": "TotalDrop",
        "kind": "total_drop",
        "direction": "down",
    }


def test_times_of_an_alert() -> None:
    """While it fires its end moves on; when it has ended the end stays what it was."""
    now_ms = alert().at_ms + 5_000
    assert payload(alert(), now_ms)["startsAt"] == alert().since
    assert payload(alert(), now_ms)["endsAt"] == "2026-11-24T14:30:05Z"
    ended = alert(state="resolved", at="2026-11-24T14:50:00Z")
    for now in (ended.at_ms, ended.at_ms + 900_000):
        assert payload(ended, now)["endsAt"] == "2026-11-24T14:50:00Z"


async def test_an_alertmanager_is_told_all_at_once() -> None:
    """One request to its API v2; what it refuses is tried again."""
    async with endpoint(200, 400) as server:
        manager = Alertmanager(f"{server.url}/")
        assert manager.name == f"alertmanager {server.url}"
        await manager.send([], 1)
        await manager.send([alert(), alert(value="tiger")], alert().at_ms)
        with pytest.raises(RetryableError, match="HTTP 400"):
            await manager.send([alert()], alert().at_ms)
    assert len(server.requests) == 2
    path, _, body = server.requests[0]
    assert path == "/api/v2/alerts"
    assert [each["labels"]["series"] for each in orjson.loads(body)] == ["openai", "tiger"]


def test_the_schema_describes_an_alert() -> None:
    """Every field is described and required, and nothing else; an encoded alert validates."""
    Draft202012Validator.check_schema(SCHEMA)
    names = {each.name for each in fields(ShareAlert)}
    assert SCHEMA["properties"].keys() == names == set(SCHEMA["required"])
    validator = Draft202012Validator(SCHEMA)
    for each in (alert(), alert(explanation=None, share_low=None)):
        validator.validate(json.loads(encode(each)))
        assert decode(encode(each)) == each
    described = [*SCHEMA["properties"].values()]
    assert all(each.get("description") or "$ref" in each for each in described)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_alerts(path: Path) -> None:
    """They validate, decode, and their sentences are what this version says."""
    Draft202012Validator(SCHEMA).validate(json.loads(path.read_text()))
    found = decode(path.read_bytes())
    assert sentence(replace(found, sentence="")) == found.sentence


def test_there_are_examples() -> None:
    """One of a transition with an explanation at least."""
    assert EXAMPLES
