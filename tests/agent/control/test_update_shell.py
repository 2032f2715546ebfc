"""The update from a hub to a serving process, as a table: what goes wrong, where, and what happens then.

Download, disk and processes are real; only the hub and the serving process are fakes, since they must fail on
cue. Each row says which phases the saved states went through and what serves at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from device_agent.core.update_types import Phase, UpdateState
from edgeops.messages import BundleRef
from edgeops_testkit.agent_shell import PowerCut, Shell, cut
from edgeops_testkit.enrolled import Desk
from edgeops_testkit.fake_hub import Cut, FakeHub, Fault, flipped, longer, status
from edgeops_testkit.fake_serving import make_plan
from edgeops_testkit.keys import make_keys

pytestmark = pytest.mark.slow

GOOD = ["downloading", "verifying", "installing", "self_testing", "activating", "confirming", "idle"]
REFUSED_AT_ONCE = ["downloading", "idle"]
AGAIN = ["downloading", "waiting"]
TRIAL_FAILED = [*GOOD[:4], "waiting"]
THREE_TRIALS = [*TRIAL_FAILED * 2, *GOOD[:4], "idle"]
NOT_ACTIVATED = [*GOOD[:5], "waiting", *GOOD]
ROLLED_BACK = [*GOOD[:6], "rolling_back", "idle"]


@dataclass(frozen=True)
class World:
    """What a row's fault may touch."""

    hub: FakeHub
    shell: Shell
    bundle: BundleRef
    staged: Path

    def model(self) -> str:
        """The path of the model's blob at the hub."""
        return next(
            f"/device/v1/blobs/{digest}"
            for digest, path in self.hub.blobs.items()
            if path.name == "model.onnx" and self.bundle.version in str(path)
        )


@dataclass(frozen=True)
class Row:
    """One fault and its chain. `version` is what serves in the end, beside 1.0.0 that served before."""

    name: str
    chain: list[str]
    version: str
    answers: dict[str, list[Fault]] = field(default_factory=dict)
    serving: tuple[str, ...] = ("good",)
    at: Phase | None = None
    do: Callable[[World], object] | None = None
    ready_timeout_s: float = 20


def rot_staged(world: World) -> None:
    model = next(world.staged.rglob("model.onnx"))
    model.write_bytes(model.read_bytes()[:-1] + b"!")


def take_slots_away(world: World) -> None:
    folder = world.shell.layout.slots
    folder.rename(folder.with_name("away"))
    folder.write_text("not a folder")
    world.shell.looks["waiting"] = lambda: (folder.unlink(), folder.with_name("away").rename(folder))


ROWS = [
    Row("all goes well", GOOD, "1.1.0"),
    Row("the hub is down at first", [*AGAIN, *AGAIN, *GOOD], "1.1.0", {"signature": [status(503)] * 2}),
    Row("a blob is not there yet", [*AGAIN, *GOOD], "1.1.0", {"model": [status(404)]}),
    Row("the certificate is refused for a while", [*AGAIN, *GOOD], "1.1.0", {"model": [status(403)]}),
    Row("the download is cut", [*AGAIN, *GOOD], "1.1.0", {"model": [lambda d, _: Cut(d, len(d) // 2)]}),
    Row("a file has other bytes than signed", REFUSED_AT_ONCE, "1.0.0", {"model": [flipped]}),
    Row("a file is longer than signed", REFUSED_AT_ONCE, "1.0.0", {"model": [longer]}),
    Row("the manifest was changed", REFUSED_AT_ONCE, "1.0.0", {"manifest": [flipped]}),
    Row("the signature was changed", REFUSED_AT_ONCE, "1.0.0", {"signature": [flipped]}),
    Row("a staged file rots", [*GOOD[:2], "idle"], "1.0.0", at="verifying", do=rot_staged),
    Row("the disk refuses", [*GOOD[:3], "waiting", *GOOD], "1.1.0", at="installing", do=take_slots_away),
    Row("the self-test fails", [*GOOD[:4], "idle"], "1.0.0", serving=("refuse",)),
    Row("loading fails once", [*TRIAL_FAILED, *GOOD], "1.1.0", serving=("fail", "good")),
    Row("the engine aborts once", [*TRIAL_FAILED, *GOOD], "1.1.0", serving=("die_loading", "good")),
    Row("the engine always aborts", THREE_TRIALS, "1.0.0", serving=("die_loading",)),
    Row("loading hangs", THREE_TRIALS, "1.0.0", serving=("hang_loading",), ready_timeout_s=0.5),
    Row("it dies when told to serve", NOT_ACTIVATED, "1.1.0", serving=("die_activating", "good")),
    Row("it dies once while confirming", GOOD, "1.1.0", serving=("die_serving", "good")),
    Row("it dies for ever while confirming", ROLLED_BACK, "1.0.0", serving=("die_serving",)),
]  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk.make(tmp_path)
    yield made
    made.hub.close()


def settled(state: UpdateState) -> bool:
    return state.phase == "idle" and state.generation == 2 and state.health == "serving"


def shell_with_1_0_0(desk: Desk, plan: tuple[str, ...], ready_timeout_s: float = 20) -> Shell:
    """A device that runs 1.0.0, confirmed."""
    desk.enroll()
    shell = Shell(desk.root / "device", plan, ready_timeout_s)
    shell.run((1, desk.bundle("1.0.0")), until=lambda s: s.phase == "idle" and s.active is not None)
    assert shell.served == "1.0.0"
    shell.chain.clear()
    return shell


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_update(desk: Desk, row: Row) -> None:
    plan = make_plan(desk.root, v1_1_0=list(row.serving))
    shell = shell_with_1_0_0(desk, plan, row.ready_timeout_s)
    bundle = desk.bundle("1.1.0")
    world = World(desk.hub, shell, bundle, shell.slots.staged(bundle.digest))
    paths = {
        "model": world.model(),
        "manifest": f"/device/v1/blobs/{bundle.digest}",
        "signature": f"/device/v1/bundles/{bundle.digest}/signature",
    }
    desk.hub.faults.update({paths[name]: list(faults) for name, faults in row.answers.items()})
    if row.at is not None and row.do is not None:
        do = row.do
        shell.looks[row.at] = lambda: do(world)

    state = shell.run((2, bundle), until=settled)

    assert shell.chain == row.chain
    assert shell.served == row.version
    assert state.active is not None and state.active.target.version == row.version
    assert state.active.confirmed
    assert state.rejected_generation == (2 if row.version == "1.0.0" else 0)
    assert (state.error is not None) == (row.version == "1.0.0" or "die_serving" in row.serving)


@pytest.mark.parametrize("phase", GOOD[:-1])
def test_a_power_cut_at_any_phase_leads_to_the_same_end(desk: Desk, phase: Phase) -> None:
    shell = shell_with_1_0_0(desk, make_plan(desk.root))
    bundle = desk.bundle("1.1.0")
    shell.looks[phase] = cut
    with pytest.raises(PowerCut):
        shell.run((2, bundle), until=settled)
    assert shell.chain[-1] == phase
    state = shell.run(until=settled)
    assert shell.served == "1.1.0"
    assert state.active is not None and state.active.confirmed
    assert {slot.name for slot in shell.layout.slots.iterdir()} == {
        state.active.target.digest,
        state.previous.target.digest if state.previous else "",
    }
    assert not list(shell.layout.staging.iterdir())


def test_a_power_cut_while_rolling_back_ends_at_the_previous_version(desk: Desk) -> None:
    shell = shell_with_1_0_0(desk, make_plan(desk.root, v1_1_0=["die_serving"]))
    shell.looks["rolling_back"] = cut
    with pytest.raises(PowerCut):
        shell.run((2, desk.bundle("1.1.0")), until=settled)
    state = shell.run(until=settled)
    assert shell.served == "1.0.0" and state.rejected_generation == 2


def test_a_failed_first_install_leaves_nothing_serving_and_does_not_block_the_next(desk: Desk) -> None:
    desk.enroll()
    shell = Shell(desk.root / "device", make_plan(desk.root, v1_0_0=["refuse"]))
    state = shell.run((1, desk.bundle("1.0.0")), until=lambda s: s.rejected_generation == 1)
    assert state.active is None and shell.served is None
    assert shell.events == ["update_started", "bundle_refused"]
    shell.run((2, desk.bundle("1.1.0")), until=settled)
    assert shell.served == "1.1.0"


def test_nothing_desired_means_nothing_serves(desk: Desk) -> None:
    shell = shell_with_1_0_0(desk, make_plan(desk.root))
    state = shell.run((2, None), until=lambda s: s.generation == 2)
    assert state.active is None and shell.served is None
    assert not list(shell.layout.slots.iterdir())


def test_a_slot_that_changed_on_the_disk_is_never_served_but_fetched_again(desk: Desk) -> None:
    shell = shell_with_1_0_0(desk, make_plan(desk.root))
    model = next(shell.layout.slots.rglob("model.onnx"))
    good = model.read_bytes()
    model.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    shell.run(until=lambda s: s.phase == "idle" and s.health == "serving")
    assert shell.served == "1.0.0" and "slot_damaged" in shell.events
    assert shell.chain[0] == "downloading"
    assert next(shell.layout.slots.rglob("model.onnx")).read_bytes() == good


def test_a_newer_desired_state_supersedes_one_under_way(desk: Desk) -> None:
    shell = shell_with_1_0_0(desk, make_plan(desk.root))
    shell.run(
        (2, desk.bundle("1.1.0")),
        (3, desk.bundle("1.2.0")),
        until=lambda s: s.phase == "idle" and s.generation == 3,
    )
    assert shell.served == "1.2.0"
    assert shell.chain.count("activating") == 1


def test_a_bundle_of_a_builder_whom_the_device_does_not_trust_is_refused(desk: Desk) -> None:
    shell = shell_with_1_0_0(desk, make_plan(desk.root))
    stranger = make_keys(desk.root, "stranger")
    state = shell.run((2, desk.bundle("1.1.0", stranger.private)), until=settled)
    assert shell.served == "1.0.0" and state.rejected_generation == 2
    assert state.error is not None and state.error["subject"] == "model.sig"


def test_a_cut_download_goes_on_where_it_stopped(desk: Desk) -> None:
    desk.enroll()
    shell = Shell(desk.root / "device", make_plan(desk.root))
    bundle = desk.bundle("1.0.0")
    world = World(desk.hub, shell, bundle, shell.slots.staged(bundle.digest))
    size = desk.hub.blobs[world.model().rpartition("/")[2]].stat().st_size
    desk.hub.faults[world.model()] = [lambda data, _: Cut(data, size // 2)]
    shell.run((1, bundle), until=lambda s: s.phase == "idle" and s.active is not None)
    ranges = [asked for path, asked in desk.hub.requests if path == world.model()]
    assert ranges[0] is None and len(ranges) == 2
    assert ranges[1] is not None and 0 < int(ranges[1].removeprefix("bytes=").rstrip("-")) <= size // 2


def test_a_part_that_a_power_cut_damaged_is_fetched_from_the_start(desk: Desk) -> None:
    desk.enroll()
    shell = Shell(desk.root / "device", make_plan(desk.root))
    bundle = desk.bundle("1.0.0")
    world = World(desk.hub, shell, bundle, shell.slots.staged(bundle.digest))
    part = shell.slots.parts(bundle.digest) / world.model().rpartition("/")[2]
    shell.looks["downloading"] = lambda: (part.parent.mkdir(parents=True), part.write_bytes(bytes(100)))
    state = shell.run((1, bundle), until=lambda s: s.phase == "idle" and s.active is not None)
    ranges = [asked for path, asked in desk.hub.requests if path == world.model()]
    assert ranges == ["bytes=100-", None] and state.rejected_generation == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_delays_an_update_until_there_is_room(desk: Desk) -> None:
    folder = desk.root / "device"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    try:
        shell = shell_with_1_0_0(desk, make_plan(desk.root))
        ballast = folder / "ballast"
        # Room for the machine's own state, and not for a model.
        ballast.write_bytes(bytes(shutil.disk_usage(folder).free - (24 << 10)))
        big = desk.bundle("1.1.0")
        state = shell.run((2, big), until=lambda s: s.phase == "waiting" and s.attempts >= 2)
        assert state.error is not None and "disk" in state.error["message"]
        assert shell.served == "1.0.0"
        ballast.unlink()
        shell.run(until=settled)
        assert shell.served == "1.1.0"
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_only_what_no_slot_has_is_fetched(desk: Desk) -> None:
    shell = shell_with_1_0_0(desk, make_plan(desk.root))
    desk.hub.requests.clear()
    bundle = desk.bundle("1.1.0")
    shell.run((2, bundle), until=settled)
    asked = [path for path, _ in desk.hub.requests]
    world = World(desk.hub, shell, bundle, shell.slots.staged(bundle.digest))
    assert asked == [
        f"/device/v1/bundles/{bundle.digest}/signature",
        f"/device/v1/blobs/{bundle.digest}",
        world.model(),
    ]
    assert shell.downloader.reused_bytes > 0
