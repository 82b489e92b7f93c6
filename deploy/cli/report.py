"""``tokentide report``: the analyses of the study over a period, as a page with plots."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from deploy.addresses import reader_address
from deploy.cli.stack import data_dir_option, settings_for
from deploy.report import checking
from deploy.report.published import PUBLISHED
from schemas.errors import ConfigurationError, FatalError
from sinks.clickhouse import CAUGHT, connect, sorted_error

DAYS = 28
DAY = click.DateTime(["%Y-%m-%d"])


@click.command("report")
@click.option("--from", "from_", type=DAY, help="First day, UTC [default: 28 days before --to].")
@click.option("--to", type=DAY, help="The day after the last one, UTC [default: tomorrow].")
@click.option("--compare-from", type=DAY, help="First day of a period to compare with.")
@click.option("--compare-to", type=DAY, help="The day after its last one [default: --from].")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("report"),
    show_default=True,
    help="Directory for the pages, figures and numbers.",
)
@click.option(
    "--verify",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Only compare a report that was written with its manifest.",
)
@click.option(
    "--note", default="", help="A sentence to begin with, such as where the data is from."
)
@click.option(
    "--check",
    is_flag=True,
    help="Only compare the study's published numbers with the views' answers, Markdown.",
)
@data_dir_option
def report(
    from_: datetime | None,
    to: datetime | None,
    compare_from: datetime | None,
    compare_to: datetime | None,
    out: Path,
    verify: Path | None,
    note: str,
    check: bool,
    data_dir: Path | None,
) -> None:
    """Write the analyses of the study "State of AI" over a period of your own traffic.

    Writes report.html, which needs no other file, report.md, figures/*.svg, data/*.csv and a
    manifest with the SHA-256 of each.

    \b
    tokentide report --from 2026-08-01 --to 2026-09-01 --out august
    tokentide report --from 2026-08-01 --to 2026-09-01 --compare-from 2026-07-01 --out august
    tokentide report --verify august
    tokentide report --check > check.md

    Exit code 1 if a question could not be answered, a file differs from the manifest, or a published
    number is not met; that can hold in the market of `tokentide replay study` only.
    """
    if check:
        _check(data_dir)
        return
    # Here, because matplotlib takes a second to import and is not everywhere.
    try:
        from deploy.report import building, pages
        from deploy.report.analyses import ANALYSES
        from deploy.report.periods import Period
    except ModuleNotFoundError as error:
        raise FatalError(f"a report needs {error.name}: pip install 'tokentide[report]'") from None
    if verify is not None:
        differing = building.faults(verify)
        if differing:
            raise FatalError(f"{verify}: {'; '.join(differing)}")
        click.echo(f"{verify}: every file is as the manifest says")
        return
    today = datetime.now(UTC).date()
    to_day = to.date() if to else today + timedelta(days=1)
    period = Period(_day(from_, to_day - timedelta(days=DAYS)), to_day)
    before = None
    if compare_from is not None:
        before = Period(compare_from.date(), _day(compare_to, period.from_day))
    elif compare_to is not None:
        raise ConfigurationError("--compare-to needs --compare-from")
    for each in filter(None, (period, before)):
        if each.from_day >= each.to_day:
            raise ConfigurationError(f"{each.from_day} is not before {each.to_day}")
    client = connect(reader_address(settings_for(data_dir)))
    try:
        with _progress() as progress:
            task = progress.add_task("asking", total=len(ANALYSES))
            made = building.build(client, period, before, lambda: progress.advance(task), note)
    except CAUGHT as error:
        raise FatalError(str(sorted_error(error))) from error
    finally:
        client.close()
    texts = {"report.html": pages.html(made), "report.md": pages.markdown(made)}
    building.write(made, out, texts)
    click.echo(f"{len(made.figures)} figures of {period.text}: {out / 'report.html'}")


def _check(data_dir: Path | None) -> None:
    client = connect(reader_address(settings_for(data_dir)))
    try:
        with _progress() as progress:
            task = progress.add_task("asking", total=len(PUBLISHED))
            found = checking.check(client, lambda: progress.advance(task))
    except CAUGHT as error:
        raise FatalError(str(sorted_error(error))) from error
    finally:
        client.close()
    for line in checking.table(found):
        click.echo(line)
    missed = sum(not each.is_within for each in found)
    if missed:
        raise FatalError(f"{missed} of {len(found)} published numbers are not met")


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _day(given: datetime | None, otherwise: date) -> date:
    return given.date() if given else otherwise
