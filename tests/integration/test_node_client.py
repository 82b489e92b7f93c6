"""The official Node client, code nobody here wrote, against the embedded ClickHouse."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import requests

from tests.conftest import PROJECT, ClickHouseAddress

SOURCE = Path(__file__).parent / "node"
FILES = ("package.json", "package-lock.json", "client.mjs")


@pytest.fixture(scope="module")
def node_folder() -> Path:
    """A folder with the locked client installed, kept for the next run."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node is not installed: node and npm are not on the PATH")
    content = b"".join((SOURCE / name).read_bytes() for name in FILES)
    folder = PROJECT / ".tokentide" / "tests" / f"node-{hashlib.sha256(content).hexdigest()[:16]}"
    done = folder / "installed"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copy(SOURCE / name, folder)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        installed = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=240, check=False
        )
        assert installed.returncode == 0, installed.stderr
        done.touch()
    return folder


@pytest.fixture
def database(clickhouse: ClickHouseAddress, fresh_database: str) -> Iterator[str]:
    """An empty database."""
    url = f"http://{clickhouse.host}:{clickhouse.port}/"
    auth = (clickhouse.writer_user, clickhouse.writer_password)
    for number, statement in enumerate(("CREATE DATABASE {}", "DROP DATABASE {} SYNC")):
        if number:
            yield fresh_database
        requests.post(
            url, data=statement.format(fresh_database), auth=auth, timeout=60
        ).raise_for_status()


def test_the_lock_has_hashes_and_no_addresses() -> None:
    """npm checks what it downloads, and from where is the machine's to say."""
    packages = orjson.loads((SOURCE / "package-lock.json").read_bytes())["packages"]
    locked = {name: entry for name, entry in packages.items() if name}
    assert "node_modules/@clickhouse/client" in locked
    for entry in locked.values():
        assert entry["integrity"].startswith("sha512-")
        assert "resolved" not in entry


def test_the_official_node_client(
    clickhouse: ClickHouseAddress, node_folder: Path, database: str
) -> None:
    """Ping, inserts, bound parameters, streamed rows and error codes are those of a server."""
    url = f"http://{clickhouse.host}:{clickhouse.port}"
    user, password = clickhouse.writer_user, clickhouse.writer_password
    ran = subprocess.run(
        ["node", "client.mjs", url, user, password, database],
        cwd=node_folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    seen = orjson.loads(ran.stdout)
    assert seen.pop("chunks") >= 1
    assert seen == {
        "ping": True,
        "bound": [{"n": 7, "name": "it's 7"}],
        "queryId": True,
        "whole": [{"rows": 100_000}],
        "streamed": 100_000,
        "sum": 4_999_950_000,
        "unknownTable": {"code": "60", "type": "UNKNOWN_TABLE"},
        "midStream": {"code": "395", "type": "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"},
        "readerRows": [{"n": 100_000}],
        "readerInsert": {"code": "164", "type": "READONLY"},
    }
