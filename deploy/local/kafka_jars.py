"""Apache Kafka's jars, locked by SHA-256: fetched once by jgo, checked at every start.

``kafka.lock`` names every jar and its sum and no address: where they come from is jgo's business
(Maven Central, or the ``[repositories]`` of jgo's own configuration file).
"""

import fcntl
import hashlib
import os
import shutil
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import Dependency, MavenContext

from schemas.errors import FatalError

LOCK_FILE = Path(__file__).with_name("kafka.lock")
ROOTS = (
    ("org.apache.kafka", "kafka_2.13", "4.3.1"),
    ("org.slf4j", "slf4j-simple", "1.7.36"),  # Without a binding the broker logs nothing.
)
TRIES = 3
"""Tries for each jar before a broken network is reported."""
DOWNLOADS = 8
"""Jars fetched at a time."""
REQUEST_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Jar:
    """One line of the lock file; ``sha256`` is lower-case hex."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """Name of the file in the cache."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def line(self) -> str:
        """The line in the lock file."""
        return f"{self.group}:{self.artifact}:{self.version} sha256:{self.sha256}"


def read_lock(file: Path = LOCK_FILE) -> list[Jar]:
    """Return the jars of a lock file.

    Raises:
        FatalError: If a line is not ``group:artifact:version sha256:SUM``.
    """
    jars = []
    for line in file.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        try:
            coordinate, digest = line.split(" sha256:")
            group, artifact, version = coordinate.split(":")
        except ValueError:
            raise FatalError(f"{file} is broken at {line[:80]!r}: run make lock") from None
        jars.append(Jar(group, artifact, version, digest))
    return jars


def cache_directory() -> Path:
    """Return this user's cache directory of tokentide."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokentide"


def ensure_jars(jars: Sequence[Jar], cache: Path) -> list[Path]:
    """Return the paths of the jars, each equal to its locked sum, downloading what is missing.

    Safe to call from several processes at once: one downloads, the others wait for it.

    Raises:
        FatalError: If a sum differs, a download fails or the cache cannot be written.
    """
    # One directory per lock: another version of the project does not disturb this one.
    name = "kafka-" + hashlib.sha256("\n".join(jar.line for jar in jars).encode()).hexdigest()[:12]
    directory = cache / name
    try:
        if not directory.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with _exclusive(cache / f"{name}.lock"):
                if not directory.exists():
                    _download(jars, directory)
        _check(jars, directory)
    except OSError as error:
        raise FatalError(
            f"the cache {directory} cannot be used: {error.strerror or error};"
            " free it or set XDG_CACHE_HOME to another directory"
        ) from None
    return [directory / jar.filename for jar in jars]


@contextmanager
def _exclusive(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _download(jars: Sequence[Jar], directory: Path) -> None:
    """Fetch all jars and show them under ``directory`` only when every sum is right."""
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix="fetching-") as staging:
        context = _maven(Path(staging) / "repository")
        complete = Path(staging) / "complete"
        complete.mkdir()

        def fetch(jar: Jar) -> None:
            component = context.project(jar.group, jar.artifact).at_version(jar.version)
            shutil.move(_resolve(component.artifact()), complete / jar.filename)

        try:
            with ThreadPoolExecutor(DOWNLOADS) as pool:
                list(pool.map(fetch, jars))
        except (requests.RequestException, RuntimeError) as error:
            raise FatalError(
                f"kafka's jars cannot be downloaded: {_short(error)}; is the network there?"
            ) from None
        _check(jars, complete)
        complete.rename(directory)


def _resolve(artifact: Any) -> Path:
    """Return the path of a jgo artifact, downloading it in a few tries."""
    for tries_left in reversed(range(TRIES)):
        try:
            return Path(artifact.resolve())
        except requests.RequestException as error:
            if isinstance(error, requests.exceptions.SSLError):
                _trust_system_certificates()
            artifact.cached_path.unlink(missing_ok=True)  # It may be the half of a file.
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def _trust_system_certificates() -> None:
    """Use the machine's certificates: behind some companies' gateways only those fit."""
    paths = ssl.get_default_verify_paths()
    bundle = paths.cafile or paths.capath
    if bundle and not os.environ.get("CURL_CA_BUNDLE"):
        os.environ.setdefault("REQUESTS_CA_BUNDLE", bundle)


def _check(jars: Sequence[Jar], directory: Path) -> None:
    for jar in jars:
        file = directory / jar.filename
        if not file.exists():
            raise FatalError(f"{file} is missing: remove {directory} and start again")
        found = _sha256(file)
        if found != jar.sha256:
            raise FatalError(
                f"{file.name} has sha256 {found[:16]}..., kafka.lock says {jar.sha256[:16]}...:"
                f" refused; remove {directory} if it exists and start again"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _maven(repository: Path) -> MavenContext:
    return MavenContext(
        repo_cache=repository,
        local_repos=[],
        remote_repos={**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL},
        timeout=REQUEST_TIMEOUT_SECONDS,
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


def write_lock(file: Path = LOCK_FILE) -> int:
    """Resolve ``ROOTS`` anew, write the lock file and return how many jars are in it."""
    with tempfile.TemporaryDirectory() as repository:
        context = _maven(Path(repository))
        for group, artifact, version in ROOTS:
            _resolve(context.project(group, artifact).at_version(version).artifact())
        roots = [
            Dependency(context.project(group, artifact).at_version(version).artifact())
            for group, artifact, version in ROOTS
        ]
        inputs, transitive = context.resolver.resolve(roots)
        # A root has no scope of its own.
        needed = inputs + [dep for dep in transitive if dep.scope in ("compile", "runtime")]
        lines = sorted(
            Jar(dep.groupId, dep.artifactId, dep.version, _sha256(_resolve(dep.artifact))).line
            for dep in needed
        )
    file.write_text(
        "# Apache Kafka and all it needs, resolved by `make lock`. No address: see kafka_jars.py.\n"
        + "".join(f"{line}\n" for line in lines)
    )
    return len(lines)


if __name__ == "__main__":
    print(f"{LOCK_FILE.name}: {write_lock()} jars")
