"""``tokentide replay``: published data as events."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from deploy.cli.sending import Meter, Sending, Target, now_ms, target_options
from deploy.local.published import openrouter_days
from deploy.local.replay import azure
from deploy.local.replay.openrouter import EVENTS_PER_DAY_MAX, EVENTS_PER_DAY_MIN, Replay
from deploy.local.replay.resume import Place, end_offsets, load_place, numbers_after
from deploy.local.simulator.blocks import Block, Simulator
from deploy.local.simulator.faults import FaultRatios
from deploy.local.simulator.pacing import at_speed, live_batches
from deploy.local.simulator.population import Population
from deploy.local.simulator.world import World, openrouter_world
from deploy.local.study.events import EVENTS_MIN, Study
from schemas.catalogue import load_shipped
from schemas.errors import ConfigurationError

# The same people and shares in every replay: a repeat is a re-send.
_SEED = 2026
_DRIFT = 0.5
_AT_ONCE = float("inf")


class Speed(click.ParamType):
    """``max``, or how many times faster than it happened."""

    name = "speed"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            speed = _AT_ONCE if value == "max" else float(value)
        except ValueError:
            speed = 0.0
        if not speed > 0:
            self.fail(f"{value!r} is neither max nor a number above 0", param, ctx)
        return speed


_speed_option = click.option(
    "--speed",
    type=Speed(),
    default="max",
    show_default=True,
    help="Times faster than it happened, or max.",
)


@click.group()
def replay() -> None:
    """Send published data as events: the real market, or two real services."""


@replay.command("azure-2023")
@_speed_option
@target_options
def azure_2023(target: Target, speed: float) -> None:
    """Send the 28,185 requests of Azure's LLM inference traces of 2023, one by one.

    Times and tokens are real; the model is not named, so it is `azure-2023/unnamed`, which resolves
    to unknown. Apps: azure-code and azure-conv. A second replay re-sends the same event ids.
    """
    summary = azure.summary()

    async def work(sending: Sending) -> bool:
        blocks = _paced(azure.blocks(), speed, sending.stop)
        return await sending.send(blocks, "azure-2023", summary["events"])

    target.run(work, (azure.MODEL_NAME,), summary)


@replay.command("openrouter-2026")
@click.option(
    "--events-per-day",
    type=click.IntRange(EVENTS_PER_DAY_MIN, EVENTS_PER_DAY_MAX),
    default=55_000,
    show_default=True,
    help="55,000 make 5 million events of all 91 days.",
)
@click.option(
    "--days",
    type=click.IntRange(min=1),
    help="Only the last of the published days [default: all 91].",
)
@click.option("--live", is_flag=True, help="Go on from the last day's shares, now, until stopped.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0.01),
    default=200.0,
    show_default=True,
    help="Live events per second.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep the place in this file: a restart goes on and sends no published event twice.",
)
@_speed_option
@target_options
def openrouter_2026(
    target: Target,
    events_per_day: int,
    days: int | None,
    live: bool,
    rate: float,
    resume: Path | None,
    speed: float,
) -> None:
    """Send OpenRouter's daily ranking of 2026-05-23 to 2026-08-21 as requests.

    The tokens of each model and day add up exactly to the published ones, divided by one whole
    number that is printed; single requests are simulated and say so (source: synthetic). Row
    `other`, everything outside the day's top 50, is sent as model `other`, which is unknown.
    Events carry the times of their published day; with --live they are followed by events that
    happen now. A second replay with the same --events-per-day re-sends the same event ids.
    """
    history = history_of(events_per_day)
    last_days = min(days or len(history.days), len(history.days))
    if resume is not None and (target.publisher is None or speed != _AT_ONCE):
        raise ConfigurationError("--resume goes with Kafka and full speed")

    async def work(sending: Sending) -> bool:
        if resume is not None:
            complete = await _send_rest(history, last_days, resume, sending)
        else:
            blocks = (block for _, block in history.blocks(history.first_number(last_days)))
            paced = _paced(blocks, speed, sending.stop)
            complete = await sending.send(paced, "published days", events_per_day * last_days)
        if live and complete:
            await sending.send(_live(history.world, rate, sending.stop), "live", None)
        return complete

    about = history.summary(last_days) | {"live_events_per_second": rate if live else 0}
    click.echo(orjson.dumps(about))
    target.run(work, history.world.names, about)


@replay.command("study")
@click.option(
    "--events",
    type=click.IntRange(min=EVENTS_MIN),
    default=2_000_000,
    show_default=True,
    help="Requests of all 105 weeks.",
)
@target_options
def study(target: Target, events: int) -> None:
    """Send an invented market in which the numbers of the study "State of AI" hold.

    Requests from late November 2023 to 30 November 2025, so drawn that the published shares, lengths,
    prices and cohorts come out of them; `tokentide report --check` compares. One request in a hundred
    says what it was for. A second replay with the same --events re-sends the same event ids.
    """
    world = Study(events)

    async def work(sending: Sending) -> bool:
        return await sending.send(world.blocks(), "study", events)

    target.run(work, world.names, world.summary())


def history_of(events_per_day: int) -> Replay:
    """Return the published days as the command replays them."""
    days, catalogue = openrouter_days(), load_shipped()
    world = openrouter_world(days, catalogue, seed=_SEED, drift_scale=_DRIFT)
    return Replay(days, events_per_day, world, Population(_SEED), catalogue)


async def _send_rest(history: Replay, last_days: int, file: Path, sending: Sending) -> bool:
    """Send the published days that are not in the topic yet, noting every acknowledged block."""
    publisher = sending.publisher
    assert publisher is not None
    ends = await end_offsets(publisher.servers, publisher.topic)
    place = load_place(file, history.id_prefix, ends)
    if place is None:
        place = Place(history.id_prefix, history.first_number(last_days), ends)
        place.save(file)
    if place.next_number == history.end_number:
        return True
    there = await numbers_after(publisher.servers, publisher.topic, place)
    with Meter("published days", history.end_number - place.next_number) as meter:
        for first, block in history.blocks(place.next_number):
            if sending.stop.is_set():
                return False
            count = len(block.values)
            await sending.send_one(
                block.take([row for row in range(count) if first + row not in there])
            )
            await sending.flush()
            Place(history.id_prefix, first + count, ends | publisher.next_offsets).save(file)
            meter.advance(count)
    return True


def _live(world: World, rate: float, stop: threading.Event) -> Iterator[Block]:
    started_ms = now_ms()
    simulator = Simulator(
        world=world.priced(load_shipped(), started_ms),
        population=Population(_SEED),
        seed=_SEED,
        id_prefix=f"synthetic:openrouter-2026-live-{started_ms}-",
        reference_ms=started_ms,
        faults=FaultRatios(),
    )
    return simulator.blocks(live_batches(rate, None, now_ms, stop))


def _paced(blocks: Iterator[Block], speed: float, stop: threading.Event) -> Iterator[Block]:
    return blocks if speed == _AT_ONCE else at_speed(blocks, speed, now_ms, stop)
