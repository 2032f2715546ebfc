"""Enrolment: the right hub, the right key, and an identity that a power cut cannot tear."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from device_agent.commands import agent
from device_agent.layout import Layout
from device_agent.uplink.enroll import enroll
from device_agent.uplink.identity import load_identity, write_identity
from device_agent.uplink.renewal import renew
from edgeops.errors import (
    AccessError,
    BadRequestError,
    ConfigError,
    ConflictError,
    TransportError,
    UnauthenticatedError,
)
from edgeops_testkit.enrolled import DEVICE, Desk
from edgeops_testkit.fake_hub import Cut, status

pytestmark = pytest.mark.slow


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk.make(tmp_path)
    yield made
    made.hub.close()


def try_to_enroll(desk: Desk, token: str, *, name: str = DEVICE, force: bool = False) -> bool:
    """Whether state of an earlier identity was dropped."""
    layout = Layout(desk.root / "device")
    done = enroll(
        layout, token_text=token, name=name, builders=[desk.builder.public], force=force, timeout_s=5
    )
    return done.forgot


def test_an_identity_has_all_it_needs_and_its_key_is_private(desk: Desk) -> None:
    identity = desk.enroll()
    assert identity.device == DEVICE
    assert set(identity.builders) == set(desk.builder.ring)
    assert identity.key_path.stat().st_mode & 0o777 == 0o600
    assert identity.folder.parent.stat().st_mode & 0o777 == 0o700
    assert not (identity.folder.parent / "pending.key").exists()
    context = identity.tls_context()
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
    assert len(context.get_ca_certs()) == 1


def test_a_hub_that_is_not_the_one_the_token_names_is_told_before_it_hears_the_secret(desk: Desk) -> None:
    with pytest.raises(AccessError, match="is not the one that made this token"):
        try_to_enroll(desk, desk.hub.token(ca_sha256="ab" * 32))
    assert [path for path, _ in desk.hub.requests] == ["/device/v1/ca"]
    assert not (desk.root / "device" / "identity").exists()


def test_a_second_certificate_behind_the_right_one_is_not_trusted(desk: Desk, tmp_path: Path) -> None:
    other = Desk.make(tmp_path / "other")
    other.hub.close()
    desk.hub.ca_pem += other.hub.ca_pem
    identity = desk.enroll()
    assert identity.ca_path.read_bytes().count(b"BEGIN CERTIFICATE") == 1


@pytest.mark.parametrize("token", ["", "eot1.", "eot1.e30", "nonsense", "eot1.%%%"])
def test_what_is_no_token_is_refused_and_not_repeated(desk: Desk, token: str) -> None:
    with pytest.raises(BadRequestError, match="This is no enrolment token") as caught:
        try_to_enroll(desk, token)
    assert token not in str(caught.value) or not token
    assert caught.value.__cause__ is None


def test_a_wrong_secret_is_the_hubs_refusal(desk: Desk) -> None:
    with pytest.raises(UnauthenticatedError):
        try_to_enroll(desk, desk.hub.token(secret="wrong"))


def test_the_same_command_goes_on_with_the_same_key_when_the_answer_got_lost(desk: Desk) -> None:
    desk.hub.faults["/device/v1/enroll"] = [lambda data, _: Cut(data, 10)]
    with pytest.raises(TransportError):
        try_to_enroll(desk, desk.hub.token())
    pending = (desk.root / "device" / "pending.key").read_bytes()
    try_to_enroll(desk, desk.hub.token())
    assert (desk.root / "device" / "identity" / "device.key").read_bytes() == pending


def test_an_enrolled_device_is_not_overwritten_without_force(desk: Desk) -> None:
    before = desk.enroll().key_path.read_bytes()
    with pytest.raises(ConflictError, match=f"enrolled already, as {DEVICE}"):
        try_to_enroll(desk, desk.hub.token())
    assert not try_to_enroll(desk, desk.hub.token(), force=True)
    assert load_identity(desk.root / "device" / "identity").key_path.read_bytes() != before


def test_another_identity_does_not_inherit_state(desk: Desk) -> None:
    layout = Layout(desk.enroll().folder.parent)
    layout.update_file.write_text("{}")
    layout.spool_file.write_text("")
    (layout.slots / "old").mkdir()
    assert not try_to_enroll(desk, desk.hub.token(), force=True)
    assert layout.update_file.exists()
    assert try_to_enroll(desk, desk.hub.token(), name="pump-8", force=True)
    assert not layout.update_file.exists() and not layout.spool_file.exists()
    assert not list(layout.slots.iterdir())


def test_a_running_agent_keeps_its_state_folder(desk: Desk) -> None:
    layout = Layout(desk.root / "device")
    layout.make()
    with layout.lock(), pytest.raises(ConfigError, match=r"Another agent \(process \d+\) uses"):
        try_to_enroll(desk, desk.hub.token())


@pytest.mark.parametrize("renames", [0, 1])
def test_a_power_cut_while_an_identity_is_replaced_leaves_one(
    tmp_path: Path, desk: Desk, renames: int
) -> None:
    identity = desk.enroll()
    key = identity.key_path.read_bytes()
    # What the disk holds when the power goes before or after the first rename of `write_identity`.
    files = {p.name: p.read_bytes() for p in identity.folder.iterdir() if p.is_file()}
    write_identity(tmp_path / "fresh", files)
    (tmp_path / "fresh").rename(identity.folder.with_name("identity.new"))
    if renames:
        identity.folder.rename(identity.folder.with_name("identity.old"))
    assert load_identity(identity.folder).key_path.read_bytes() == key
    assert [path.name for path in identity.folder.parent.glob("identity*")] == ["identity"]


def test_a_device_that_is_not_enrolled_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not enrolled.*Enrol it with edgeops agent enroll"):
        load_identity(tmp_path / "identity")


def test_renewal_swaps_the_certificate_and_is_due_at_two_thirds_of_its_life(desk: Desk) -> None:
    identity = desk.enroll()
    first = identity.certificate()
    span = first.not_valid_after_utc - first.not_valid_before_utc
    due = datetime.fromtimestamp(identity.renewal_due_ms() / 1000, tz=UTC)
    assert abs((due - first.not_valid_before_utc) / span - 2 / 3) < 1e-3
    desk.hub.certificate_days = 60
    renew(identity, desk.hub.url, 5)
    assert identity.certificate().serial_number != first.serial_number
    assert identity.certificate().not_valid_after_utc > first.not_valid_after_utc
    identity.tls_context()


def test_a_renewal_that_gives_another_devices_certificate_changes_nothing(desk: Desk) -> None:
    identity, other = desk.enroll(), desk.enroll("other", "pump-8")
    before = identity.certificate_path.read_bytes()
    answer = json.dumps({"certificate_pem": other.certificate_path.read_text()}).encode()
    desk.hub.faults["/device/v1/renew"] = [lambda _data, _request: _json(answer)]
    with pytest.raises(ConfigError, match="is not one for this device"):
        renew(identity, desk.hub.url, 5)
    assert identity.certificate_path.read_bytes() == before


def test_a_renewal_that_the_hub_refuses_is_its_refusal(desk: Desk) -> None:
    identity = desk.enroll()
    desk.hub.faults["/device/v1/renew"] = [status(403)]
    with pytest.raises(AccessError, match="The test said so"):
        renew(identity, desk.hub.url, 5)


def test_the_command_reads_the_token_from_standard_input(desk: Desk) -> None:
    arguments = ["enroll", "--token", "-", "--name", DEVICE, "--trust", str(desk.builder.public), "--json"]
    folder = str(desk.root / "device")
    done = CliRunner().invoke(agent, [*arguments, "--state-dir", folder], input=desk.hub.token() + "\n")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["device"] == DEVICE
    assert load_identity(desk.root / "device" / "identity").device == DEVICE


def _json(body: bytes):  # type: ignore[no-untyped-def]
    from aiohttp import web

    return web.Response(body=body, content_type="application/json")
