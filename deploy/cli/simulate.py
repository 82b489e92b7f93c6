"""``tokentide simulate``: events of invented gateways, now or in the past, with faults."""

import threading
import zlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import click

from deploy.cli.sending import Sending, Target, now_ms, target_options
from deploy.local.published import openrouter_days
from deploy.local.simulator.blocks import Simulator
from deploy.local.simulator.faults import FaultRatios
from deploy.local.simulator.pacing import Batches, live_batches, past_batches
from deploy.local.simulator.population import Population, zones
from deploy.local.simulator.seasons import DAY_MS, Calendar
from deploy.local.simulator.world import World, catalogue_world, openrouter_world
from schemas.catalogue import load_shipped
from schemas.errors import ConfigurationError

WORLDS = ("openrouter-2026", "catalogue")
_RATE = 200.0


@dataclass(frozen=True)
class Plan:
    """What to simulate.

    Attributes:
        rate: Events per second of wall time, or ``None`` for past time as fast as possible.
        events: ``None`` goes on until stopped.
        from_ms, to_ms: The past, or the start of the run twice.
    """

    world: str
    seed: int
    drift: float
    faults: FaultRatios
    rate: float | None
    events: int | None
    from_ms: int
    to_ms: int

    @property
    def id_prefix(self) -> str:
        """Start of every event id: other arguments give other ids, the same give the same."""
        return f"synthetic:{self.seed}-{zlib.crc32(repr(self).encode()):08x}-"


@click.command()
@click.option("--rate", type=click.FloatRange(min=0.01), help="Events per second [default: 200].")
@click.option("--events", type=click.IntRange(min=1), help="Stop after this many events.")
@click.option("--from", "from_", metavar="TIME", help="Start of the past to fill, RFC 3339.")
@click.option("--to", metavar="TIME", help="End of the past to fill [default: now].")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option(
    "--world",
    type=click.Choice(WORLDS),
    default=WORLDS[0],
    show_default=True,
    help="Shares of OpenRouter's last published day, or invented ones of all models.",
)
@click.option(
    "--drift",
    type=click.FloatRange(0, 3),
    default=0.5,
    show_default=True,
    help="How far shares wander over months (standard deviation of their logarithm).",
)
@click.option(
    "--faults",
    default="",
    metavar="KIND=RATIO,...",
    help="duplicates, late, malformed, unknown_model, multiline: see above.",
)
@target_options
def simulate(
    target: Target,
    rate: float | None,
    events: int | None,
    from_: str | None,
    to: str | None,
    seed: int,
    world: str,
    drift: float,
    faults: str,
) -> None:
    """Send events of simulated gateways to Kafka.

    Without --from and --to, events happen now, at --rate, until Ctrl-C or --events. With them, or
    with --events alone (then: the last 24 hours), the past is filled as fast as possible, busy and
    quiet hours included; --rate then says how many events per second of that past, if --events
    does not. The same arguments give the same bytes, where they do not depend on now.

    \b
    Faults, as shares of the events, at most one each:
      duplicates     sent again byte for byte, one block later
      late           occurred_at one hour to ten days earlier
      malformed      refused by the schema, about 30 kinds (see the truth file)
      unknown_model  a name in no catalogue
      multiline      valid JSON over several lines

    --out writes values byte for byte, one per line; a line that starts with the byte 0x1e holds
    the base64 of a value that is empty or has a newline in it.

    Prints one line of JSON when done. Exit code 1 if Kafka did not acknowledge everything.
    """
    common = (world, seed, drift, FaultRatios.parse(faults))
    plan = _plan(common, rate, events, from_, to, now_ms())
    market = _market(plan)

    async def work(sending: Sending) -> bool:
        blocks = _simulator(plan, market).blocks(_batches(plan, sending.stop))
        return await sending.send(blocks, "simulating", plan.events)

    about = {"id_prefix": plan.id_prefix, "arguments": asdict(plan)}
    target.run(work, market.names, about)


def _plan(
    common: tuple[str, int, float, FaultRatios],
    rate: float | None,
    events: int | None,
    from_: str | None,
    to: str | None,
    started_ms: int,
) -> Plan:
    past = from_ is not None or to is not None or (events is not None and rate is None)
    if not past:
        return Plan(*common, rate or _RATE, events, started_ms, started_ms)
    to_ms = _time_ms(to) if to else started_ms
    from_ms = _time_ms(from_) if from_ else to_ms - DAY_MS
    if from_ms >= to_ms:
        raise ConfigurationError("--from must be before --to")
    if events is None and rate is None:
        raise ConfigurationError("say how many: --events N, or --rate N per second of the past")
    count = events or max(1, round((rate or 0) * (to_ms - from_ms) / 1000))
    return Plan(*common, None, count, from_ms, to_ms)


def _time_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"no time: {text!r}; write 2026-08-21 or 2026-08-21T12:00:00Z"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _market(plan: Plan) -> World:
    catalogue = load_shipped()
    if plan.world == "catalogue":
        return catalogue_world(
            catalogue, seed=plan.seed, as_of_ms=plan.from_ms, drift_scale=plan.drift
        )
    world = openrouter_world(openrouter_days(), catalogue, seed=plan.seed, drift_scale=plan.drift)
    return world.priced(catalogue, plan.from_ms)


def _simulator(plan: Plan, market: World) -> Simulator:
    return Simulator(
        world=market,
        population=Population(plan.seed),
        seed=plan.seed,
        id_prefix=plan.id_prefix,
        reference_ms=plan.from_ms,
        faults=plan.faults,
    )


def _batches(plan: Plan, stop: threading.Event) -> Batches:
    if plan.rate is not None:
        return live_batches(plan.rate, plan.events, now_ms, stop)
    assert plan.events is not None
    calendar = Calendar(plan.from_ms, plan.to_ms, zones())
    return past_batches(calendar, plan.events, plan.seed)
