"""A rollout and the devices it moves, on a clock that the test moves."""

from __future__ import annotations

import msgspec

from edgeops.messages import BundleRef
from fleet.evidence import Counts, Sample
from fleet.progress import Report
from fleet.rollout import step
from fleet.rollout_types import (
    Approve,
    Assign,
    Effect,
    Event,
    Look,
    Plan,
    PlannedDevice,
    Rollout,
    Spec,
    Start,
    State,
    Strategy,
)

OLD = BundleRef(name="digits", version="1.0.0", digest="0" * 64)
NEW = BundleRef(name="digits", version="1.1.0", digest="1" * 64)
NAMES = ("d1", "d2", "d3", "d4", "d5")
CANARIES = ("d1", "d2")


class Fleet:
    """Devices as a rollout sees them, on a clock that the test moves: what each should and does run."""

    def __init__(self, strategy: Strategy = "canary", **spec: object) -> None:
        fields = {"candidate": NEW, "strategy": strategy, "alias": "prod", **spec}
        canaries = CANARIES if strategy == "canary" else ()
        baseline = OLD if strategy == "canary" else None
        self.plan = Plan(
            devices=tuple(PlannedDevice(name=name, site="here", previous=OLD) for name in NAMES),
            canaries=canaries,
            baseline=baseline,
        )
        self.rollout = Rollout(id="r-1", spec=msgspec.convert(fields, Spec), state=State(plan=self.plan))
        self.now_ms = 1_000_000
        self.desired: dict[str, BundleRef | None] = dict.fromkeys(NAMES, OLD)
        self.generation = dict.fromkeys(NAMES, 1)
        self.running: dict[str, str | None] = dict.fromkeys(NAMES, OLD.digest)
        self.requests = dict.fromkeys(NAMES, 100)
        self.rejected = dict.fromkeys(NAMES, 0)
        self.online = dict.fromkeys(NAMES, True)
        self.revoked: set[str] = set()
        self.effects: list[Effect] = []
        self.candidate_requests = 0
        self.baseline_requests = 0

    @property
    def state(self) -> State:
        return self.rollout.state

    @property
    def assigned(self) -> set[str]:
        """The devices that were ever assigned anything."""
        return {effect.device for effect in self.effects if isinstance(effect, Assign)}

    def send(self, event: Event) -> None:
        """One step; assignments take effect."""
        self.rollout, effects = step(self.rollout, event, self.now_ms)
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Assign) and self.desired[effect.device] != effect.bundle:
                self.desired[effect.device] = effect.bundle
                self.generation[effect.device] += 1

    def begin(self) -> None:
        self.send(Approve("ann", self.plan))
        self.send(Start(cursor=0))

    def look(self, *samples: Sample) -> None:
        reports = tuple(
            Report(
                device=name,
                online=self.online[name],
                revoked=name in self.revoked,
                generation=self.generation[name],
                desired_digest=bundle.digest if (bundle := self.desired[name]) is not None else None,
                rejected_generation=self.rejected[name],
                running_digest=self.running[name],
                running_requests=self.requests[name],
                phase="idle",
                error="the self-test failed",
            )
            for name in NAMES
        )
        self.send(Look(reports, samples, cursor=self.state.cursor + 1))

    def update(self, name: str, *, served: bool = True) -> None:
        """The device loads what it should run."""
        bundle = self.desired[name]
        self.running[name] = bundle.digest if bundle is not None else None
        self.requests[name] = 5 if served else 0

    def traffic(self, name: str, *, requests: int = 200, wrong: int = 0, errors: int = 0) -> Sample:
        """A window of one device, with the arm that its loaded bundle puts it in."""
        arm = "canary" if self.running[name] == NEW.digest else "baseline"
        if arm == "canary":
            self.candidate_requests += requests
        else:
            self.baseline_requests += requests
        counts = Counts(requests=requests, errors=errors, labels=requests, wrong=wrong)
        return Sample("canary" if arm == "canary" else "baseline", name, counts)

    def good_traffic(self) -> None:
        """Twenty windows of every device, one request of fifty wrong on both arms."""
        self.look(*(self.traffic(name, requests=50, wrong=1) for _ in range(20) for name in NAMES))
