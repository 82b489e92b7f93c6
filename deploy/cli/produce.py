"""``tokentide produce``: publish events from a file.

Delivery: at least once from the file to the topic. Within one run the idempotent producer repeats
nothing; after a failure, sending the file again repeats events under the same ids.
"""

import shutil
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson
from kafka import KafkaProducer
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from deploy.cli.lines import Line, file_argument, read_lines
from deploy.cli.stack import data_dir_option, settings_for
from deploy.cli.validate import Tally, refusal
from deploy.kafka_admin import admin_client
from schemas.errors import ConfigurationError, FatalError
from schemas.topics import USAGE_TOPIC
from schemas.usage_event import record_key

WAITING_RECORDS_MAX = 20_000
"""Records sent and not yet acknowledged: kafka-python's own buffer has no limit."""
WAITING_BYTES_MAX = 32 << 20
DELIVERY_SECONDS_MAX = 20
"""Longest wait for an acknowledgement; then the record counts as failed and sending ends."""
CLOSE_SECONDS_MAX = DELIVERY_SECONDS_MAX + 10
"""Longest wait for the last records, which kafka-python gives up a while after their time."""
FAULTS_SHOWN_MAX = 10

# The fault of one record; any other error is Kafka's, and would meet the next record too.
_RECORD_FAULTS = (MessageSizeTooLargeError, RecordListTooLargeError)


@click.command(short_help="Publish usage events from a file.")
@file_argument
@click.option(
    "--validate",
    "check_first",
    is_flag=True,
    help="Check everything first, and send nothing if any line would be refused.",
)
@click.option("--topic", default=USAGE_TOPIC, show_default=True, help="Topic to publish to.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Of the account at the end.",
)
@data_dir_option
@click.pass_context
def produce(
    context: click.Context,
    file: BinaryIO,
    check_first: bool,
    topic: str,
    output_format: str,
    data_dir: Path | None,
) -> None:
    """Publish JSON lines as they are, valid or not, and report what was acknowledged.

    A line is one record, keyed by its session_hash, else user_hash, else event_id; a line that is
    not JSON has no key. A blank line is no record; a last line without a newline is one. Sending
    the same file again is safe for events that keep their event_id.

    Exit codes: 0 all acknowledged, 1 something was not (or was refused by --validate), 2 wrong
    usage.

    \b
    tokentide produce events.jsonl --validate
    zcat events.jsonl.gz | tokentide produce -
    """
    servers = settings_for(data_dir).kafka_bootstrap_servers
    if check_first:
        file = _seekable(context, file)
        _refuse_invalid(context, file)
    _check_topic(servers, topic)
    started = time.monotonic()
    sending = Sending(servers, topic)
    try:
        sending.send_all(file)
    except KeyboardInterrupt:
        sending.fault = "interrupted"
    finally:
        sending.close()
    _report(sending, time.monotonic() - started, output_format)
    context.exit(0 if sending.is_complete else 1)


def _seekable(context: click.Context, file: BinaryIO) -> BinaryIO:
    """Return the input, or a copy of it on disk if it can be read only once."""
    if file.seekable():
        return file
    try:
        copy = context.with_resource(tempfile.TemporaryFile())  # noqa: SIM115  closed by click
        shutil.copyfileobj(file, copy)
        copy.seek(0)
    except OSError as error:
        raise FatalError(f"cannot keep a copy of the input: {error.strerror}") from error
    return copy


def _refuse_invalid(context: click.Context, file: BinaryIO) -> None:
    """End the command if any line would be refused; else leave the file where it was."""
    start = file.tell()
    tally = Tally()
    for line in read_lines(file, "checking"):
        error = tally.check(line)
        if error is not None:
            click.echo(refusal(line, error), err=True)
    if tally.refused:
        click.echo(f"nothing sent: {tally.summary()}", err=True)
        context.exit(1)
    file.seek(start)


def _check_topic(servers: str, topic: str) -> None:
    """Fail early, and in one line, when Kafka or the topic is not there."""
    with admin_client(servers) as admin:
        (described,) = admin.describe_topics([topic])
    if described["error_code"]:
        raise ConfigurationError(f"no topic {topic} at {servers}: create it with tokentide topics")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A record on its way."""

    line: Line
    future: Any


class Sending:
    """Lines on their way to Kafka, and the account of them.

    Attributes:
        acknowledged: Records that all in-sync replicas have.
        failed: Records sent, or too large to send, that were not acknowledged. Those that timed
            out may have arrived all the same.
        first_line_not_sent: Where sending ended before the end of the file, else None.
        fault: Why it ended, ``""`` if it did not.
    """

    def __init__(self, servers: str, topic: str) -> None:
        self._topic = topic
        self._producer = KafkaProducer(
            bootstrap_servers=servers.split(","),
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            linger_ms=20,
            batch_size=256 << 10,
            # Above the broker's limit, which counts compressed bytes: the broker decides.
            max_request_size=4 << 20,
            max_block_ms=DELIVERY_SECONDS_MAX * 1000,
            request_timeout_ms=DELIVERY_SECONDS_MAX * 500,
            delivery_timeout_ms=DELIVERY_SECONDS_MAX * 1000,
        )
        self._waiting: deque[Waiting] = deque()
        self._waiting_bytes = 0
        self.acknowledged = 0
        self.failed = 0
        self.first_line_not_sent: int | None = None
        self.fault = ""

    @property
    def is_complete(self) -> bool:
        return not self.failed and not self.fault

    def send_all(self, file: BinaryIO) -> None:
        """Send every line; ends early at the first error that is not the fault of one record."""
        for line in read_lines(file, "publishing"):
            if self.fault:
                self.first_line_not_sent = line.number
                break
            self._send(line)
            self._wait_for_oldest()

    def close(self) -> None:
        """Wait for what is on its way, and count it."""
        try:
            self._producer.close(timeout=CLOSE_SECONDS_MAX)
        except KafkaTimeoutError as error:
            self.fault = self.fault or _short(error)
            # kafka-python 3.0.12 stays open, and says so at exit, if not all was acknowledged.
            self._producer._sender.force_close()
            self._producer.close(timeout=CLOSE_SECONDS_MAX)
        while self._waiting:
            self._settle_oldest(timeout_seconds=0)  # Done, or never will be.

    def _send(self, line: Line) -> None:
        if line.is_cut:
            self._fail(line, MessageSizeTooLargeError())
            return
        try:
            future = self._producer.send(self._topic, line.value, key=_key(line.value))
        except KafkaError as error:
            self._fail(line, error)
            return
        self._waiting.append(Waiting(line, future))
        self._waiting_bytes += len(line.value)

    def _wait_for_oldest(self) -> None:
        """Keep what is on its way within its limits."""
        while not self.fault and (
            len(self._waiting) > WAITING_RECORDS_MAX or self._waiting_bytes > WAITING_BYTES_MAX
        ):
            self._settle_oldest(CLOSE_SECONDS_MAX)

    def _settle_oldest(self, timeout_seconds: float) -> None:
        """Count the oldest record that is on its way."""
        sent = self._waiting[0]
        try:
            sent.future.get(timeout=timeout_seconds)
        except KafkaError as error:
            self._fail(sent.line, error)
        else:
            self.acknowledged += 1
        self._waiting.popleft()
        self._waiting_bytes -= len(sent.line.value)

    def _fail(self, line: Line, error: KafkaError) -> None:
        self.failed += 1
        if not isinstance(error, _RECORD_FAULTS):
            self.fault = self.fault or _short(error)
        if self.failed <= FAULTS_SHOWN_MAX:
            click.echo(f"line {line.number}: not acknowledged: {_short(error)}", err=True)


def _key(value: bytes) -> bytes | None:
    try:
        members = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return record_key(members) if isinstance(members, dict) else None


def _report(sending: Sending, seconds: float, output_format: str) -> None:
    if output_format == "json":
        account = {
            "acknowledged": sending.acknowledged,
            "failed": sending.failed,
            "first_line_not_sent": sending.first_line_not_sent,
            "fault": sending.fault,
            "seconds": round(seconds, 3),
        }
        click.echo(orjson.dumps(account))
        return
    parts = [f"{sending.acknowledged} acknowledged, {sending.failed} failed, {seconds:.1f} s"]
    if sending.fault:
        parts.append(f"stopped: {sending.fault}")
    if sending.first_line_not_sent is not None:
        parts.append(f"not sent from line {sending.first_line_not_sent} on")
    click.echo("; ".join(parts))


def _short(error: KafkaError) -> str:
    name = type(error).__name__
    text = " ".join(str(error).split())
    return (text if name in text else f"{name}: {text}")[:160]
