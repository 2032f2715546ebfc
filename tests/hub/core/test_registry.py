"""Publishing and the registry, over the operators' API, with real signed bundles."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from cloud_hub.bundles import registry
from cloud_hub.store import schema
from cloud_hub.store.database import reading, writing
from cloud_hub.trust.access import Services
from edgeops.canonical import canonical_json, sha256_bytes
from edgeops.errors import ConflictError
from edgeops.signing.keys import load_private_key, new_key
from edgeops.signing.oms import sign_bundle
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.hub_core import bundle_blobs
from edgeops_testkit.oms import seal, statement_over


@pytest.fixture
def bundle(services: Services, tmp_path: Path) -> Path:
    """digits 1.0.0, signed by the builder that the hub trusts."""
    return make_bundle(tmp_path / "bundles", key=tmp_path / "builder.key")


def upload(client: TestClient, bundle: Path, skip: str = "") -> None:
    for path, data in bundle_blobs(bundle).items():
        if path != skip:
            answer = client.put(f"/api/v1/blobs/{sha256_bytes(data)}", content=data)
            assert answer.status_code in (200, 201), answer.text


def publish(client: TestClient, bundle: Path, **changes: Any) -> Any:
    body: dict[str, Any] = {
        "digest": sha256_bytes((bundle / "manifest.json").read_bytes()),
        "signature_b64": base64.b64encode((bundle / "model.sig").read_bytes()).decode(),
        "measurements_b64": base64.b64encode((bundle / "measurements.json").read_bytes()).decode(),
    }
    return client.post("/api/v1/bundles", json=body | changes)


def published(services: Services) -> list[str]:
    with reading(services.engine) as connection:
        return [f"{found.name} {found.version}" for found in registry.bundles(connection)]


def test_a_bundle_is_published_once_and_can_be_read(
    services: Services, operators: TestClient, bundle: Path
) -> None:
    upload(operators, bundle)
    first, again = publish(operators, bundle), publish(operators, bundle)
    assert (first.status_code, again.status_code) == (201, 200), first.text
    assert first.json() == again.json()
    assert first.json()["lifecycle"] == "staging"
    manifest = (bundle / "manifest.json").read_bytes()
    assert first.json()["digest"] == sha256_bytes(manifest)
    assert first.json()["size_bytes"] == sum(len(data) for data in bundle_blobs(bundle).values())
    detail = operators.get("/api/v1/bundles/digits/1.0.0").json()
    assert canonical_json(detail["manifest"]) == manifest
    assert detail["measurements"] == json.loads((bundle / "measurements.json").read_bytes())
    listed = operators.get("/api/v1/bundles").json()["bundles"]
    assert listed == [first.json()]
    assert operators.get("/api/v1/bundles", params={"name": "other"}).json()["bundles"] == []
    acts = [entry["action"] for entry in operators.get("/api/v1/audit").json()["entries"]]
    assert acts == ["bundle.publish"], "publishing again is no act"


def test_a_version_never_changes(
    services: Services, operators: TestClient, bundle: Path, tmp_path: Path
) -> None:
    upload(operators, bundle)
    publish(operators, bundle)
    other = make_bundle(tmp_path / "other", key=tmp_path / "builder.key", quality="bad")
    upload(operators, other)
    refused = publish(operators, other)
    assert refused.status_code == 409
    assert refused.json()["error"]["subject"] == "digits 1.0.0"
    with reading(services.engine) as connection:
        digests = connection.execute(select(schema.bundles.c.digest)).scalars().all()
    assert digests == [sha256_bytes((bundle / "manifest.json").read_bytes())]


@pytest.mark.parametrize("missing", ["manifest.json", "variants/onnx-fp32/model.onnx", "README.md"])
def test_a_missing_file_is_named(
    services: Services, operators: TestClient, bundle: Path, missing: str
) -> None:
    upload(operators, bundle, skip=missing)
    refused = publish(operators, bundle)
    assert refused.status_code == 422
    assert refused.json()["error"]["subject"] == missing
    assert published(services) == []


def _flip_signature(bundle: Path) -> None:
    signature = json.loads((bundle / "model.sig").read_bytes())
    payload = signature["dsseEnvelope"]["payload"]
    signature["dsseEnvelope"]["payload"] = ("A" if payload[0] != "A" else "B") + payload[1:]
    (bundle / "model.sig").write_text(json.dumps(signature))


def _truncate_signature(bundle: Path) -> None:
    data = (bundle / "model.sig").read_bytes()
    (bundle / "model.sig").write_bytes(data[: len(data) // 2])


def _sign_by_stranger(bundle: Path) -> None:
    private, _ = new_key("stranger", bundle.parent)
    (bundle / "model.sig").unlink()
    sign_bundle(bundle, private)


def _change_manifest(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["description"] = "something else"
    (bundle / "manifest.json").write_bytes(canonical_json(manifest))


def _downgrade_schema(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["schema_version"] = "0.9"
    (bundle / "manifest.json").write_bytes(canonical_json(manifest))


def _change_measurements(bundle: Path) -> None:
    (bundle / "measurements.json").write_bytes(b'{"faster": true}')


@pytest.mark.parametrize(
    ("damage", "subject"),
    [
        (_flip_signature, "model.sig"),
        (_truncate_signature, "model.sig"),
        (_sign_by_stranger, "model.sig"),
        (_change_manifest, "manifest.json"),
        (_downgrade_schema, "manifest.json"),
        (_change_measurements, "measurements.json"),
    ],
)
def test_a_damaged_bundle_is_refused_by_the_file(
    services: Services, operators: TestClient, bundle: Path, damage: Callable[[Path], None], subject: str
) -> None:
    damage(bundle)
    upload(operators, bundle)
    refused = publish(operators, bundle)
    assert refused.status_code == 422, refused.text
    assert refused.json()["error"]["subject"] == subject
    assert published(services) == []


def _sign_again(bundle: Path, manifest: dict[str, Any]) -> None:
    """The trusted builder's own signature, over a manifest that its tools would not have signed."""
    (bundle / "manifest.json").write_bytes(canonical_json(manifest))
    skipped = {"model.sig"}
    files = [path for path in sorted(bundle.rglob("*")) if path.is_file() and path.name not in skipped]
    digests = {str(path.relative_to(bundle)): sha256_bytes(path.read_bytes()) for path in files}
    key = load_private_key(bundle.parent.parent / "builder.key")
    (bundle / "model.sig").write_text(json.dumps(seal(statement_over(digests), key)))


def test_even_a_trusted_builder_cannot_publish_an_old_schema(
    services: Services, operators: TestClient, bundle: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    _sign_again(bundle, manifest)
    upload(operators, bundle)
    assert publish(operators, bundle).status_code == 201, "signing again by itself changes nothing"
    _sign_again(bundle, manifest | {"schema_version": "0.9", "version": "1.0.1"})
    upload(operators, bundle)
    refused = publish(operators, bundle)
    assert refused.status_code == 422
    assert refused.json()["error"]["subject"] == "manifest.json"
    assert "schema version" in refused.json()["error"]["message"]
    assert published(services) == ["digits 1.0.0"]


def test_a_size_that_is_not_the_files_is_refused(
    services: Services, operators: TestClient, bundle: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["variants"][0]["files"][0]["size_bytes"] += 1
    _sign_again(bundle, manifest)
    upload(operators, bundle)
    refused = publish(operators, bundle)
    assert refused.status_code == 422
    assert refused.json()["error"]["subject"] == "variants/onnx-fp32/model.onnx"
    assert published(services) == []


def test_an_unsigned_bundle_is_refused(services: Services, operators: TestClient, bundle: Path) -> None:
    upload(operators, bundle)
    refused = publish(operators, bundle, signature_b64="")
    assert refused.status_code == 422
    assert refused.json()["error"]["subject"] == "model.sig"


def test_signed_measurements_must_come_along(services: Services, operators: TestClient, bundle: Path) -> None:
    upload(operators, bundle)
    refused = publish(operators, bundle, measurements_b64=None)
    assert refused.status_code == 422
    assert refused.json()["error"]["subject"] == "measurements.json"


def test_a_hub_without_builders_accepts_nothing(
    services: Services, operators: TestClient, bundle: Path
) -> None:
    upload(operators, bundle)
    shutil.rmtree(services.settings.builders_path)
    services.settings.builders_path.mkdir()
    refused = publish(operators, bundle)
    assert refused.status_code == 422
    assert "edgeops hub trust" in refused.json()["error"]["remedy"]


def test_blobs_over_the_api(services: Services, operators: TestClient) -> None:
    data = bytes(range(256)) * 9000
    digest, other = sha256_bytes(data), "f" * 64
    asked = {"sha256": [digest, other]}
    assert operators.post("/api/v1/blobs/missing", json=asked).json() == {"missing": [digest, other]}
    wrong = operators.put(f"/api/v1/blobs/{digest}", content=data[:-1])
    assert wrong.status_code == 422 and wrong.json()["error"]["subject"] == digest
    first = operators.put(f"/api/v1/blobs/{digest}", content=data)
    assert (first.status_code, first.json()) == (201, {"sha256": digest, "size_bytes": len(data)})
    assert operators.put(f"/api/v1/blobs/{digest}", content=data).status_code == 200
    assert operators.post("/api/v1/blobs/missing", json=asked).json() == {"missing": [other]}
    assert services.blobs.path(digest).read_bytes() == data


def test_aliases_name_versions(
    services: Services, operators: TestClient, bundle: Path, tmp_path: Path
) -> None:
    newer = make_bundle(tmp_path / "bundles", version="1.1.0", key=tmp_path / "builder.key")
    for each in (bundle, newer):
        upload(operators, each)
        publish(operators, each)
    address = "/api/v1/models/digits/aliases/prod"
    for version in ("1.0.0", "1.1.0"):
        answer = operators.put(address, json={"version": version})
        assert (answer.status_code, answer.json()["version"]) == (200, version)
    assert operators.get("/api/v1/bundles/digits/1.0.0").json()["aliases"] == []
    assert operators.get("/api/v1/bundles/digits/1.1.0").json()["aliases"] == ["prod"]
    assert operators.put(address, json={"version": "9.9.9"}).status_code == 404
    assert operators.put("/api/v1/models/digits/aliases/best", json={"version": "1.0.0"}).status_code == 400


def test_a_retired_bundle_stays_retired(services: Services, operators: TestClient, bundle: Path) -> None:
    upload(operators, bundle)
    digest = publish(operators, bundle).json()["digest"]
    with writing(services.engine) as connection:
        for lifecycle in ("production", "deprecated", "retired"):
            registry.set_lifecycle(connection, digest=digest, lifecycle=lifecycle, actor="operator", now_ms=1)
            assert registry.bundle_by_digest(connection, digest).lifecycle == lifecycle
        with pytest.raises(ConflictError, match="retired"):
            registry.set_lifecycle(
                connection, digest=digest, lifecycle="production", actor="operator", now_ms=1
            )


def test_another_models_bundle_cannot_be_an_alias(
    services: Services, operators: TestClient, bundle: Path
) -> None:
    upload(operators, bundle)
    digest = publish(operators, bundle).json()["digest"]
    with pytest.raises(ConflictError), writing(services.engine) as connection:
        registry.set_alias(
            connection, name="letters", alias="prod", digest=digest, actor="operator", now_ms=1
        )
