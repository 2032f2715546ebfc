"""The hub's metrics: what is measured, judged by promtool."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert, update

from cloud_hub.store import schema
from cloud_hub.store.database import writing
from cloud_hub.trust.access import Services
from edgeops_testkit.hub_core import enrolled


def add_devices(services: Services, *names: str) -> None:
    for name in names:
        enrolled(services, name)


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_tell_what_the_database_has(services: Services, anyone: TestClient) -> None:
    add_devices(services, "pump-1", "pump-2", "pump-3", "pump-4")
    devices = schema.devices
    with writing(services.engine) as connection:
        connection.execute(update(devices).where(devices.c.name != "pump-4").values(online=True))
        connection.execute(update(devices).where(devices.c.name == "pump-3").values(revoked_at_ms=1))
        connection.execute(insert(schema.counters).values(name="windows_stored", value=41))
        connection.execute(
            insert(schema.fallback_minutes).values(
                [
                    {
                        "minute_ms": minute,
                        "model": "digits",
                        "caller": "pump-1",
                        "reason": "low_confidence",
                        "requests": 3,
                        "errors": 1,
                        "latency_ms_sum": 1.0,
                    }
                    for minute in (0, 60_000)
                ]
            )
        )
        connection.execute(
            insert(schema.alerts).values(
                key="k", rule="drift", severity="warning", message="m", opened_at_ms=1, updated_at_ms=1
            )
        )
    found = samples(anyone.get("/metrics").text)
    state = {labels[0][1]: value for (name, labels), value in found.items() if name == "edgeops_hub_devices"}
    assert state == {"online": 2, "offline": 1, "revoked": 1}
    assert found["edgeops_hub_ingest_total", (("outcome", "windows_stored"),)] == 41
    assert found["edgeops_hub_ingest_total", (("outcome", "windows_duplicate"),)] == 0
    fallback = (("model", "digits"), ("reason", "low_confidence"))
    assert found["edgeops_hub_fallback_requests_total", fallback] == 6
    assert found["edgeops_hub_fallback_errors_total", fallback] == 2
    assert found["edgeops_hub_alerts_open", (("severity", "warning"),)] == 1


def test_requests_are_counted_by_route_and_never_by_what_callers_make_up(
    operators: TestClient, anyone: TestClient
) -> None:
    for name in ("a", "b", "c"):
        operators.get(f"/api/v1/devices/{name}")
        operators.get(f"/made/up/{name}")
    operators.request("BREW", "/api/v1/devices/a")
    found = samples(anyone.get("/metrics").text)

    def count(method: str, route: str, status: str) -> float:
        labels = {"side": "operators", "method": method, "route": route, "status": status}
        return found["edgeops_hub_http_requests_total", tuple(sorted(labels.items()))]

    assert count("GET", "/api/v1/devices/{name}", "404") == 3
    assert count("GET", "other", "404") == 3
    routes = {
        dict(labels)["route"]
        for name, labels in found
        if name == "edgeops_hub_http_requests_total" and "made" in dict(labels)["route"]
    }
    methods = {dict(labels)["method"] for name, labels in found if name == "edgeops_hub_http_requests_total"}
    assert routes == set() and "BREW" not in methods
    timed = (("route", "/api/v1/devices/{name}"), ("side", "operators"))
    assert found["edgeops_hub_http_request_duration_seconds_count", timed] >= 3


@pytest.mark.slow
def test_promtool_finds_nothing_to_criticise(
    services: Services, operators: TestClient, anyone: TestClient
) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (package prometheus)")
    add_devices(services, "pump-1")
    operators.get("/api/v1/devices")
    text = anyone.get("/metrics").text
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
    assert "edgeops_hub_http_requests_total" in text
