"""How a command finds the stack: by its data directory, else by the settings."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import orjson

from schemas.errors import ConfigurationError
from streams.settings import Settings

STACK_FILE = "stack.json"

data_dir_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Directory of the local stack [default: $TOKENTIDE_DATA_DIR or .tokentide].",
)


def settings_for(data_dir: Path | None) -> Settings:
    """Return the settings with the addresses of the local stack in ``data_dir`` filled in.

    An address set in the environment wins over the stack's. Without ``data_dir`` a stack in the
    default directory is used if there is one.

    Raises:
        ConfigurationError: If ``data_dir`` is given and holds no stack, or its file is broken.
    """
    settings = Settings.load()
    directory = data_dir or settings.data_dir
    file = directory / STACK_FILE
    if not file.exists():
        if data_dir is not None:
            raise ConfigurationError(
                f"no stack in {directory}: start one with: tokentide up --data-dir {directory}"
            )
        return settings
    try:
        addresses: dict[str, str] = orjson.loads(file.read_bytes())["addresses"]
        clickhouse = urlsplit(addresses["clickhouse"])
        found: dict[str, Any] = {
            "data_dir": directory,
            "kafka_bootstrap_servers": addresses["kafka"],
            "clickhouse_host": clickhouse.hostname,
            "clickhouse_port": clickhouse.port,
        }
    except (orjson.JSONDecodeError, KeyError, ValueError) as error:
        raise ConfigurationError(f"{file} is broken: {error}; start the stack again") from None
    unset = {
        name: value
        for name, value in found.items()
        if name == "data_dir" or f"TOKENTIDE_{name.upper()}" not in os.environ
    }
    return settings.model_copy(update=unset)
