"""A consumer of aiokafka ends quietly while its broker is away, and with all that it has."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import NodeNotReadyError
from aiokafka.protocol.fetch import FetchRequest

from streams.closing import stop_consumer


async def waiting_to_fetch_again(
    bootstrap: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> AIOKafkaConsumer:
    """Return a consumer whose fetch has failed, and which will try again in a minute."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, retry_backoff_ms=60_000)
    await consumer.start()
    failed = asyncio.Event()
    send = consumer._client.send

    async def fail(node: object, request: object, **options: Any) -> Any:
        if isinstance(request, FetchRequest):
            failed.set()
            raise NodeNotReadyError("away")
        return await send(node, request, **options)

    monkeypatch.setattr(consumer._client, "send", fail)
    consumer.assign([TopicPartition(topic, 0)])
    async with asyncio.timeout(20):
        await failed.wait()
    await asyncio.sleep(0.1)
    return consumer


async def test_a_consumer_ends_though_its_fetch_had_failed(
    kafka_bootstrap: str, fresh_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that closes it goes on, and its connections are closed; without help it would not."""
    consumer = await waiting_to_fetch_again(kafka_bootstrap, fresh_topic(1), monkeypatch)
    connections = list(consumer._client._conns.values())
    assert any(each.connected() for each in connections)
    await stop_consumer(consumer)
    assert not any(each.connected() for each in connections)

    another = await waiting_to_fetch_again(kafka_bootstrap, fresh_topic(1), monkeypatch)
    with pytest.raises(asyncio.CancelledError):
        await another.stop()
    await another._client.close()


async def test_a_task_that_is_cancelled_while_it_closes_ends() -> None:
    """Who is asked to end must not believe that it was aiokafka."""

    class Hanging:
        """A consumer whose broker does not answer."""

        is_closed = False

        async def stop(self) -> None:
            await asyncio.sleep(60)

        @property
        def _client(self) -> "Hanging":
            return self

        async def close(self) -> None:
            self.is_closed = True

    consumer = Hanging()
    task = asyncio.create_task(stop_consumer(consumer))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert consumer.is_closed
