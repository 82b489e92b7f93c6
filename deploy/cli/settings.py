"""``tokentide settings``: every setting with its value, default and help."""

import textwrap
from typing import Any

import click
import orjson
from pydantic import SecretStr

from streams.settings import PREFIX, Settings

MASK = "********"


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    return str(value)


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: a list of objects with name, value, default and help.",
)
def settings(form: str) -> None:
    """Print every setting: name, value, default, help. Secrets are masked.

    Set one in the environment, such as TOKENTIDE_BATCH_WAIT_SECONDS=0.25. The unit is the end of
    the name. An unknown TOKENTIDE_ name stops every command.
    """
    current = Settings.load()
    rows = [
        {
            "name": PREFIX + name.upper(),
            "value": _shown(getattr(current, name)),
            "default": _shown(field.default),
            "help": " ".join((field.description or "").split()),
        }
        for name, field in Settings.model_fields.items()
    ]
    if form == "json":
        click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return
    for row in rows:
        changed = row["value"] != row["default"]
        default = f"   (default: {row['default'] or 'empty'})" if changed else ""
        click.echo(click.style(f"{row['name']}={row['value']}", bold=changed) + default)
        click.echo(textwrap.indent(textwrap.fill(row["help"], 92), "    "))
