"""Alerts to a webhook: one signed POST per transition.

Guarantee: at least once and in order; a receiver that keeps ``webhook-id`` sees each transition once.
"""

import base64
import hashlib
import hmac
from binascii import Error as Base64Error

import aiohttp

from schemas.errors import ConfigurationError, RetryableError
from schemas.share_alert import ShareAlert, encode

TIMEOUT_SECONDS = 10.0
SECRET_PREFIX = "whsec_"
REFUSED_STATUSES = frozenset({400, 413, 422})
"""The body itself is refused. Everything else, a wrong path or secret too, may be put right."""
ANSWER_CHARS_MAX = 200


class RefusedError(Exception):
    """The receiver will not take this transition, whatever is tried."""


def secret_bytes(secret: str) -> bytes:
    """Return the key of a secret: ``whsec_`` and base64, or any other text as it is.

    Raises:
        ConfigurationError: What follows ``whsec_`` is not base64.
    """
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except Base64Error:
        raise ConfigurationError(
            f"setting TOKENTIDE_ALERTS_WEBHOOK_SECRET: after {SECRET_PREFIX} it must be base64"
        ) from None


def headers(alert: ShareAlert, body: bytes, key: bytes, now_seconds: int) -> dict[str, str]:
    """Return the headers of a delivery; the signature is there when there is a key.

    Source:
        Standard Webhooks 1.0: ``v1,`` and the base64 HMAC-SHA256 of ``id.timestamp.body``.
    """
    message_id = alert.idempotency_key
    found = {
        "content-type": "application/json",
        "idempotency-key": message_id,
        "webhook-id": message_id,
        "webhook-timestamp": str(now_seconds),
    }
    if key:
        signed = b".".join([message_id.encode(), str(now_seconds).encode(), body])
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        found["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return found


class Webhook:
    """Sends transitions to one address.

    Args:
        secret: Signs the body; empty leaves the signature out.
    """

    name = "webhook"

    def __init__(self, url: str, secret: str) -> None:
        self._url = url
        self._key = secret_bytes(secret)

    async def send(self, alert: ShareAlert, now_seconds: int) -> None:
        """Deliver one transition.

        Raises:
            RetryableError: Not now.
            RefusedError: The receiver will not take this body.
        """
        body = encode(alert)
        status, answer = await post(self._url, body, headers(alert, body, self._key, now_seconds))
        if status in REFUSED_STATUSES:
            raise RefusedError(f"HTTP {status}: {answer}")
        if not 200 <= status < 300:
            raise RetryableError(f"webhook: HTTP {status}: {answer}")


async def post(url: str, body: bytes, with_headers: dict[str, str]) -> tuple[int, str]:
    """Return status and beginning of the answer to a POST; redirects are not followed.

    Raises:
        RetryableError: Nothing answers, or not in time. The address is not named: it may hold a key.
    """
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        # A connection of its own: one that was kept may have been closed by the receiver meanwhile.
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=body, headers=with_headers, allow_redirects=False) as response,
        ):
            answer = (await response.content.read(4 * ANSWER_CHARS_MAX)).decode(errors="replace")
            return response.status, " ".join(answer.split())[:ANSWER_CHARS_MAX]
    except TimeoutError:
        raise RetryableError(f"no answer within {TIMEOUT_SECONDS:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise RetryableError(f"no answer: {type(error).__name__}") from None
