"""Every limit and address of the device agent, in one place, with units."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from edgeops.paths import home
from edgeops.settings import Settings


def _state_dir() -> Path:
    return home().state / "agent"


class AgentSettings(Settings):
    """Environment: `EDGEOPS_AGENT_*`. File: `agent.toml` in the configuration folder."""

    model_config = SettingsConfigDict(env_prefix="EDGEOPS_AGENT_", extra="forbid", frozen=True)
    file_name: ClassVar[str] = "agent.toml"

    state_dir: Path = Field(default_factory=_state_dir)

    # The local API (Open Inference Protocol v2), answered by the serving process.
    listen_host: str = "127.0.0.1"
    listen_port: int = Field(8500, ge=1, le=65535)
    # Status, health and Prometheus metrics, answered by the control process.
    admin_host: str = "127.0.0.1"
    admin_port: int = Field(8501, ge=1, le=65535)

    # These override what enrolment wrote, for a proxy between the device and the hub.
    hub_url: str | None = None
    mqtt_host: str | None = None
    mqtt_port: int | None = Field(None, ge=1, le=65535)
    gateway_url: str | None = None

    window_interval_s: float = Field(30.0, ge=0.2, le=3600)
    ring_size_bytes: int = Field(8 << 20, ge=64 << 10, le=1 << 30)
    spool_size_bytes: int = Field(256 << 20, ge=1 << 20)
    request_size_bytes: int = Field(16 << 20, ge=1024)
    serving_memory_bytes: int = Field(2 << 30, ge=64 << 20)
    engine_threads: int = Field(1, ge=1, le=64)

    connect_timeout_s: float = Field(5.0, gt=0)
    # Telemetry on its way: how many messages may wait for the hub's acknowledgement, and for how long
    # before they are sent again.
    ack_in_flight: int = Field(64, ge=1, le=10_000)
    ack_timeout_s: float = Field(10.0, gt=0)
    download_timeout_s: float = Field(60.0, gt=0)
    retry_min_s: float = Field(0.5, gt=0)
    retry_max_s: float = Field(60.0, gt=0)
    ready_timeout_s: float = Field(60.0, gt=0)
    drain_timeout_s: float = Field(10.0, gt=0)
    # How long a new version must serve without too many crashes before it is confirmed.
    confirm_after_s: float = Field(10.0, ge=0)
    crash_limit: int = Field(3, ge=1)
    crash_window_s: float = Field(60.0, gt=0)
    fallback_timeout_s: float = Field(2.0, gt=0)
    bundle_size_bytes: int = Field(4 << 30, ge=1 << 20)
