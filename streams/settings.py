"""Every setting of tokentide: one frozen object, read once from ``TOKENTIDE_*``."""

import difflib
import os
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.errors import ConfigurationError

PREFIX = "TOKENTIDE_"


class Settings(BaseSettings):
    """Settings with their defaults: those of one machine.

    The docstring under each field is its help text in ``tokentide settings``.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, use_attribute_docstrings=True, extra="forbid"
    )

    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    """Kafka brokers, host:port, separated by commas."""
    consumer_group: str = Field(default="tokentide-store-usage", min_length=1)
    """Consumer group of the workers. A new name reads the usage topic from its beginning, and needs a database of its own."""
    worker_name: str = ""
    """Name of this worker, its own in the consumer group. After a crash a worker of the same name has its partitions back at once; without a name they wait for the session to end."""
    session_timeout_seconds: float = Field(default=10.0, ge=6, le=300)
    """Silence after which a worker counts as dead and its partitions go to others."""
    usage_partitions: int = Field(default=4, ge=1, le=1000)
    """Partitions of the usage topic when `tokentide topics` creates it; also the most workers that can share it."""
    replication_factor: int = Field(default=1, ge=1, le=9)
    """Replicas of each topic that `tokentide topics` creates. More survive the loss of a broker."""

    clickhouse_host: str = "127.0.0.1"
    """Host of ClickHouse's HTTP interface."""
    clickhouse_port: int = Field(default=8123, ge=1, le=65535)
    """Port of ClickHouse's HTTP interface."""
    clickhouse_secure: bool = False
    """Use HTTPS to ClickHouse."""
    clickhouse_database: str = Field(default="tokentide", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Database of the tables and views."""
    clickhouse_user: str = "writer"
    """User of the workers and of `tokentide migrate`."""
    clickhouse_password: SecretStr = SecretStr("writer-local")
    """Password of the writer."""
    clickhouse_reader_user: str = "reader"
    """User of `tokentide query`, `shares` and `status`: queries only."""
    clickhouse_reader_password: SecretStr = SecretStr("")
    """Password of the reader."""
    dashboard_host: str = "127.0.0.1"
    """Address that `tokentide dashboard` listens on. It knows no users: whoever reaches it may read."""
    dashboard_port: int = Field(default=8050, ge=1, le=65535)
    """Port of the dashboard."""
    clickhouse_connect_timeout_seconds: float = Field(default=5.0, gt=0)
    """Longest wait for a connection to ClickHouse."""
    clickhouse_request_timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest wait for ClickHouse's answer to one request. A hung insert is repeated after it."""

    batch_rows_max: int = Field(default=150_000, ge=1, le=1_000_000)
    """Rows in one insert. Larger inserts cost less per row and take more memory."""
    batch_bytes_max: int = Field(default=96 << 20, ge=1 << 16, le=1 << 30)
    """Bytes of one batch as it is fetched, JSON and compressed, for events that are large. Bounds memory as the rows do."""
    held_bytes_max: int = Field(default=320 << 20, ge=1 << 20, le=64 << 30)
    """Bytes that a worker holds at once, of all its partitions: of what it has fetched, and of the rows made of it. Bounds memory however many it has. Less makes batches smaller, hence dearer."""
    batch_wait_seconds: float = Field(default=1.0, gt=0, le=60)
    """Longest wait for a full batch: the floor of freshness at low traffic."""
    fetch_bytes_max: int = Field(default=1 << 20, ge=1 << 16, le=64 << 20)
    """Compressed bytes of one fetch from one partition. Bounds what a stopped partition keeps in memory."""
    retry_wait_seconds_max: float = Field(default=15.0, gt=0)
    """Longest pause between two tries while ClickHouse is away. Pauses double from 0.25 s up to it."""

    duplicate_window_seconds: int = Field(default=86_400, ge=0, le=3650 * 86_400)
    """An event that arrives again within this time of its event time is dropped and counted. 0 drops nothing."""
    seen_ids_max: int = Field(default=2_000_000, ge=10_000, le=100_000_000)
    """Event ids kept in memory per partition, 12 bytes each; older ones are asked of ClickHouse."""
    bad_records_ratio_max: float = Field(default=0.5, gt=0, le=1)
    """The worker stops when more of the last 10,000 records of a partition are refused. 1 lets everything pass to the dead letters."""

    allowed_lateness_seconds: float = Field(default=30.0, ge=0, le=3600)
    """A rolling window is given out when events this much newer than its end have arrived. What comes later revises it."""
    late_grace_seconds: int = Field(default=86_400, ge=0, le=86_400)
    """Events that arrive later than this after their event time revise no rolling window; the tables have them all the same."""
    windows_top: int = Field(default=50, ge=1, le=1000)
    """Values of a dimension with a row of their own in each rolling window; the rest is `other`."""
    revision_wait_seconds: float = Field(default=60.0, gt=0, le=3600)
    """Windows that late events have changed are given out again together, this often."""
    stalled_partition_seconds: float = Field(default=60.0, gt=0, le=86_400)
    """A partition whose worker says nothing for this long no longer holds windows back; they are marked as not complete."""
    tokens_cap: int = Field(default=50_000, ge=1, le=10_000_000)
    """Tokens of one request that count for the detection of changes: about the 95th percentile."""

    reconcile_interval_seconds: float = Field(default=300.0, ge=0)
    """Pause between two checks of the books by the worker of the first partition. 0 is off; `tokentide reconcile` checks everything at any time."""

    alert_dimensions: str = "vendor,model,vendor_region,origin,provider"
    """Dimensions whose shares are watched for sudden changes, separated by commas. Each costs a false alarm per series and four weeks."""
    alert_history_days: int = Field(default=28, ge=1, le=40)
    """Days of five-minute windows that a detector is rebuilt from when it starts. Seasons need four weeks; less starts sooner."""
    alert_parameters_file: Path | None = None
    """Parameters of the detector, a JSON file that `tokentide alerts calibrate` writes. Without it the built-in ones hold."""
    alert_rules_file: Path | None = None
    """Rules by hand, a TOML file; read again when it changes."""
    alerts_webhook_url: SecretStr = SecretStr("")
    """Address that every alert is posted to. Empty is none; it may hold a key, and is never shown."""
    alerts_webhook_secret: SecretStr = SecretStr("")
    """Signs what is posted to the webhook, as Standard Webhooks do: any text, or whsec_ and base64. Empty leaves it unsigned."""
    alertmanager_urls: str = ""
    """Every Alertmanager, such as http://10.0.0.1:9093, separated by commas. Each is told by itself."""
    alerts_resend_seconds: float = Field(default=60.0, ge=1, le=300)
    """Pause between two reports of firing alerts to Alertmanagers. They drop an alert that they have not heard of for ten minutes."""
    alerts_max_age_seconds: float = Field(default=86_400.0, ge=60)
    """An alert that could not be delivered for so long is delivered no more."""

    worker_host: str = "127.0.0.1"
    """Address on which the worker serves /livez, /readyz and /metrics."""
    worker_port: int = Field(default=6066, ge=1, le=65535)
    """Port on which the worker serves /livez, /readyz and /metrics."""
    stall_seconds: float = Field(default=30.0, gt=0)
    """/readyz turns red when there is lag and nothing has landed for this long."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    """Lowest level of log lines: debug, info, warning or error."""
    data_dir: Path = Path(".tokentide")
    """Directory of the local stack: broker and engine data, logs, stack.json."""

    @property
    def alertmanagers(self) -> list[str]:
        """Addresses of the Alertmanagers."""
        return [url for url in self.alertmanager_urls.replace(" ", "").split(",") if url]

    @property
    def watched_dimensions(self) -> frozenset[str]:
        """Dimensions whose shares are watched."""
        return frozenset(name for name in self.alert_dimensions.replace(" ", "").split(",") if name)

    @classmethod
    def load(cls) -> Self:
        """Read the environment.

        Raises:
            ConfigurationError: For an unknown ``TOKENTIDE_`` name or a value out of range, in one
                line that names the setting.
        """
        known = {PREFIX + name.upper() for name in cls.model_fields}
        for name in os.environ:
            if name.startswith(PREFIX) and name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]}?" if close else "see: tokentide settings"
                raise ConfigurationError(f"unknown setting {name}: {hint}")
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = PREFIX + str(first["loc"][0]).upper()
            raise ConfigurationError(f"setting {name}: {first['msg'].lower()}") from None
