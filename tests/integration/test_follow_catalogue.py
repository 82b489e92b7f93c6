"""The catalogue topic on the real broker: what is published is followed, live and unharmed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from agents.follow_catalogue import REFUSED, CatalogueFollower
from deploy.cli.catalogue_topic import read_values, write_values
from deploy.kafka_admin import kafka_answers
from schemas.catalogue import Catalogue, Model, encode_model, load_shipped
from schemas.errors import ConfigurationError, RetryableError
from tests.conftest import free_port, run_tokentide, running, tokentide

WAIT_SECONDS_MAX = 60.0


@asynccontextmanager
async def following(servers: str, topic: str) -> AsyncIterator[CatalogueFollower]:
    """A follower that has caught up and follows until the block ends."""
    follower = CatalogueFollower(servers, topic)
    await follower.start()
    task = asyncio.create_task(follower.run())
    try:
        yield follower
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await follower.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not condition():  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.02)


async def write(servers: str, topic: str, values: Mapping[str, bytes | None]) -> None:
    await asyncio.to_thread(write_values, servers, values, topic)


def encoded(*models: Model) -> dict[str, bytes | None]:
    return {model.model_id: encode_model(model) for model in models}


@pytest.fixture
def models_topic(fresh_topic: Callable[..., str]) -> str:
    return fresh_topic(cleanup_policy="compact")


def test_shipped_catalogue_arrives_whole(kafka_bootstrap: str, models_topic: str) -> None:
    """After `start` every published model is there, equal to what was published."""
    shipped = load_shipped().models.values()
    write_values(kafka_bootstrap, encoded(*shipped), models_topic)

    async def scenario() -> Catalogue:
        async with following(kafka_bootstrap, models_topic) as follower:
            return follower.current

    followed = asyncio.run(scenario())
    assert dict(followed.models) == dict(load_shipped().models)
    assert followed.resolve("z-ai/glm-5.2-20260616:free") == load_shipped().resolve(
        "z-ai/glm-5.2:free"
    )


def test_change_is_used_without_restart(kafka_bootstrap: str, models_topic: str) -> None:
    """A changed, a new and a deleted model reach `current` live; an old snapshot stays as it was."""

    async def scenario() -> None:
        await write(kafka_bootstrap, models_topic, encoded(Model("a"), Model("b")))
        async with following(kafka_bootstrap, models_topic) as follower:
            before = follower.current
            await write(kafka_bootstrap, models_topic, encoded(Model("a", vendor="acme")))
            await until(lambda: follower.current.models["a"].vendor == "acme")
            assert follower.current.version > before.version
            assert before.models["a"].vendor is None

            await write(kafka_bootstrap, models_topic, encoded(Model("c", ("sea",))))
            await until(lambda: follower.current.resolve("SEA:free") is not None)

            await write(kafka_bootstrap, models_topic, {"b": None})
            await until(lambda: follower.current.resolve("b") is None)
            assert sorted(follower.current.models) == ["a", "c"]

    asyncio.run(scenario())


def test_equal_record_changes_nothing(kafka_bootstrap: str, models_topic: str) -> None:
    """Publishing what is known already makes no new snapshot."""

    async def scenario() -> None:
        await write(kafka_bootstrap, models_topic, encoded(Model("a")))
        async with following(kafka_bootstrap, models_topic) as follower:
            before = follower.current
            await write(kafka_bootstrap, models_topic, encoded(Model("a")))
            await write(kafka_bootstrap, models_topic, encoded(Model("b")))
            await until(lambda: "b" in follower.current.models)
            assert follower.current.version == before.version + 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("key", "value", "reason", "field"),
    [
        ("a", b"{", "invalid_json", ""),
        ("a", b"", "empty_value", ""),
        ("a", b'{"schema_version":1}', "missing_field", "model_id"),
        ("a", encode_model(Model("b")), "out_of_range", "model_id"),
        (
            "a",
            orjson.dumps({"schema_version": 1, "model_id": "a", "vendor_country": "Mars"}),
            "out_of_range",
            "vendor_country",
        ),
    ],
)
def test_corrupt_record_keeps_the_old_value(
    kafka_bootstrap: str, models_topic: str, key: str, value: bytes, reason: str, field: str
) -> None:
    """A corrupt value is logged with its reason and counted; the model stays as it was, live and
    after a restart, and later records are read."""
    good = Model("a", vendor="acme")

    def counted() -> float:
        return float(REFUSED.labels(reason)._value.get())

    async def scenario() -> None:
        await write(kafka_bootstrap, models_topic, encoded(good))
        counted_before = counted()
        async with following(kafka_bootstrap, models_topic) as follower:
            with capture_logs() as logs:
                await write(kafka_bootstrap, models_topic, {key: value})
                await write(kafka_bootstrap, models_topic, encoded(Model("later")))
                await until(lambda: "later" in follower.current.models)
            assert follower.current.models["a"] == good
            assert (follower.refused, counted() - counted_before) == (1, 1)
        refused = [line for line in logs if line["event"] == "catalogue.record_refused"]
        assert [(line["reason"], line["field"], line["key"]) for line in refused] == [
            (reason, field, "a")
        ]
        async with following(kafka_bootstrap, models_topic) as again:
            assert again.current.models["a"] == good
            assert again.refused == 1

    asyncio.run(scenario())


def test_newest_value_of_every_key_counts(
    kafka_bootstrap: str, fresh_topic: Callable[..., str]
) -> None:
    """History is folded: last value, last deletion, over several partitions."""
    topic = fresh_topic(partitions=3, cleanup_policy="compact")
    for vendor in ("one", "two", "three"):
        write_values(
            kafka_bootstrap,
            encoded(*(Model(f"m{number}", vendor=vendor) for number in range(30))),
            topic,
        )
    write_values(kafka_bootstrap, dict.fromkeys(("m0", "m1", "m2")), topic)
    write_values(kafka_bootstrap, encoded(Model("m1", vendor="back")), topic)

    async def scenario() -> Mapping[str, Model]:
        async with following(kafka_bootstrap, topic) as follower:
            return follower.current.models

    models = asyncio.run(scenario())
    assert {name: model.vendor for name, model in models.items()} == {
        "m1": "back",
        **{f"m{number}": "three" for number in range(3, 30)},
    }
    stored = read_values(kafka_bootstrap, topic)
    assert {key: value.value for key, value in stored.items()} == encoded(*models.values())


@pytest.mark.parametrize("values", [{}, {"a": None}, {"a": b"{"}])
def test_topic_without_models_stops_the_start(
    kafka_bootstrap: str, models_topic: str, values: dict[str, bytes | None]
) -> None:
    """A worker that knew no model would store everything as unknown: it says what to run instead."""
    write_values(kafka_bootstrap, values, models_topic)
    with pytest.raises(ConfigurationError, match="is empty: run: tokentide catalogue publish"):
        asyncio.run(CatalogueFollower(kafka_bootstrap, models_topic).start())


def test_missing_topic_stops_the_start(kafka_bootstrap: str) -> None:
    """A topic that does not exist is named, not created."""
    for _ in range(2):
        with pytest.raises(
            ConfigurationError, match="nowhere does not exist: run: tokentide topics"
        ):
            asyncio.run(CatalogueFollower(kafka_bootstrap, "nowhere").start())
        with pytest.raises(
            ConfigurationError, match="nowhere does not exist: run: tokentide topics"
        ):
            read_values(kafka_bootstrap, "nowhere")


def test_missing_broker_is_retryable() -> None:
    """Nobody at the address: the caller may try again."""
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(RetryableError, match=f"kafka at {address} does not answer"):
        asyncio.run(CatalogueFollower(address).start())


def test_commands_and_a_broker_that_dies(tmp_path: Path) -> None:
    """The commands reach a running follower, which outlives `kill -9` of the broker."""
    address = f"127.0.0.1:{free_port()}"
    command = tokentide("kafka", "--data-dir", str(tmp_path), "--port", address.split(":")[1])
    log = tmp_path / "out.log"

    def run(*arguments: str) -> str:
        done = run_tokentide(*arguments, kafka_bootstrap_servers=address)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    async def scenario() -> None:
        with running("kafka", command, log, lambda: kafka_answers(address)) as broker:
            await asyncio.to_thread(run, "topics")
            published = await asyncio.to_thread(run, "catalogue", "publish")
            assert published == "773 models published (773 new), 0 unchanged"
            follower = CatalogueFollower(address)
            await follower.start()
            task = asyncio.create_task(follower.run())
            try:
                edit = ("catalogue", "edit", "poolside/laguna-m.1", "vendor_country=FR")
                await asyncio.to_thread(run, *edit)
                await until(lambda: country(follower) == "FR")
                assert broker.pid is not None
                os.kill(broker.pid, signal.SIGKILL)
                await until(lambda: broker.exit_code is not None)
                with running("kafka", command, log, lambda: kafka_answers(address)):
                    again = await asyncio.to_thread(run, "catalogue", "publish")
                    assert again == (
                        "0 models published (0 new), 772 unchanged,"
                        " 1 edited, kept (--all replaces them)"
                    )
                    await asyncio.to_thread(run, "catalogue", "publish", "--all")
                    await until(lambda: country(follower) is None)
                    await asyncio.to_thread(run, "catalogue", "remove", "poolside/laguna-m.1")
                    await until(lambda: "poolside/laguna-m.1" not in follower.current.models)
                    assert not task.done()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await follower.stop()

    asyncio.run(scenario())


def test_stop_while_the_broker_is_away(tmp_path: Path) -> None:
    """Stopping is quiet and closes everything, whatever aiokafka is busy with."""
    address = f"127.0.0.1:{free_port()}"
    command = tokentide("kafka", "--data-dir", str(tmp_path), "--port", address.split(":")[1])

    async def scenario() -> None:
        with running("kafka", command, tmp_path / "out.log", lambda: kafka_answers(address)):
            await asyncio.to_thread(run_tokentide, "topics", kafka_bootstrap_servers=address)
            await asyncio.to_thread(write_values, address, encoded(Model("a")))
            follower = CatalogueFollower(address)
            await follower.start()
            task = asyncio.create_task(follower.run())
        try:
            await until(lambda: not is_connected(follower))
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await follower.stop()
        assert follower.current.models == {"a": Model("a")}

    asyncio.run(scenario())


def is_connected(follower: CatalogueFollower) -> bool:
    assert follower._consumer is not None
    return any(each.connected() for each in follower._consumer._client._conns.values())


def country(follower: CatalogueFollower) -> str | None:
    return follower.current.models["poolside/laguna-m.1"].vendor_country
