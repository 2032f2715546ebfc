"""Every limit and address of the hub, in one place, with units."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from edgeops.paths import home
from edgeops.settings import Settings


def _state_dir() -> Path:
    return home().state / "hub"


class HubSettings(Settings):
    """Environment: `EDGEOPS_HUB_*`. File: `hub.toml` in the configuration folder."""

    model_config = SettingsConfigDict(env_prefix="EDGEOPS_HUB_", extra="forbid", frozen=True)
    file_name: ClassVar[str] = "hub.toml"

    state_dir: Path = Field(default_factory=_state_dir)
    # None: SQLite in `state_dir`. Otherwise an SQLAlchemy URL, such as postgresql+psycopg://…
    database_url: str | None = None
    # Folder of `*.pub` files (PEM): the builders whose bundles are accepted. None: `state_dir`/builders.
    builders_dir: Path | None = None

    # Operators: API, dashboard and metrics. Plain HTTP, so on loopback only unless TLS stands before it.
    api_host: str = "127.0.0.1"
    api_port: int = Field(8080, ge=1, le=65535)
    # Devices: enrolment, renewal and downloads, by mutual TLS.
    device_host: str = "0.0.0.0"
    device_port: int = Field(8443, ge=1, le=65535)
    # Fallback: Open Inference Protocol v2, by mutual TLS or bearer token.
    gateway_host: str = "0.0.0.0"
    gateway_port: int = Field(8444, ge=1, le=65535)
    # The embedded broker (MQTT 5, mutual TLS).
    mqtt_host: str = "0.0.0.0"
    mqtt_port: int = Field(8883, ge=1, le=65535)
    # The name or address by which devices reach this hub; it goes into certificates and enrolment.
    public_host: str = Field("127.0.0.1", max_length=253, pattern=r"^[A-Za-z0-9._:-]+$")

    certificate_days: int = Field(90, ge=1, le=825)
    token_ttl_s: int = Field(3600, ge=10)
    enroll_rate_per_minute: int = Field(60, ge=1)
    blob_size_bytes: int = Field(4 << 30, ge=1 << 20)
    request_size_bytes: int = Field(16 << 20, ge=1024)
    # The hub does not start on a disk with less than this free.
    free_disk_bytes: int = Field(64 << 20, ge=0)

    ingest_batch_size: int = Field(500, ge=1)
    ingest_batch_delay_s: float = Field(0.02, ge=0)

    control_interval_s: float = Field(2.0, gt=0)
    monitor_interval_s: float = Field(10.0, gt=0)
    # Drift is judged on the windows of this last span.
    drift_span_s: float = Field(600.0, gt=0)
    # The share of false drift alarms (over features and sites together) that is accepted.
    drift_false_discovery_rate: float = Field(0.01, gt=0, lt=1)
    # Distances below these are no drift, however significant: with enough requests everything is.
    drift_least_ks: float = Field(0.1, ge=0, lt=1)
    drift_least_psi: float = Field(0.1, ge=0)
    # A device that is offline for longer than this raises an alert.
    offline_alert_s: float = Field(120.0, gt=0)

    fallback_threads: int = Field(1, ge=1)
    # Private memory of each engine process.
    fallback_memory_bytes: int = Field(2 << 30, ge=64 << 20)
    # Engine processes kept loaded; the one used longest ago makes room.
    fallback_engines: int = Field(4, ge=1)
    # Requests that may wait for one engine; more are answered 503 at once.
    fallback_queue: int = Field(256, ge=1)

    @property
    def builders_path(self) -> Path:
        """The folder of trusted builders' keys."""
        return self.builders_dir or self.state_dir / "builders"

    @property
    def url(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.state_dir / 'hub.db'}"
