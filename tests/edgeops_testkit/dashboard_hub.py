"""A hub whose api role, and so its dashboard, runs as a process of its own, while the test puts into its
database what devices and operators would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from cloud_hub.control import rollouts
from cloud_hub.control.alert_store import raise_alert
from cloud_hub.store.database import writing
from edgeops.clock import now_ms
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.hub_core import open_hub
from edgeops_testkit.hub_fleet import FleetHub, images
from edgeops_testkit.system import Daemon, get_json
from edgeops_testkit.waiting import wait_until
from fleet.cohorts import Selector
from fleet.rollout_types import Spec

LONG = "device-with-a-name-that-is-as-long-as-any-name-may-ever-get-64ch"
assert len(LONG) == 64
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@dataclass
class DashboardHub:
    """The hub: `url` is the operators' listener, `fleet` what fills the database, `log` what the
    api role says."""

    url: str
    fleet: FleetHub
    log: Path
    rollout_id: str = ""

    @property
    def token(self) -> str:
        """The operator's token."""
        return self.fleet.services.operator_token

    def execute(self, statement: str, **values: object) -> None:
        """Runs SQL on the hub's database."""
        with writing(self.fleet.services.engine) as connection:
            connection.execute(text(statement), values)

    @contextmanager
    def broken(self, table: str) -> Iterator[None]:
        """While it lasts a table is not there, as in a database that an operator restored half."""
        self.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
        try:
            yield
        finally:
            self.execute(f"ALTER TABLE {table}_away RENAME TO {table}")

    def fill(self, root: Path) -> None:
        """Five devices in different states, a rollout that is a canary now (d2 and d3 take no part)."""
        fleet = self.fleet
        for version in ("1.0.0", "1.1.0"):
            fleet.publish(make_bundle(root / "built", version=version, key=root / "builder.key"))
        for name, site in (("d0", "north"), ("d1", "north"), ("d2", "south"), ("d3", "south")):
            fleet.enroll(name, site)
        fleet.enroll(LONG, "s" * 64)
        self._roll_out("1.0.0", strategy="all-at-once")
        for name in ("d0", "d1", "d2", "d3", LONG):
            fleet.report(name, fleet.bundles["1.0.0"], requests=5)
            drawn = images(300, seed=3, shifted=name == "d3")
            fleet.window(name, fleet.bundles["1.0.0"], requests=300, images=drawn)
        fleet.tick()
        fleet.look_again_and_again(1.0)
        self.rollout_id = self._roll_out("1.1.0", canary_count=1, cohort=Selector(devices=("d0", "d1", LONG)))
        for name in self.canaries():
            fleet.report(name, fleet.bundles["1.1.0"], requests=5)
            fleet.window(name, fleet.bundles["1.1.0"], requests=40, wrong=1)
        fleet.tick()
        fleet.report("d3", fleet.bundles["1.0.0"], requests=5, rejected=True)
        fleet.connect("d2", online=False)

    def canaries(self) -> list[str]:
        """The devices of the running rollout that were chosen as canaries."""
        found: list[str] = self.rollout()["canaries"]
        return found

    def rollout(self) -> dict[str, object]:
        """The running rollout as the API shows it."""
        seen: dict[str, object] = get_json(f"{self.url}/api/v1/rollouts/{self.rollout_id}", token=self.token)
        return seen

    def alert(self, key: str, message: str, severity: str = "critical") -> None:
        """Opens an alert."""
        with writing(self.fleet.services.engine) as connection:
            raise_alert(connection, key=key, rule="test", severity=severity, message=message, now_ms=now_ms())

    def _roll_out(self, version: str, **fields: object) -> str:
        fleet = self.fleet
        spec = Spec(candidate=fleet.bundles[version], **fields)  # type: ignore[arg-type]
        with writing(fleet.services.engine) as connection:
            stored = rollouts.create(connection, spec, "operator", fleet.now_ms)
            self.rollout_id = stored.rollout.id
            rollouts.approve(
                connection, fleet.services.desired_key, stored.rollout.id, "operator", fleet.now_ms
            )
        fleet.tick()
        return stored.rollout.id


@contextmanager
def dashboard_hub(root: Path) -> Iterator[DashboardHub]:
    """A prepared hub below `root`; its builder's key is `root/builder.key`."""
    with open_hub(root) as services:
        settings = services.settings
        env = {"EDGEOPS_HUB_STATE_DIR": str(settings.state_dir), "EDGEOPS_HUB_DEVICE_HOST": "127.0.0.1"}
        env |= {f"EDGEOPS_HUB_{role}_PORT": str(getattr(settings, f"{role.lower()}_port")) for role in
                ("API", "DEVICE", "GATEWAY", "MQTT")}  # fmt: skip
        daemon = Daemon(("hub", "serve", "--role", "api"), root, env, root / "api.log")
        daemon.start()
        try:
            hub = DashboardHub(
                f"http://127.0.0.1:{settings.api_port}", FleetHub(services, now_ms=now_ms()), daemon.log
            )
            wait_until(lambda: _answers(hub.url, daemon), 60, "the api role to answer")
            yield hub
        finally:
            daemon.stop()


def _answers(url: str, daemon: Daemon) -> bool:
    assert daemon.alive(), daemon.tail()
    try:
        return bool(get_json(f"{url}/readyz", timeout_s=2))
    except OSError:
        return False
