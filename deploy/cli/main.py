"""The ``tokentide`` command: one file per subcommand, imported only when it is called."""

import importlib
import sys
from typing import Any

import click

from schemas.errors import FatalError, RetryableError

# Command name -> module in this folder and the name of the click command in it.
COMMANDS = {
    "up": "up:up",
    "worker": "worker:worker",
    "kafka": "kafka:kafka",
    "clickhouse": "clickhouse:clickhouse",
    "migrate": "migrate:migrate",
    "topics": "topics:topics",
    "simulate": "simulate:simulate",
    "replay": "replay:replay",
    "produce": "produce:produce",
    "validate": "validate:validate",
    "catalogue": "catalogue:catalogue",
    "query": "query:query",
    "views": "views:views",
    "report": "report:report",
    "shares": "shares:shares",
    "dashboard": "dashboard:dashboard",
    "alerts": "alerts:alerts",
    "status": "status:status",
    "reconcile": "reconcile:reconcile",
    "restate": "restate:restate",
    "dead-letters": "dead_letters:dead_letters",
    "doctor": "doctor:doctor",
    "settings": "settings:settings",
}


class LazyCommands(click.Group):
    """A group that imports a subcommand when it is used, so that ``--help`` stays fast."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command = getattr(importlib.import_module(f"deploy.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (FatalError, RetryableError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tokentide", message="%(prog)s %(version)s")
def tokentide() -> None:
    """Live market share of LLM traffic: Kafka usage events to ClickHouse shares.

    Start everything on this machine with `tokentide up`; the other commands then find it by
    --data-dir (default .tokentide), or reach remote parts by the TOKENTIDE_* settings.

    Exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong usage.
    """


def main() -> None:
    """Entry point of the console script."""
    sys.exit(tokentide())


if __name__ == "__main__":
    main()
