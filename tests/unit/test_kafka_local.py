"""Locked jars and broker settings, without a broker and without the network."""

import hashlib
import threading
from pathlib import Path

import pytest
import requests

from deploy.local import kafka_jars
from deploy.local.kafka import java_command, server_properties
from deploy.local.kafka_jars import Jar, ensure_jars, read_lock
from schemas.errors import FatalError


class FakeMaven:
    """Stands for jgo: every artifact is its own name as bytes."""

    def __init__(self, repository: Path, content: bytes = b"jar") -> None:
        self.repository = repository
        self.content = content
        self.downloads = 0

    def project(self, _group: str, artifact: str) -> "FakeMaven":
        self.name = artifact
        return self

    def at_version(self, _version: str) -> "FakeMaven":
        return self

    def artifact(self) -> "FakeMaven":
        return self

    def resolve(self) -> Path:
        self.downloads += 1
        file = self.repository.with_name(f"{self.name}-{self.downloads}")
        file.write_bytes(self.content)
        return file


def jar(content: bytes = b"jar") -> Jar:
    return Jar("org.example", "broker", "1.0", hashlib.sha256(content).hexdigest())


@pytest.fixture
def maven(monkeypatch: pytest.MonkeyPatch) -> list[FakeMaven]:
    """Replace jgo by a fake; the list collects one for each fetch of the whole set."""
    made: list[FakeMaven] = []

    def fake(repository: Path) -> FakeMaven:
        made.append(FakeMaven(repository))
        return made[-1]

    monkeypatch.setattr(kafka_jars, "_maven", fake)
    return made


def test_lock_names_kafka_and_no_address() -> None:
    """The shipped lock holds Kafka and the log binding, each jar with a sum, and no address."""
    jars = read_lock()
    named = {(jar.group, jar.artifact, jar.version) for jar in jars}
    assert set(kafka_jars.ROOTS) <= named
    assert len({jar.filename for jar in jars}) == len(jars)
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in jars)
    assert "://" not in kafka_jars.LOCK_FILE.read_text()


def test_broken_lock_is_refused(tmp_path: Path) -> None:
    """A line that is not a coordinate and a sum stops the start and is quoted."""
    file = tmp_path / "kafka.lock"
    file.write_text("# comment\norg.example:broker sha256:00\n")
    with pytest.raises(FatalError, match=r"org\.example:broker"):
        read_lock(file)


def test_jars_are_fetched_once(tmp_path: Path, maven: list[FakeMaven]) -> None:
    """A second start finds the cache and downloads nothing."""
    first = ensure_jars([jar()], tmp_path)
    assert ensure_jars([jar()], tmp_path) == first
    assert [file.read_bytes() for file in first] == [b"jar"]
    assert len(maven) == 1


def test_broken_download_is_tried_again(
    tmp_path: Path, maven: list[FakeMaven], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that breaks costs a try, half a file is thrown away; a dead network is told."""
    half = tmp_path / "half"
    breaks = 2

    def resolve(fake: FakeMaven) -> Path:
        nonlocal breaks
        fake.cached_path = half  # type: ignore[attr-defined]  # jgo's name for it
        half.touch()
        if breaks:
            breaks -= 1
            raise requests.ConnectionError("reset")
        half.write_bytes(b"jar")
        return half

    monkeypatch.setattr(FakeMaven, "resolve", resolve)
    (file,) = ensure_jars([jar()], tmp_path)
    assert file.read_bytes() == b"jar"
    breaks = 99
    with pytest.raises(FatalError, match=r"cannot be downloaded: ConnectionError: reset"):
        ensure_jars([jar(b"other")], tmp_path)
    assert not half.exists()
    assert len(maven) == 2


def test_wrong_sum_after_download_is_refused(tmp_path: Path, maven: list[FakeMaven]) -> None:
    """A jar that differs from its lock is never put into the cache, nor anything beside it."""
    with pytest.raises(FatalError, match=r"broker-1.0.jar has sha256 .* refused"):
        ensure_jars([jar(b"another")], tmp_path)
    assert len(maven) == 1
    assert [file.suffix for file in tmp_path.iterdir()] == [".lock"]


def test_changed_cache_is_refused(tmp_path: Path, maven: list[FakeMaven]) -> None:
    """A cached jar that changed later, or went missing, is not started."""
    (file,) = ensure_jars([jar()], tmp_path)
    file.write_bytes(b"changed")
    with pytest.raises(FatalError, match="refused"):
        ensure_jars([jar()], tmp_path)
    file.unlink()
    with pytest.raises(FatalError, match="is missing: remove"):
        ensure_jars([jar()], tmp_path)
    assert len(maven) == 1


def test_concurrent_first_starts_share_one_download(tmp_path: Path, maven: list[FakeMaven]) -> None:
    """Of several first starts one downloads; all see the whole cache."""
    results: list[list[Path]] = []
    threads = [
        threading.Thread(target=lambda: results.append(ensure_jars([jar()], tmp_path)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len(maven) == 1


def test_unusable_cache_is_one_line(tmp_path: Path) -> None:
    """A cache directory that cannot be made is named, with the variable that moves it."""
    (tmp_path / "file").touch()
    with pytest.raises(FatalError, match="XDG_CACHE_HOME"):
        ensure_jars([jar()], tmp_path / "file")


def test_broker_listens_on_loopback_only() -> None:
    """No listener of the broker can be reached from another machine."""
    settings = server_properties(9092, 9093)
    listeners = f"{settings['listeners']},{settings['advertised.listeners']}".split(",")
    assert all("://127.0.0.1:" in listener for listener in listeners)
    assert settings["auto.create.topics.enable"] == "false"


def test_class_path_holds_every_jar(tmp_path: Path) -> None:
    """The command starts the wheel's Java with all jars, in order."""
    command = java_command([tmp_path / "a.jar", tmp_path / "b.jar"], tmp_path, "kafka.Kafka", "x")
    assert Path(command[0]).exists()
    assert command[command.index("-cp") + 1] == f"{tmp_path}/a.jar:{tmp_path}/b.jar"
    assert command[-2:] == ["kafka.Kafka", "x"]
