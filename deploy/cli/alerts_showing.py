"""One alert for people: transitions, causes, deliveries, verdicts."""

from collections.abc import Sequence

from clickhouse_connect.driver.httpclient import HttpClient
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.cli.alerts_text import ask
from schemas.share_alert import Breakdown, Explanation, ShareAlert
from streams.alerts.sentences import percent


def print_alert(console: Console, client: HttpClient, transitions: Sequence[ShareAlert]) -> None:
    """Print everything that is known of an alert."""
    last = transitions[-1]
    console.print(Text(last.sentence, style="bold"))
    console.print(_facts(last, transitions[0]))
    console.print()
    console.print(_transitions(transitions))
    explained = next((each for each in transitions if each.explanation), None)
    if explained is not None and explained.explanation is not None:
        console.print()
        _print_explanation(console, explained.explanation)
    for title, sql in _MORE.items():
        rows = ask(client, sql, alert_id=last.alert_id)
        if rows:
            table = Table(*rows[0], title=title, title_justify="left", box=None, pad_edge=False)
            for row in rows:
                table.add_row(*(Text(str(value)) for value in row.values()))
            console.print()
            console.print(table)


_MORE = {
    "deliveries": "SELECT receiver, version, outcome, attempts, detail,"
    " formatDateTime(delivered_at, '%F %T') AS at FROM share_alert_deliveries"
    " WHERE alert_id = {alert_id:String} ORDER BY delivered_at, receiver",
    "verdicts": "SELECT if(verdict, 'true', 'false') AS verdict, note, labelled_by AS by,"
    " formatDateTime(labelled_at, '%F %T') AS at FROM share_alert_labels"
    " WHERE alert_id = {alert_id:String} ORDER BY labelled_at",
}


def _facts(last: ShareAlert, first: ShareAlert) -> Text:
    parameters = f"rule {last.rule}" if last.rule else f"parameters {last.parameters_version}"
    statistic = "" if first.statistic is None else f", statistic {first.statistic:.2f}"
    threshold = "" if first.threshold is None else f" over {first.threshold:.2f}"
    return Text(f"{last.alert_id}   {last.kind}   {parameters}{statistic}{threshold}", style="dim")


def _transitions(transitions: Sequence[ShareAlert]) -> Table:
    table = Table("version", "state", "at (UTC)", box=None, pad_edge=False)
    table.add_column("share of tokens", justify="right")
    table.add_column("sentence", overflow="fold")
    for each in transitions:
        share = "" if each.share_after is None else percent(each.share_after)
        table.add_row(str(each.version), each.state, each.at, share, Text(each.sentence))
    return table


def _print_explanation(console: Console, found: Explanation) -> None:
    console.print(f"{found.before_from} | {found.after_from} | {found.after_to}")
    volumes = Table("per minute", box=None, pad_edge=False)
    for name in ("requests before", "after", "tokens before", "after", "errors before", "after"):
        volumes.add_column(name, justify="right")
    pairs = (
        ("the series", found.own_before, found.own_after),
        ("all others", found.others_before, found.others_after),
    )
    for name, before, after in pairs:
        numbers = [
            value
            for measure in ("requests", "tokens", "errors")
            for value in (getattr(before, measure), getattr(after, measure))
        ]
        volumes.add_row(name, *(f"{number:,.1f}" for number in numbers))
    console.print(volumes)
    for breakdown in found.breakdowns:
        console.print()
        console.print(_breakdown(breakdown, found))
    if found.account is not None:
        part = f"{100 * found.account.part:.0f} %"
        console.print(f"\naccount {found.account.user_hash} made {part} of the change")
    is_complete = "complete" if found.completeness.is_complete else "not complete"
    console.print(
        f"data {is_complete}, {found.completeness.partitions_after} of"
        f" {found.completeness.partitions_before} partitions,"
        f" {percent(found.completeness.late_ratio)} late"
    )
    console.print(Text(f'\ntokentide query "{found.query}"', style="dim"))


def _breakdown(breakdown: Breakdown, found: Explanation) -> Table:
    table = Table(breakdown.dimension, box=None, pad_edge=False)
    for name in ("before", "after", "change", "part"):
        table.add_column(name, justify="right")
    change = found.share_after - found.share_before
    for each in breakdown.contributions:
        part = f"{100 * each.change / change:.0f} %" if change else ""
        table.add_row(
            Text(each.value),
            percent(each.share_before),
            percent(each.share_after),
            f"{100 * each.change:+.2f}",
            part,
        )
    return table
