"""The end of a consumer of aiokafka, whatever its broker does."""

import asyncio

from aiokafka import AIOKafkaConsumer


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Close a consumer and its connections.

    While a broker is away aiokafka 0.14 lets the cancellation of its own fetch out of ``stop``, with the
    connections still open: it would end the task that called, which nobody had cancelled, unnoticed.
    Only a cancellation of that task goes on.

    Source:
        ``Fetcher.close`` awaits what it has cancelled, and ``_proc_fetch_request`` waits after an error
        outside of what catches that.
    """
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        await consumer._client.close()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
