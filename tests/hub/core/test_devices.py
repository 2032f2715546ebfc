"""What the operators' API tells of devices, and giving one device something to run."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, update

from cloud_hub import devices
from cloud_hub.store import schema
from cloud_hub.store.database import reading, writing
from cloud_hub.trust.access import DeviceDirectory, Services
from edgeops.canonical import sha256_bytes
from edgeops.errors import AccessError
from edgeops.signing.desired import open_desired
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.hub_core import bundle_blobs, enrolled, token


def published(services: Services, operators: TestClient, root: Path) -> str:
    """The digest of a published bundle, digits 1.0.0."""
    bundle = make_bundle(root / "bundles", key=root / "builder.key", teacher=False)
    for data in bundle_blobs(bundle).values():
        operators.put(f"/api/v1/blobs/{sha256_bytes(data)}", content=data)
    encoded = {
        "signature_b64": base64.b64encode((bundle / "model.sig").read_bytes()).decode(),
        "measurements_b64": base64.b64encode((bundle / "measurements.json").read_bytes()).decode(),
    }
    digest = sha256_bytes((bundle / "manifest.json").read_bytes())
    assert operators.post("/api/v1/bundles", json={"digest": digest} | encoded).status_code == 201
    return digest


def row(device: str, sequence: int, **values: Any) -> dict[str, Any]:
    """A row of `windows` with nothing in it but what is given."""
    counts = dict.fromkeys(
        ("requests", "errors", "rejected", "fallbacks", "labels_seen", "labels_right", "start_ms", "end_ms"),
        0,
    )
    place = {"device": device, "session": 1, "sequence": sequence, "model": "digits", "digest": "d" * 64}
    return {**place, **counts, "received_ms": 1, "payload": b"", **values}


def test_a_new_device_runs_nothing_and_should_run_nothing(services: Services, operators: TestClient) -> None:
    enrolled(services, "pump-1", token(services, labels={"site": "north"}))
    found = operators.get("/api/v1/devices/pump-1").json()
    assert (found["site"], found["online"], found["running"], found["wanted"]) == ("north", False, None, None)
    assert found["in_sync"] is True
    assert found["telemetry"] == {
        "windows": 0,
        "requests": 0,
        "errors": 0,
        "rejected": 0,
        "fallbacks": 0,
        "missing_windows": 0,
    }


def test_only_what_is_loaded_counts(services: Services, operators: TestClient, tmp_path: Path) -> None:
    enrolled(services, "pump-1")
    digest = published(services, operators, tmp_path)
    answer = operators.post("/api/v1/devices/pump-1/desired", json={"digest": digest})
    assert answer.json() == {"device": "pump-1", "generation": 1}
    found = operators.get("/api/v1/devices/pump-1").json()
    assert found["wanted"]["bundle"] == {"name": "digits", "version": "1.0.0", "digest": digest}
    assert found["running"] is None and found["in_sync"] is False
    with writing(services.engine) as connection:
        connection.execute(
            update(schema.devices).values(
                running_digest=digest, running_variant="onnx-fp32", running_requests=5, online=True
            )
        )
    found = operators.get("/api/v1/devices/pump-1").json()
    assert found["in_sync"] is True
    assert found["running"] == {
        "digest": digest,
        "name": "digits",
        "version": "1.0.0",
        "variant": "onnx-fp32",
        "requests": 5,
    }


def test_what_a_device_should_run_is_signed_for_it(
    services: Services, operators: TestClient, tmp_path: Path
) -> None:
    enrolled(services, "pump-1")
    digest = published(services, operators, tmp_path)
    address = "/api/v1/devices/pump-1/desired"
    generations = [
        operators.post(address, json={"digest": each}).json()["generation"] for each in (digest, digest, None)
    ]
    assert generations == [1, 1, 2], "the same again is no new generation"
    with reading(services.engine) as connection:
        envelope = connection.execute(schema.desired.select()).one().envelope
    state = open_desired(envelope, services.desired_key.public_key(), "pump-1")
    assert (state.generation, state.bundle) == (2, None)
    assert operators.post(address, json={"digest": "e" * 64}).status_code == 404
    assert operators.post("/api/v1/devices/nobody/desired", json={"digest": digest}).status_code == 404
    operators.post("/api/v1/devices/pump-1/revoke")
    assert operators.post(address, json={"digest": digest}).status_code == 409


def test_devices_are_listed_by_name_in_pages(services: Services, operators: TestClient) -> None:
    north = token(services, labels={"site": "north"}, uses=3)
    for name in ("c", "a", "b"):
        enrolled(services, name, north)
    enrolled(services, "d")
    first = operators.get("/api/v1/devices", params={"limit": 2}).json()
    rest = operators.get("/api/v1/devices", params={"limit": 2, "after": first["next"]}).json()
    assert [device["name"] for device in first["devices"] + rest["devices"]] == ["a", "b", "c", "d"]
    of_site = operators.get("/api/v1/devices", params={"site": "north"}).json()
    assert [device["name"] for device in of_site["devices"]] == ["a", "b", "c"]
    assert of_site["next"] is None


def test_totals_are_of_all_windows(services: Services, operators: TestClient) -> None:
    enrolled(services, "pump-1")
    rows = [row("pump-1", 1, requests=10, errors=2, fallbacks=1), row("pump-1", 2, requests=5, rejected=3)]
    with writing(services.engine) as connection:
        connection.execute(insert(schema.windows).values([*rows, row("pump-2", 1, requests=100)]))
    totals = operators.get("/api/v1/devices/pump-1").json()["telemetry"]
    assert totals == {
        "windows": 2,
        "requests": 15,
        "errors": 2,
        "rejected": 3,
        "fallbacks": 1,
        "missing_windows": 0,
    }


@pytest.mark.slow
@settings(deadline=None)
@given(
    sessions=st.dictionaries(
        st.integers(1, 3), st.dictionaries(st.integers(1, 12), st.booleans(), min_size=1), max_size=3
    )
)
def test_a_gap_in_the_sequence_is_a_missing_window(
    shared_services: Services, sessions: dict[int, dict[int, bool]]
) -> None:
    """Law: per session, what is missing is the highest sequence less the number of windows and events."""
    with writing(shared_services.engine) as connection:
        for table in (schema.windows, schema.events):
            connection.execute(delete(table))
        for session, sequences in sessions.items():
            for sequence, is_window in sequences.items():
                place = {"device": "pump-1", "session": session, "sequence": sequence}
                if is_window:
                    connection.execute(insert(schema.windows).values(**row("pump-1", sequence) | place))
                else:
                    event = {"at_ms": 1, "received_ms": 1, "kind": "k", "detail_json": "{}"}
                    connection.execute(insert(schema.events).values(**place, **event))
        found = devices.telemetry(connection, "pump-1")
    assert found.missing_windows == sum(max(seen) - len(seen) for seen in sessions.values())
    assert found.windows == sum(sum(seen.values()) for seen in sessions.values())


def test_the_directory_forgets_within_its_time(services: Services, operators: TestClient) -> None:
    _, issued = enrolled(services, "pump-1")
    patient, strict = DeviceDirectory(services.engine, 3600.0), DeviceDirectory(services.engine, 0.0)
    for directory in (patient, strict):
        assert not directory.fresh("pump-1", issued.serial)
        directory.check("pump-1", issued.serial)
    assert patient.fresh("pump-1", issued.serial)
    operators.post("/api/v1/devices/pump-1/revoke")
    patient.check("pump-1", issued.serial)
    with pytest.raises(AccessError, match="revoked"):
        strict.check("pump-1", issued.serial)
    with pytest.raises(AccessError):
        patient.check("pump-2", issued.serial)
