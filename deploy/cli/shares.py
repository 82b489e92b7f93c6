"""``tokentide shares``: the live table of model and vendor shares."""

import dataclasses
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import orjson
from clickhouse_connect.driver.httpclient import HttpClient
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deploy.addresses import reader_address
from deploy.cli.stack import data_dir_option, settings_for
from schemas.errors import FatalError, RetryableError
from sinks.clickhouse import CAUGHT, ClickHouseAddress, connect, sorted_error
from streams.settings import Settings

REFRESH_SECONDS = 1.0
RATE_SECONDS = 10
LIVE_SECONDS = 60
UNNAMED = ("other", "unknown")
SIDE_BY_SIDE_COLUMNS = 130
EXAMPLE = "SELECT * FROM share_last_hour WHERE dimension = 'model'"
# Changes below this many percentage points are drawn as none.
CHANGE_POINTS_MIN = 0.05


@dataclass(frozen=True)
class Share:
    """One row: a value's part of the window, and of the window before it.

    Attributes:
        share, previous_share: Part of all tokens, 0 to 1; ``None`` when the window has none.
    """

    value: str
    tokens: int
    requests: int
    share: float | None
    previous_share: float | None


@dataclass(frozen=True)
class Snapshot:
    """What the live table shows.

    Attributes:
        from_time, to_time: The window, UTC, half-open; the window before it is as long.
        newest_event: Event time of the newest event stored; ``None`` when there is none.
        newest_event_age_seconds: How long ago that was by the server's clock.
        events_per_second: Mean of the 10 seconds of event time up to the newest event; 0 when that
            is more than a minute old.
    """

    from_time: datetime
    to_time: datetime
    tokens: int
    requests: int
    newest_event: datetime | None
    newest_event_age_seconds: float | None
    events_per_second: float
    models: list[Share]
    vendors: list[Share]


_STATE_SQL = """
WITH
    (SELECT max(occurred_at) FROM usage_events) AS newest,
    least(newest, now64(3, 'UTC')) AS reached
SELECT
    toStartOfMinute(now('UTC')) + 60 AS to_time,
    to_time - {minutes:UInt32} * 60 AS from_time,
    newest,
    date_diff('millisecond', reached, now64(3, 'UTC')) AS age_ms,
    (
        SELECT count() FROM usage_events
        WHERE occurred_at > reached - {seconds:UInt32} AND occurred_at <= reached
    ) AS recent
"""
_SHARES_SQL = """
SELECT
    {column:Identifier} AS value,
    sumIf(u.tokens_prompt + u.tokens_completion, minute >= {middle:DateTime('UTC')}) AS tokens,
    sumIf(u.requests, minute >= {middle:DateTime('UTC')}) AS requests,
    sumIf(u.tokens_prompt + u.tokens_completion, minute < {middle:DateTime('UTC')}) AS before
FROM usage_1m AS u
WHERE minute >= {middle:DateTime('UTC')} - {minutes:UInt32} * 60 AND minute < {end:DateTime('UTC')}
GROUP BY value
"""


def snapshot(client: HttpClient, minutes: int, top: int) -> Snapshot:
    """Read the shares of the last ``minutes`` minutes, the one in progress included.

    Args:
        top: Values with a row of their own; the rest is ``other``.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
    """
    try:
        state = client.query(_STATE_SQL, parameters={"minutes": minutes, "seconds": RATE_SECONDS})
        to_time, from_time, newest, age_ms, recent = state.result_rows[0]
        window = {"middle": from_time, "end": to_time, "minutes": minutes}
        models, vendors = (
            client.query(_SHARES_SQL, parameters={"column": column, **window}).result_rows
            for column in ("model", "vendor")
        )
    except CAUGHT as error:
        raise sorted_error(error) from error
    # max() of an empty table is the epoch.
    known = newest.timestamp() > 0
    return Snapshot(
        from_time=from_time,
        to_time=to_time,
        tokens=sum(row[1] for row in vendors),
        requests=sum(row[2] for row in vendors),
        newest_event=newest if known else None,
        newest_event_age_seconds=age_ms / 1000 if known else None,
        events_per_second=recent / RATE_SECONDS if age_ms < LIVE_SECONDS * 1000 else 0.0,
        models=top_shares(models, top),
        vendors=top_shares(vendors, top),
    )


def top_shares(rows: Sequence[Sequence[Any]], top: int) -> list[Share]:
    """Return the ``top`` largest values by tokens, then ``other``, then ``unknown``.

    Args:
        rows: ``(value, tokens, requests, tokens of the window before)``.
    """
    now_total = sum(row[1] for row in rows)
    before_total = sum(row[3] for row in rows)

    def share(value: str, of: Sequence[Sequence[Any]]) -> Share:
        tokens, requests, before = (sum(row[at] for row in of) for at in (1, 2, 3))
        return Share(
            value,
            tokens,
            requests,
            tokens / now_total if now_total else None,
            before / before_total if before_total else None,
        )

    ranked = sorted(rows, key=lambda row: (-row[1], row[0]))
    named = [row for row in ranked if row[0] != "unknown" and row[2]]
    unknown = [row for row in ranked if row[0] == "unknown" and row[2]]
    shares = [share(row[0], [row]) for row in named[:top]]
    if named[top:]:
        shares.append(share("other", named[top:]))
    if unknown:
        shares.append(share("unknown", unknown))
    return shares


def _program() -> str:
    """Return how this very command is called from the current directory."""
    path = Path(sys.argv[0])
    if path.name != "tokentide" or shutil.which("tokentide") == str(path):
        return "tokentide"
    return os.path.relpath(path)


def show_shares(
    settings: Settings, stop: threading.Event, *, minutes: int = 15, top: int = 10
) -> None:
    """Draw the live table until ``stop`` is set; an absent ClickHouse is shown, not raised."""
    console = Console()
    client: HttpClient | None = None
    shown: Snapshot | None = None
    try:
        with Live(console=console, auto_refresh=False) as live:
            while not stop.is_set():
                problem = ""
                rows = min(top, rows_that_fit(console.width, console.height))
                try:
                    client = client or connect(_impatient(settings))
                    shown = snapshot(client, minutes, rows)
                except (FatalError, RetryableError) as error:
                    problem = str(error)
                view = picture(shown, problem, endpoint(settings), minutes, console.width)
                live.update(view, refresh=True)
                stop.wait(REFRESH_SECONDS)
    finally:
        if client is not None:
            client.close()


def _impatient(settings: Settings) -> ClickHouseAddress:
    """The reader's address with timeouts short enough for a table that moves every second."""
    return dataclasses.replace(
        reader_address(settings), connect_timeout_seconds=2.0, request_timeout_seconds=5.0
    )


def endpoint(settings: Settings) -> str:
    """Return the address of the SQL endpoint with what a client needs to sign in."""
    scheme = "https" if settings.clickhouse_secure else "http"
    password = "" if settings.clickhouse_reader_password.get_secret_value() else ", no password"
    return (
        f"{scheme}://{settings.clickhouse_host}:{settings.clickhouse_port}"
        f"  user {settings.clickhouse_reader_user}{password}, "
        f"database {settings.clickhouse_database}"
    )


def rows_that_fit(width: int, height: int) -> int:
    """Return how many named values each table can show; ``other`` and ``unknown`` come on top."""
    around = 7  # two lines above, three below, two empty ones
    if width >= SIDE_BY_SIDE_COLUMNS:
        return max(3, height - around - 3)
    return max(2, (height - around - 1) // 2 - 3)


def picture(
    shown: Snapshot | None, problem: str, address: str, minutes: int, width: int
) -> RenderableType:
    """Compose the screen: what is shown, the two tables, where to ask for more."""
    parts: list[RenderableType] = [_head(shown, minutes)]
    if problem:
        parts.append(Text(f"{problem}; trying again every second", style="red", overflow="fold"))
    elif shown is None or shown.newest_event is None:
        parts.append(Text("no events stored yet", style="dim"))
    else:
        parts.append(_pulse(shown))
    if shown is not None and shown.requests:
        side_by_side = width >= SIDE_BY_SIDE_COLUMNS
        each = (width - 3) // 2 if side_by_side else width
        tables = [
            _table("model", shown.models, each),
            _table("vendor", shown.vendors, each),
        ]
        if side_by_side:
            both = Table.grid(padding=(0, 3, 0, 0), pad_edge=False)
            both.add_row(*tables)
            tables = [both]
        for table in tables:
            parts += [Text(), table]
    parts += [
        Text(),
        Text(f"SQL  {address}", overflow="fold"),
        Text(f'  $  {_program()} query "{EXAMPLE}"', overflow="fold"),
    ]
    return Group(*parts)


def _head(shown: Snapshot | None, minutes: int) -> Text:
    head = Text("tokentide", style="bold")
    head.append(f"  share of tokens, last {minutes} min", style="not bold")
    if shown is not None:
        head.append(f", {shown.from_time:%H:%M} to now UTC", style="not bold")
    return head


def _pulse(shown: Snapshot) -> Text:
    assert shown.newest_event_age_seconds is not None
    age = shown.newest_event_age_seconds
    line = Text(f"{shown.events_per_second:,.0f} events/s   newest event ")
    line.append(f"{_duration(age)} ago", style="green" if age < LIVE_SECONDS else "yellow")
    line.append(f"   {_short(shown.tokens)} tokens   {_short(shown.requests)} requests")
    return line


def _table(title: str, shares: Sequence[Share], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", width=width, padding=(0, 2, 0, 0))
    table.add_column(title, ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("share", justify="right", width=6)
    table.add_column("change", justify="right", width=7)
    bar_cells = min(20, width - 64)
    if bar_cells >= 5:
        table.add_column("", width=bar_cells, no_wrap=True)
    table.add_column("tokens", justify="right", width=7)
    table.add_column("requests", justify="right", width=8)
    largest = max((s.share or 0.0 for s in shares if s.value not in UNNAMED), default=0.0)
    for share in shares:
        unnamed = share.value in UNNAMED
        style = "dim" if unnamed else ""
        cells = 0 if unnamed else bar_cells
        bar = [Text(_bar(share.share, largest, cells), style="cyan")] if bar_cells >= 5 else []
        table.add_row(
            Text(share.value, style=style),
            "" if share.share is None else f"{100 * share.share:.1f}%",
            _change(share),
            *bar,
            _short(share.tokens),
            _short(share.requests),
        )
    return table


def _change(share: Share) -> Text:
    """Percentage points against the window before."""
    if share.share is None or share.previous_share is None:
        return Text("")
    points = 100 * (share.share - share.previous_share)
    if abs(points) < CHANGE_POINTS_MIN:
        return Text("=", style="dim")
    arrow, style = ("▲", "green") if points > 0 else ("▼", "red")
    return Text(f"{arrow}{abs(points):5.1f}", style=style)


def _bar(share: float | None, largest: float, cells: int) -> str:
    return "█" * round(cells * (share or 0.0) / largest) if largest else ""


def _short(count: int) -> str:
    """A count in at most five characters, three digits of it significant: 999, 12.3k, 4.56M."""
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            value = count / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{unit}"
    return str(count)


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


@click.command("shares")
@data_dir_option
@click.option(
    "--minutes",
    type=click.IntRange(1, 1440),
    default=15,
    show_default=True,
    help="Length of the window; changes are against the window before it.",
)
@click.option(
    "--top",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="Models and vendors with a row of their own; the rest is other.",
)
@click.option("--once", is_flag=True, help="Print once and exit, for scripts.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="With --once: json is one object; shares are 0 to 1, times UTC.",
)
def shares(data_dir: Path | None, minutes: int, top: int, once: bool, form: str) -> None:
    """Show the live market share of models and vendors.

    Shares are of tokens by event time in the last --minutes, the minute in progress included. An
    arrow is the change in percentage points against the window before. Ends with Ctrl-C.

    \b
    tokentide shares
    tokentide shares --once --format json | jq '.models[0]'
    """
    if form == "json" and not once:
        raise click.UsageError("--format json needs --once")
    settings = settings_for(data_dir)
    if not once:
        stop = threading.Event()
        try:
            show_shares(settings, stop, minutes=minutes, top=top)
        except KeyboardInterrupt:
            return
    client = connect(reader_address(settings))
    try:
        shown = snapshot(client, minutes, top)
    finally:
        client.close()
    if form == "json":
        options = orjson.OPT_UTC_Z | orjson.OPT_INDENT_2
        click.echo(orjson.dumps(shown, option=options).decode())
    else:
        console = Console()
        console.print(picture(shown, "", endpoint(settings), minutes, console.width))
