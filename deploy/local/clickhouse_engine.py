"""The ClickHouse engine of one data directory, in this process: handles, queries, inserts.

Every request gets a chDB handle of its own (0.2 ms), so that no setting, parameter or deduplication
token can leak from one request to the next.

Import it before the process starts threads: importing chdb changes the working directory for a
moment and starts an engine.
"""

import errno
import fcntl
import os
import re
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import chdb

from deploy.local.clickhouse_access import USERS_XML, User, reader_settings
from deploy.local.clickhouse_bodies import Spool
from deploy.local.clickhouse_errors import (
    ACCESS_DENIED,
    INTO_OUTFILE_NOT_ALLOWED,
    READONLY,
    SYNTAX_ERROR,
    UNKNOWN_SETTING,
    EngineError,
    from_engine,
    refusal,
)
from deploy.local.clickhouse_statements import InsertHead, writes_outfile
from schemas.errors import ConfigurationError, FatalError

DATA_FOLDER = "clickhouse"
LOCK_FILE = "server.lock"
COMPRESSION_XML = Path(__file__).parents[1] / "clickhouse" / "compression.xml"
FREE_BYTES_MIN = 64 << 20
"""The engine does not start with less free disk: it would stop in the middle of a merge."""
UNSAFE_IN_PATH = "?&"
"""Characters that chDB reads as its own in the path of a data directory."""

# chDB's defaults that a server does not share, and the user functions that must not look into the
# process.
_SERVER_DEFAULTS = {"implicit_select": "0", "allow_introspection_functions": "0"}
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def quoted(text: str) -> str:
    """Return a SQL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@dataclass(frozen=True)
class Request:
    """One statement and what it runs with.

    Attributes:
        query_id: Name of the query: it can be stopped by it.
        parameters: Values for ``{name:Type}``, as text in ClickHouse's escaped form.
        default_format: Format of the result when the statement names none.
        get: Whether the request came by GET, which a server runs read-only.
    """

    user: User
    query_id: str
    statement: bytes = b""
    database: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    default_format: str = "TabSeparated"
    get: bool = False


@dataclass(frozen=True)
class Result:
    """A finished query: its bytes and what it read or wrote."""

    body: bytes
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    elapsed_ns: int = 0


class Stream:
    """A SELECT whose result comes in pieces, each a whole number of rows."""

    def __init__(self, engine: "Engine", request: Request) -> None:
        self._engine = engine
        self._request = request
        self._lock = threading.Lock()
        self._handle: Any = None
        self._result: Any = None
        self._ended = False

    def fetch(self) -> bytes | None:
        """Return the next piece, or ``None`` at the end. The first call starts the query.

        Raises:
            EngineError: If the query fails or the user may not run it.
        """
        with self._lock:
            if self._ended:
                return None
            try:
                if self._handle is None:
                    self._start()
                piece = self._handle._conn.streaming_fetch_result(self._result)
            except RuntimeError as error:
                raise self._engine.failure(self._request, error) from None
            self._ended = piece is None or piece.size() == 0
            return None if self._ended else _bytes_of(piece)

    def close(self) -> None:
        """Stop the query and free its handle; waits for a running :meth:`fetch`."""
        with self._lock:
            self._ended = True
            if self._handle is None:
                return
            if self._result is not None:
                with suppress(RuntimeError):  # It has ended by itself.
                    self._handle._conn.streaming_cancel_query(self._result)
            self._handle.close()
            self._handle = None

    def _start(self) -> None:
        request = self._request
        self._handle = self._engine.handle(request)
        self._result = self._handle._conn.send_query(
            request.statement, request.default_format, params=dict(request.parameters)
        )


class Engine:
    """The engine of ``directory``; the only one in this process, and on the directory."""

    def __init__(self, directory: Path) -> None:
        """Open the engine on ``directory / "clickhouse"``.

        Raises:
            FatalError: If the directory cannot be used, is in use, or the disk is full.
        """
        self._folder = directory / DATA_FOLDER
        self._lock = _own(self._folder)
        try:
            self._address = f"{self._folder}?config-file={_write_config(self._folder)}"
            _replace_file_function()
            self._root = chdb.connect(self._address)
            row = self._root.query("SELECT version(), timezone(), hostName()", "TabSeparated")
            self.version, self.timezone, self.host = row.bytes().decode().strip().split("\t")
            types = self._root.query("SELECT name, content_type FROM system.formats", "TSV")
        except (OSError, RuntimeError) as error:
            self._lock.close()
            raise FatalError(
                f"clickhouse cannot open {self._folder}: {_one_line(str(error))}"
            ) from None
        pairs = (line.split("\t") for line in types.bytes().decode().splitlines())
        self.content_types = {name: content_type for name, content_type in pairs if content_type}

    def close(self) -> None:
        """Close the engine and give the directory free. No query may be running."""
        self._root.close()
        self._lock.close()

    def query(self, request: Request) -> Result:
        """Run a statement to its end.

        Raises:
            EngineError: If it fails or the user may not run it.
        """
        return self._run(request, request.statement)

    def insert(self, request: Request, head: InsertHead, data: Spool) -> Result:
        """Insert ``data`` as one query.

        Raises:
            EngineError: If it fails or the user may not run it.
        """
        data.rewind()
        infile = f" FROM INFILE {quoted(data.path)} ".encode()
        parts = (head.target, infile, head.settings, b" FORMAT ", head.format)
        return self._run(request, b"".join(parts))

    def reads_only(self, statement: bytes) -> bool:
        """Return whether the engine's parser calls ``statement`` one that only reads."""
        return self._kind(statement)[0] == "READ_ONLY"

    def stop(self, query_id: str) -> None:
        """Stop a running query; nothing happens if there is none of that name."""
        handle = chdb.connect(self._address)
        try:
            handle.query(f"KILL QUERY WHERE Settings['log_comment'] = {quoted(query_id)} ASYNC")
        finally:
            handle.close()

    def _run(self, request: Request, statement: bytes) -> Result:
        handle = self.handle(request)
        try:
            result = handle.query(
                statement, request.default_format, params=dict(request.parameters)
            )
            return Result(
                body=_bytes_of(result),
                read_rows=result.storage_rows_read(),
                read_bytes=result.storage_bytes_read(),
                written_rows=result.rows_written(),
                written_bytes=result.bytes_written(),
                result_rows=result.rows_read(),
                elapsed_ns=int(result.elapsed() * 1e9),
            )
        except RuntimeError as error:
            raise self.failure(request, error) from None
        finally:
            handle.close()

    def handle(self, request: Request) -> Any:
        """Return a handle that can run one request of its user, its statement checked.

        Raises:
            EngineError: If the user may not run it or a setting is wrong.
        """
        self._check(request)
        handle = chdb.connect(self._address)
        try:
            if request.database:
                handle.query(f"USE {_identifier(request.database)}")
            handle.query("; ".join(_preparation(request)))
        except RuntimeError as error:
            handle.close()
            raise self.failure(request, error) from None
        return handle

    def _check(self, request: Request) -> None:
        kind, count = self._kind(request.statement)
        if kind == "UNKNOWN":
            # Not run: what precedes the broken part would be.
            raise self._syntax_error(request.statement)
        if count > 1:
            raise refusal(SYNTAX_ERROR, "Syntax error (Multi-statements are not allowed)")
        if kind == "CONTROL" and request.user.read_only:
            raise refusal(READONLY, f"{request.user.name}: Cannot execute query in readonly mode")
        if kind == "CONTROL" and writes_outfile(request.statement):
            raise refusal(INTO_OUTFILE_NOT_ALLOWED, "INTO OUTFILE is not allowed over HTTP")

    def _kind(self, statement: bytes) -> tuple[str, int]:
        try:
            found = self._root._conn.classify_query(statement)
        except RuntimeError:
            return "UNKNOWN", 0
        return found["query_class"].name, found["statement_count"]

    def _syntax_error(self, statement: bytes) -> EngineError:
        """Return what the engine's parser says of a statement, without running any of it."""
        text = _escaped(statement.decode(errors="replace"))
        handle = chdb.connect(self._address)
        try:
            handle.query("SELECT formatQuery({q:String})", params={"q": text})
        except RuntimeError as error:
            found = from_engine(str(error))
            return EngineError(found.code, re.sub(r": In scope SELECT .*(?= \()", "", found.text))
        finally:
            handle.close()
        return refusal(SYNTAX_ERROR, "Syntax error")

    def failure(self, request: Request, error: Exception) -> EngineError:
        """Return what ``request``'s user is told of an exception of chDB."""
        found = from_engine(str(error))
        if request.user.read_only and found.code == ACCESS_DENIED:
            # One code for all that a reader may not do, whichever of the engine's checks says so.
            text = found.text.removeprefix(f"Code: {ACCESS_DENIED}. DB::Exception: ")
            text = text.removesuffix(" (ACCESS_DENIED)").removesuffix(".")
            return refusal(READONLY, f"Cannot execute query in readonly mode: {text}")
        return found


def _preparation(request: Request) -> list[str]:
    """Return the statements that make a fresh handle the user's, for one request."""
    user = request.user
    # Last, so that no request can name itself otherwise: a query is stopped by it.
    name = {"log_comment": request.query_id}
    if user.read_only:
        before, after = reader_settings(request.settings)
        lines = [f"SET ROLE {user.role}", _set({**_SERVER_DEFAULTS, **before, **name})]
        lines.append("SET readonly = 1")
        return [*lines, _set(after)] if after else lines
    settings = {**_SERVER_DEFAULTS, **request.settings, **name}
    if request.get:
        settings.setdefault("readonly", "2")
    return [f"SET ROLE {user.role}", _set(settings)]


def _set(settings: Mapping[str, str]) -> str:
    for name in settings:
        if not _SETTING_NAME.fullmatch(name):
            raise refusal(UNKNOWN_SETTING, f"Unknown setting {name[:100]!r}")
    return "SET " + ", ".join(f"{name} = {quoted(value)}" for name, value in settings.items())


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _escaped(text: str) -> str:
    """Return a string parameter in ClickHouse's escaped form."""
    for plain, escape in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\0", "\\0")):
        text = text.replace(plain, escape)
    return text


def _bytes_of(result: Any) -> bytes:
    """Return a copy of a result's bytes: chDB's view of them dies with the result."""
    return bytes(result.bytes()) if result.size() else b""


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _own(folder: Path) -> IO[bytes]:
    """Create the folder if needed and return its lock, held until it is closed.

    Raises:
        FatalError: If the folder cannot be written, is in use, or the disk is full.
    """
    if any(character in str(folder) for character in UNSAFE_IN_PATH):
        raise ConfigurationError(f"directory {folder} has a ? or & in its name: choose another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(folder).free
        lock = (folder / LOCK_FILE).open("ab")
    except OSError as error:
        raise FatalError(
            f"directory {folder} cannot be used: {(error.strerror or str(error)).lower()};"
            " choose another with --data-dir"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if free_bytes < FREE_BYTES_MIN:
            raise FatalError(
                f"disk full: {free_bytes >> 20} MiB free under {folder},"
                f" clickhouse needs {FREE_BYTES_MIN >> 20}: free some space"
            )
        (folder / LOCK_FILE).write_text(f"{os.getpid()}\n")
    except OSError as error:
        lock.close()
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise FatalError(f"directory {folder}: {(error.strerror or '').lower()}") from None
        owner = _owner(folder)
        raise FatalError(
            f"directory {folder} is in use by another clickhouse{owner}:"
            " stop it or choose another --data-dir"
        ) from None
    except FatalError:
        lock.close()
        raise
    return lock


def _owner(folder: Path) -> str:
    with suppress(OSError, ValueError):
        return f" (pid {int((folder / LOCK_FILE).read_text())})"
    return ""


def _write_config(folder: Path) -> Path:
    """Write the engine's configuration next to its data and return its path."""
    config, users = folder / "server-config.xml", folder / "server-users.xml"
    users.write_text(USERS_XML)
    # In one file: an embedded engine reads no config.d.
    tree = ElementTree.parse(COMPRESSION_XML)
    ElementTree.SubElement(tree.getroot(), "users_config").text = str(users)
    tree.write(config)
    return config


def _replace_file_function() -> None:
    """Take the scalar function ``file()`` away from everybody.

    In an embedded engine it reads any file of the machine, no grant is asked, and it can be reached
    by APPLY or a column's ALIAS. The engine resolves a registered function of that name first; one
    without arguments cannot be called with a path (code 42).
    """
    chdb._chdb.create_function("file", lambda: "", [], "String")
