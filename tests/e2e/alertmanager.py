"""A real Alertmanager: built once, with Go, and kept in ``build/``."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.processes import free_port
from tests.conftest import http_answers, running

VERSION = "v0.28.1"
PACKAGE = f"github.com/prometheus/alertmanager/cmd/alertmanager@{VERSION}"
DIRECTORY = Path(__file__).parents[2] / "build" / f"alertmanager-{VERSION}"


class NotBuiltError(Exception):
    """Why there is none here."""


def binary() -> Path:
    """Return its path; builds it the first time, which takes minutes on a busy machine.

    Raises:
        NotBuiltError: Go is missing, or can't build it.
    """
    go = shutil.which("go")
    if go is None:
        raise NotBuiltError("go is not installed: no Alertmanager can be built")
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    built = DIRECTORY / "alertmanager"
    # Tests run in several processes.
    with (DIRECTORY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            done = subprocess.run(
                [go, "install", PACKAGE],
                env={**os.environ, "GOBIN": str(DIRECTORY), "GOFLAGS": "-p=2"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1]
                raise NotBuiltError(f"Alertmanager can't be built here: {reason}")
    return built


@contextmanager
def alertmanager(directory: Path, notify_url: str) -> Iterator[str]:
    """Run it, telling a webhook of what fires and what is resolved at once; yield its address.

    Raises:
        NotBuiltError: There is none here.
    """
    config = directory / "alertmanager.yml"
    config.write_text(
        "route: {receiver: hook, group_by: ['...'], group_wait: 0s, group_interval: 1s}\n"
        f"receivers: [{{name: hook, webhook_configs: [{{url: '{notify_url}/notify'}}]}}]\n"
    )
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        str(binary()),
        f"--config.file={config}",
        f"--storage.path={directory / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    ]
    log = directory / "alertmanager.log"
    with running("alertmanager", command, log, lambda: http_answers(f"{url}/-/ready")):
        yield url
