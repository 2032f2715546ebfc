"""A device enrolled at a fake hub, and small signed bundles for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from device_agent.layout import Layout
from device_agent.uplink.enroll import enroll
from device_agent.uplink.identity import Identity, load_identity
from edgeops.messages import BundleRef
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.fake_hub import FakeHub
from edgeops_testkit.keys import KeyPair, make_keys

DEVICE = "pump-7"


@dataclass
class Desk:
    """A hub, a builder whom devices trust, and the bundles that were made."""

    root: Path
    hub: FakeHub
    builder: KeyPair

    @classmethod
    def make(cls, root: Path) -> Desk:
        return cls(root, FakeHub(root / "hub"), make_keys(root))

    def enroll(self, folder: str = "device", name: str = DEVICE) -> Identity:
        """Enrols a device with its state in that folder."""
        layout = Layout(self.root / folder)
        enroll(
            layout,
            token_text=self.hub.token(),
            name=name,
            builders=[self.builder.public],
            force=False,
            timeout_s=5,
        )
        return load_identity(layout.identity)

    def bundle(self, version: str, key: Path | None = None) -> BundleRef:
        """A bundle of that version, handed out by the hub."""
        made = make_bundle(
            self.root / "bundles", version=version, key=key or self.builder.private, teacher=False
        )
        return self.hub.add(made)
