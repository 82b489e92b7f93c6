"""``tokentide catalogue``: publish, look at and change what is known of models."""

import difflib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from deploy.cli.catalogue_topic import Stored, read_values, topic_catalogue, write_values
from deploy.cli.stack import data_dir_option, settings_for
from schemas.catalogue import (
    Catalogue,
    Model,
    Price,
    Resolution,
    decode_model,
    encode_model,
    list_cost_nanousd,
    load_directory,
    load_shipped,
    origin,
    price_at,
    size_class,
)
from schemas.catalogue_files import COLUMNS, day_start_ms, parse_column, picousd_per_token
from schemas.errors import ConfigurationError, FatalError, RecordError
from schemas.model import model_from_members
from sinks.clickhouse import CAUGHT, ClickHouseAddress, connect, sorted_error
from streams.settings import Settings

UNRESOLVED_SQL = """
SELECT
    model_raw,
    count() AS requests,
    sum(ifNull(tokens_prompt, 0)) + sum(ifNull(tokens_completion, 0)) AS tokens,
    toString(max(occurred_at)) AS last_seen
FROM usage_events
WHERE model = 'unknown'
GROUP BY model_raw
ORDER BY tokens DESC, requests DESC, model_raw
LIMIT {rows_max:UInt32}
"""


@click.group()
def catalogue() -> None:
    """Publish, look at and change what is known of models.

    Workers follow the topic llm-models-v1: what is published here is used from their next batch
    on, without a restart. Events stored before keep what was known then.
    """


@catalogue.command()
@click.option(
    "--file",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory with models.csv, aliases.csv and price_history.csv [default: those shipped].",
)
@click.option(
    "--all", "everything", is_flag=True, help="Publish all of them, over edits and what is equal."
)
@click.option(
    "--delete-missing",
    is_flag=True,
    help="Delete models that are on the topic and not in the files.",
)
@data_dir_option
def publish(
    directory: Path | None, everything: bool, delete_missing: bool, data_dir: Path | None
) -> None:
    """Publish the models of the files to the topic: only those that differ from it.

    Models changed by `tokentide catalogue edit` stay as they are, unless with --all. Running it
    again is safe.
    """
    servers = settings_for(data_dir).kafka_bootstrap_servers
    source = load_directory(directory) if directory else load_shipped()
    if not source.models:
        raise ConfigurationError(f"{directory}/models.csv holds no model")
    wanted = {model_id: encode_model(model) for model_id, model in source.models.items()}
    plan = plan_publish(wanted, read_values(servers), everything=everything, delete=delete_missing)
    _write(servers, plan.changes)
    click.echo(plan.summary)
    if source.ambiguous:
        names = ", ".join(source.ambiguous[:10])
        click.echo(
            f"{len(source.ambiguous)} aliases of two models resolve to nothing: {names}", err=True
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What `publish` is to write: model id -> value, or ``None`` to delete; and a line about it."""

    changes: dict[str, bytes | None]
    summary: str


def plan_publish(
    wanted: Mapping[str, bytes], stored: Mapping[str, Stored], *, everything: bool, delete: bool
) -> Plan:
    """Return how to bring the topic from ``stored`` to ``wanted``.

    Args:
        wanted: Encoded models of the files.
        stored: What the topic holds.
        everything: Also write what is equal, and what somebody has edited.
        delete: Delete what the files do not have.
    """
    differ = {
        key for key, value in wanted.items() if key not in stored or stored[key].value != value
    }
    edits = {key for key in differ & set(stored) if _is_edit(key, stored[key])}
    written = set(wanted) if everything else differ - edits
    missing = set(stored) - set(wanted)
    changes: dict[str, bytes | None] = {key: wanted[key] for key in sorted(written)}
    changes |= dict.fromkeys(sorted(missing) if delete else ())
    parts = [
        f"{len(written)} models published ({len(written - set(stored))} new)",
        f"{len(set(wanted) - written - edits)} unchanged",
    ]
    if kept := len(edits - written):
        parts.append(f"{kept} edited, kept (--all replaces them)")
    if missing:
        kept_text = "only on the topic, kept (--delete-missing deletes them)"
        parts.append(f"{len(missing)} {'deleted' if delete else kept_text}")
    return Plan(changes, ", ".join(parts))


def _is_edit(key: str, stored: Stored) -> bool:
    """Somebody's own record; one that cannot be decoded is not worth keeping."""
    try:
        decode_model(stored.value, key.encode())
    except RecordError:
        return False
    return not stored.from_files


def _write(servers: str, changes: Mapping[str, bytes | None]) -> None:
    console = Console(stderr=True)
    with Progress(
        TextColumn("publishing models"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=len(changes))
        write_values(servers, changes, from_files=True, written=lambda: progress.advance(task))


@catalogue.command()
@click.argument("name", metavar="MODEL")
@click.option("--topic", "from_topic", is_flag=True, help="Ask the topic, not the shipped files.")
@click.option("--prices", is_flag=True, help="List all dated prices.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@data_dir_option
def show(name: str, from_topic: bool, prices: bool, form: str, data_dir: Path | None) -> None:
    """Show which model the name MODEL means, and what is known of it.

    MODEL is a name as events carry it: an id, an alias, with :variant or date. Exit code 1 when it
    resolves to nothing.
    """
    known = _of_topic(data_dir) if from_topic else load_shipped()
    resolution = known.resolve(name)
    if resolution is None:
        raise FatalError(f"{name} is unresolved{_similar(name, known)}")
    described = _described(resolution, int(time.time() * 1000))
    if form == "json":
        members = {**described, "prices": [asdict(price) for price in resolution.model.prices]}
        click.echo(orjson.dumps(members, option=orjson.OPT_INDENT_2))
        return
    for label, value in described.items():
        click.echo(f"{label:<29} {_shown(value)}")
    if prices:
        for price in resolution.model.prices:
            click.echo(f"price from {_utc(price.valid_from_ms):<18} {_price_text(price)}")


def _similar(name: str, known: Catalogue) -> str:
    names = [*known.models, *(alias for model in known.models.values() for alias in model.aliases)]
    close = difflib.get_close_matches(name.strip().lower(), names, n=3, cutoff=0.75)
    return f"; similar names: {', '.join(close)}" if close else ""


def _described(resolution: Resolution, now_ms: int) -> dict[str, object]:
    model = resolution.model
    members = {
        name: value
        for name, value in asdict(model).items()
        if name not in ("model_id", "aliases", "prices")
    }

    def usd(prompt: int, completion: int) -> float | None:
        cost = list_cost_nanousd(model, resolution.variant, now_ms, prompt, completion)
        return None if cost is None else cost / 10**9

    price = price_at(model, now_ms)
    return {
        "model_id": model.model_id,
        "variant": resolution.variant or None,
        **members,
        "origin": origin(model),
        "size_class": size_class(model),
        "price_prompt_usd_per_mtok": usd(10**6, 0),
        "price_completion_usd_per_mtok": usd(0, 10**6),
        "price_valid_from": price and _utc(price.valid_from_ms),
        "price_changes": len(model.prices),
        "aliases": model.aliases,
    }


def _shown(value: object) -> str:
    if value is None or value == ():
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _of_topic(data_dir: Path | None) -> Catalogue:
    return topic_catalogue(
        settings_for(data_dir).kafka_bootstrap_servers, lambda text: click.echo(text, err=True)
    )


def _utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _price_text(price: Price) -> str:
    prompt = price.prompt_picousd_per_token / 10**6
    completion = price.completion_picousd_per_token / 10**6
    return f"{prompt:g} / {completion:g} USD per million prompt / completion tokens"


@catalogue.command()
@click.argument("model_id")
@click.argument("fields", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--alias", "aliases", multiple=True, help="Add a name. May be repeated.")
@click.option(
    "--price",
    metavar="PROMPT/COMPLETION[@DATE]",
    help="List price in USD per million tokens from now, or from 00:00 UTC of DATE (YYYY-MM-DD) on.",
)
@click.option("--new", is_flag=True, help="Add a model that the topic does not know yet.")
@data_dir_option
def edit(
    model_id: str,
    fields: Sequence[str],
    aliases: Sequence[str],
    price: str | None,
    new: bool,
    data_dir: Path | None,
) -> None:
    """Change one model on the topic: workers use it from their next batch on.

    FIELD is a column of models.csv (vendor, vendor_country, open_weights, license, total_params_b,
    reasoning, aliases, ...); lists are separated by |. An empty VALUE makes it unknown.

    \b
    tokentide catalogue edit poolside/laguna-m.1 vendor_country=US
    tokentide catalogue edit acme/rocket-2 vendor=acme --alias rocket-2 --price 0.5/1.5 --new
    """
    servers = settings_for(data_dir).kafka_bootstrap_servers
    stored = read_values(servers)
    if new == (model_id in stored):
        hint = (
            "is on the topic already: leave out --new" if new else "is not on the topic: see --new"
        )
        raise FatalError(f"{model_id} {hint}")
    try:
        old = Model(model_id) if new else decode_model(stored[model_id].value)
        changed = edited(old, fields, aliases, price, int(time.time() * 1000))
    except RecordError as error:
        raise FatalError(f"{model_id}: {error}") from None
    value = encode_model(changed)
    if model_id in stored and stored[model_id].value == value:
        click.echo(f"{model_id}: unchanged")
        return
    write_values(servers, {model_id: value})
    click.echo(f"{model_id}: published")


def edited(
    model: Model, fields: Sequence[str], aliases: Sequence[str], price: str | None, now_ms: int
) -> Model:
    """Return the model with ``FIELD=VALUE`` texts applied, aliases added and a price added.

    Raises:
        click.UsageError: A text cannot be read.
        RecordError: A value cannot be right.
    """
    members: dict[str, object] = asdict(model)
    for text in fields:
        column, equals, value = text.partition("=")
        if not equals or column not in COLUMNS or column == "model_id":
            known = ", ".join(name for name in COLUMNS if name != "model_id")
            raise click.UsageError(f"{text!r} is not FIELD=VALUE; fields: {known}")
        try:
            members[column] = parse_column(column, value)
        except ValueError as error:
            raise click.UsageError(f"{column} {error}, is {value!r}") from None
    names = members["aliases"] or ()
    assert isinstance(names, list | tuple)
    members["aliases"] = sorted({*names, *aliases})
    if price is not None:
        added = _read_price(price, now_ms)
        kept = {old.valid_from_ms: old for old in model.prices} | {added.valid_from_ms: added}
        members["prices"] = [asdict(kept[from_ms]) for from_ms in sorted(kept)]
    return model_from_members(members)


def _read_price(text: str, now_ms: int) -> Price:
    amounts, at, day = text.partition("@")
    prompt, slash, completion = amounts.partition("/")
    try:
        if not slash:
            raise ValueError("must be PROMPT/COMPLETION[@DATE]")
        from_ms = day_start_ms(day) if at else now_ms
        return Price(from_ms, picousd_per_token(prompt), picousd_per_token(completion))
    except ValueError as error:
        raise click.UsageError(f"--price {error}, is {text!r}") from None


@catalogue.command()
@click.argument("model_id")
@data_dir_option
def remove(model_id: str, data_dir: Path | None) -> None:
    """Delete one model from the topic: its events are stored as unknown from then on.

    The next `tokentide catalogue publish`, and so the next `tokentide up`, brings a shipped model back.
    """
    servers = settings_for(data_dir).kafka_bootstrap_servers
    if model_id not in read_values(servers):
        raise FatalError(f"{model_id} is not on the topic")
    write_values(servers, {model_id: None})
    click.echo(f"{model_id}: deleted")


@catalogue.command()
@click.option("--limit", "rows_max", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table")
@data_dir_option
def unresolved(rows_max: int, form: str, data_dir: Path | None) -> None:
    """List the names that were stored as unknown, those with the most tokens first.

    To teach the catalogue one of them: tokentide catalogue edit MODEL --alias NAME.
    """
    rows = _query_unresolved(settings_for(data_dir), rows_max)
    columns = ("model_raw", "requests", "tokens", "last_seen")
    if form == "json":
        click.echo(orjson.dumps([dict(zip(columns, row, strict=True)) for row in rows]))
        return
    table = Table(*columns)
    for name, requests, tokens, last_seen in rows:
        # Names come from producers: neither markup nor control characters may act.
        table.add_row(Text(printable(str(name))), f"{requests:,}", f"{tokens:,}", str(last_seen))
    Console().print(table)


def printable(text: str) -> str:
    """Return the text with what a terminal might obey replaced."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _query_unresolved(settings: Settings, rows_max: int) -> list[Sequence[object]]:
    client = connect(
        ClickHouseAddress(
            host=settings.clickhouse_host,
            port=settings.clickhouse_port,
            user=settings.clickhouse_reader_user,
            password=settings.clickhouse_reader_password.get_secret_value(),
            database=settings.clickhouse_database,
            secure=settings.clickhouse_secure,
            connect_timeout_seconds=settings.clickhouse_connect_timeout_seconds,
            request_timeout_seconds=settings.clickhouse_request_timeout_seconds,
        )
    )
    try:
        result = client.query(UNRESOLVED_SQL, parameters={"rows_max": rows_max})
    except CAUGHT as error:
        raise sorted_error(error) from error
    finally:
        client.close()
    return list(result.result_rows)
