"""What a device accepts as desired, and what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from device_agent.core.update_types import DesiredChanged, Event, Slot, Target, UpdateState
from device_agent.uplink.identity import Identity
from device_agent.uplink.twin import Twin
from edgeops.messages import BundleRef, DesiredState, SignedEnvelope, decode, encode
from edgeops.signing.desired import sign_desired
from edgeops.signing.keys import load_private_key
from edgeops_testkit.enrolled import DEVICE, Desk

pytestmark = pytest.mark.slow
REF = BundleRef(name="digits", version="1.0.0", digest="ab" * 32)
OTHER = BundleRef(name="digits", version="2.0.0", digest="cd" * 32)
TARGET = Target("digits", "1.0.0", "ab" * 32, 4)


class Rig:
    """A twin over a state that the test sets, with what it told and emitted."""

    def __init__(self, desk: Desk, identity: Identity) -> None:
        self.hub = desk.hub
        self.state = UpdateState()
        self.told: list[Event] = []
        self.emitted: list[tuple[str, dict[str, Any]]] = []
        self.twin = Twin(
            identity=identity,
            session=7,
            state=lambda: self.state,
            child=lambda _number: None,
            requests=lambda _ring: 0,
            progress=lambda: 0.25,
            tell=self.told.append,
            emit=lambda kind, detail: self.emitted.append((kind, dict(detail))),
        )

    def refusal(self) -> str:
        assert not self.told and [kind for kind, _ in self.emitted] == ["desired_refused"]
        return str(self.emitted[0][1]["error"]["message"])


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, Identity]]:
    desk = Desk.make(tmp_path_factory.mktemp("desk"))
    yield desk, desk.enroll()
    desk.hub.close()


@pytest.fixture
def rig(enrolled: tuple[Desk, Identity]) -> Rig:
    return Rig(*enrolled)


def test_a_rightly_signed_desired_state_is_told(rig: Rig) -> None:
    rig.twin.take(rig.hub.desired(DEVICE, 4, REF))
    rig.twin.take(rig.hub.desired(DEVICE, 5, None))
    assert rig.told == [DesiredChanged(4, TARGET), DesiredChanged(5, None)]
    assert not rig.emitted and rig.twin.figures.accepted == 2


def test_one_signed_by_another_key_is_refused(rig: Rig, enrolled: tuple[Desk, Identity]) -> None:
    stranger = load_private_key(enrolled[0].builder.private)
    state = DesiredState(device=DEVICE, generation=9, bundle=REF, rollout=None, issued_at_ms=0)
    rig.twin.take(sign_desired(stranger, state))
    assert "signed by another key" in rig.refusal()


def test_one_for_another_device_is_refused(rig: Rig) -> None:
    rig.twin.take(rig.hub.desired("pump-8", 4, REF))
    assert "is meant for the device 'pump-8'" in rig.refusal()


def test_one_with_a_changed_payload_is_refused(rig: Rig) -> None:
    envelope = decode(rig.hub.desired(DEVICE, 4, REF), SignedEnvelope)
    changed = envelope.payload.replace(b"1.0.0", b"1.0.1")
    rig.twin.take(
        encode(SignedEnvelope(payload=changed, key_id=envelope.key_id, signature=envelope.signature))
    )
    assert "signature that does not hold" in rig.refusal()


@pytest.mark.parametrize("payload", [b"x", b"\x80", b"\xff" * 100])
def test_what_is_no_envelope_is_refused(rig: Rig, payload: bytes) -> None:
    rig.twin.take(payload)
    assert "is not one" in rig.refusal()


def test_an_empty_payload_says_nothing(rig: Rig) -> None:
    rig.twin.take(b"")
    assert not rig.told and not rig.emitted


def test_an_older_generation_is_refused_once_however_often_it_comes(rig: Rig) -> None:
    rig.state = UpdateState(generation=4, desired=TARGET)
    retained = rig.hub.desired(DEVICE, 3, REF)
    for _ in range(3):
        rig.twin.take(retained)
    assert rig.refusal() == "The hub wants generation 3 after 4."
    assert rig.twin.figures.refused == 3


def test_the_same_generation_is_taken_again_but_not_with_another_content(rig: Rig) -> None:
    rig.state = UpdateState(generation=4, desired=TARGET)
    rig.twin.take(rig.hub.desired(DEVICE, 4, REF))
    assert rig.told.pop() == DesiredChanged(4, TARGET)
    rig.twin.take(rig.hub.desired(DEVICE, 4, OTHER))
    assert "has another content already" in rig.refusal()


def test_without_a_process_nothing_runs_whatever_the_state_says(rig: Rig) -> None:
    rig.state = UpdateState(
        generation=4, desired=TARGET, active=Slot(TARGET, "v", confirmed=True), health="serving", launch=3
    )
    reported = rig.twin.reported()
    assert reported.running is None
    assert (reported.device, reported.session, reported.generation) == (DEVICE, 7, 4)
    assert rig.twin.reported().revision == reported.revision + 1


def test_what_was_refused_is_told_with_its_error(rig: Rig) -> None:
    error = {"kind": "artifact", "message": "It is not the file that was signed."}
    rig.state = UpdateState(generation=4, desired=TARGET, rejected_generation=4, error=error)
    reported = rig.twin.reported()
    assert reported.rejected_generation == 4
    assert (reported.update.target, reported.update.error) == (REF, error)


def test_a_download_tells_its_progress(rig: Rig) -> None:
    rig.state = UpdateState(phase="downloading", generation=4, candidate=TARGET, attempts=2)
    status = rig.twin.update_status()
    assert (status.phase, status.progress, status.attempts, status.target) == ("downloading", 0.25, 2, REF)
