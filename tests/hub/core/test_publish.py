"""`edgeops publish` and `edgeops hub …`, against the operators' application on a real listener."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_hub.app import create_api_app
from cloud_hub.client import HubClient
from cloud_hub.trust.access import Services
from edgeops.canonical import sha256_file
from edgeops.errors import ArtifactError, ConflictError, TransportError, UnauthenticatedError
from edgeops.signing.keys import load_public_key
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.hub_core import listening, open_hub, read_token
from edgeops_testkit.waiting import refusing_port

pytestmark = pytest.mark.slow  # every test starts a server

EDGEOPS = str(Path(sys.executable).with_name("edgeops"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Services]:
    with (
        open_hub(tmp_path) as services,
        listening(create_api_app(services, dashboard=False), services.settings.api_port, None),
    ):
        yield services


@pytest.fixture
def client(hub: Services) -> Iterator[HubClient]:
    with HubClient(f"http://127.0.0.1:{hub.settings.api_port}", hub.operator_token) as opened:
        yield opened


def run(hub: Services, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """An operator's command on the hub's machine."""
    settings = {
        "EDGEOPS_HUB_STATE_DIR": str(hub.settings.state_dir),
        "EDGEOPS_HUB_URL": f"http://127.0.0.1:{hub.settings.api_port}",
    }
    return subprocess.run(
        [EDGEOPS, *args],
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def silent(path: str, sent: int, size: int) -> None:
    """Progress that nobody looks at."""


def test_only_missing_files_are_sent(hub: Services, client: HubClient, tmp_path: Path) -> None:
    key = tmp_path / "builder.key"
    first = client.publish(make_bundle(tmp_path / "b", key=key), silent)
    seen: list[str] = []
    newer = make_bundle(tmp_path / "b", version="1.1.0", key=key)
    second = client.publish(newer, lambda path, sent, size: seen.append(path))
    again = client.publish(newer, lambda path, sent, size: seen.append(path))
    assert first.new and second.new and not again.new
    assert first.uploaded_files > second.uploaded_files == len(set(seen)) > 0
    assert "variants/teacher-onnx-fp32/model.onnx" not in seen, "the same teacher is in both"
    assert again.uploaded_files == 0
    assert second.digest == sha256_file(newer / "manifest.json")


@pytest.mark.parametrize("path", ["variants/onnx-fp32/model.onnx", "README.md", "manifest.json", "model.sig"])
def test_a_changed_byte_is_refused_by_name(
    hub: Services, client: HubClient, tmp_path: Path, path: str
) -> None:
    bundle = make_bundle(tmp_path / "b", key=tmp_path / "builder.key")
    data = bytearray((bundle / path).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / path).write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        client.publish(bundle, silent)
    assert caught.value.subject == path
    assert client.get("/api/v1/bundles") == {"bundles": []}


@pytest.mark.parametrize("path", ["variants/onnx-fp32/model.onnx", "manifest.json", "model.sig"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_file_is_refused_by_name(
    hub: Services, client: HubClient, tmp_path: Path, path: str, damage: str
) -> None:
    bundle = make_bundle(tmp_path / "b", key=tmp_path / "builder.key")
    if damage == "missing":
        (bundle / path).unlink()
    else:
        (bundle / path).write_bytes((bundle / path).read_bytes()[:-20])
    with pytest.raises(ArtifactError) as caught:
        client.publish(bundle, silent)
    assert caught.value.subject == path


def test_a_symbolic_link_is_not_followed(hub: Services, client: HubClient, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", key=tmp_path / "builder.key")
    (tmp_path / "elsewhere").write_bytes((bundle / "README.md").read_bytes())
    (bundle / "README.md").unlink()
    (bundle / "README.md").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError) as caught:
        client.publish(bundle, silent)
    assert caught.value.subject == "README.md"


def test_errors_keep_their_class_across_the_wire(hub: Services, client: HubClient, tmp_path: Path) -> None:
    key = tmp_path / "builder.key"
    client.publish(make_bundle(tmp_path / "b", key=key), silent)
    with pytest.raises(ConflictError) as caught:
        client.publish(make_bundle(tmp_path / "c", key=key, quality="bad"), silent)
    assert caught.value.subject == "digits 1.0.0"
    assert caught.value.remedy is not None and "new version" in caught.value.remedy
    with HubClient(client.url, "wrong-token") as stranger, pytest.raises(UnauthenticatedError):
        stranger.get("/api/v1/devices")
    with (
        refusing_port() as port,
        HubClient(f"http://127.0.0.1:{port}", "t") as nobody,
        pytest.raises(TransportError) as lost,
    ):
        nobody.get("/api/v1/devices")
    assert "edgeops hub serve" in str(lost.value.remedy)


def test_publish_as_a_command(hub: Services, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", key=tmp_path / "builder.key")
    done = run(hub, "publish", str(bundle), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["digest"] == sha256_file(bundle / "manifest.json") and answer["new"] is True
    assert hub.operator_token not in done.stdout + done.stderr
    (bundle / "model.sig").unlink()
    refused = run(hub, "publish", str(bundle), "--json")
    assert refused.returncode == ArtifactError.exit_code
    assert json.loads(refused.stdout)["error"]["subject"] == "model.sig"
    with refusing_port() as port:
        gone = run(hub, "publish", str(bundle), "--hub", f"http://127.0.0.1:{port}")
    assert gone.returncode == ArtifactError.exit_code, "the bundle is looked at first"


def test_hub_commands(hub: Services, tmp_path: Path) -> None:
    made = run(hub, "hub", "token", "--site", "north", "--label", "line=3", "--uses", "2", "--json")
    assert made.returncode == 0, made.stderr
    answer = json.loads(made.stdout)
    assert read_token(answer["token"])["ca_sha256"] == hub.authority.ca_sha256
    assert run(hub, "hub", "token", "--label", "line").returncode == 2
    assert run(hub, "hub", "token", EDGEOPS_HUB_TOKEN="wrong").returncode == UnauthenticatedError.exit_code
    address = run(hub, "hub", "login").stdout.strip()
    assert address.startswith(f"http://127.0.0.1:{hub.settings.api_port}/login?code=")
    assert run(hub, "hub", "revoke", "nobody").returncode == 9
    public = tmp_path / "builder.pub"
    trusted = run(hub, "hub", "trust", str(public), "--json")
    place = Path(json.loads(trusted.stdout)["path"])
    assert place.parent == hub.settings.builders_path
    assert load_public_key(place) == load_public_key(public)
    assert run(hub, "hub", "trust", str(tmp_path / "builder.key")).returncode == 6, "a private key is none"
