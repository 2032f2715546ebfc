"""The monitor loop against a real database, with real sketches and the bundle's own reference."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import update

from cloud_hub.store import schema
from cloud_hub.store.database import writing
from edgeops.messages import BundleRef
from edgeops_testkit.hub_fleet import FleetHub, images


def run(hub: FleetHub, version: str = "1.0.0") -> BundleRef:
    """Every device reports this version as loaded."""
    bundle = hub.bundles[version]
    for number in range(6):
        hub.report(f"d{number}", bundle, requests=10)
    return bundle


def traffic(hub: FleetHub, bundle: BundleRef, *, seed: int, shifted: tuple[str, ...] = ()) -> None:
    """Ten windows of every device; `shifted` devices see other images."""
    for round_ in range(10):
        for number in range(6):
            name = f"d{number}"
            pictures = images(30, seed=1000 * seed + 10 * round_ + number, shifted=name in shifted)
            hub.window(name, bundle, requests=30, images=pictures)


def drifted(hub: FleetHub) -> set[tuple[object, object]]:
    """Site and feature of what drifted at the last look."""
    scores = hub.rows("drift_scores")
    newest = max((int(str(row["at_ms"])) for row in scores), default=0)
    return {(row["site"], row["feature"]) for row in scores if row["drifted"] and row["at_ms"] == newest}


def open_alerts(hub: FleetHub) -> list[dict[str, object]]:
    return [row for row in hub.rows("alerts") if row["resolved_at_ms"] is None]


def test_a_shifted_site_is_named_with_model_and_feature_and_the_others_are_not(hub: FleetHub) -> None:
    bundle = run(hub)
    traffic(hub, bundle, seed=1, shifted=("d0", "d3"))
    hub.look_again_and_again()
    assert drifted(hub) == {("north", "mean"), ("north", "std")}
    alerts = open_alerts(hub)
    assert {(row["rule"], row["model"], row["site"], row["feature"]) for row in alerts} == {
        ("drift", "digits", "north", "mean"),
        ("drift", "digits", "north", "std"),
    }
    message = next(str(row["message"]) for row in alerts if row["feature"] == "mean")
    assert "digits 1.0.0 at north has drifted: mean over 600 requests" in message
    counts = {row["count"] for row in hub.rows("drift_scores")}
    assert counts == {600}, "both devices of a site, every window once"


def test_the_alert_opens_once_and_resolves_when_the_input_is_back(hub: FleetHub) -> None:
    bundle = run(hub)
    traffic(hub, bundle, seed=2, shifted=("d1", "d4"))
    hub.look_again_and_again()
    opened = [row["id"] for row in open_alerts(hub)]
    hub.look(10)
    assert [row["id"] for row in open_alerts(hub)] == opened
    hub.now_ms += 700_000  # all that was shifted lies outside the span now
    traffic(hub, bundle, seed=3)
    hub.look(10)
    assert open_alerts(hub) == []
    assert [row["id"] for row in hub.rows("alerts")] == opened


def test_what_nobody_sends_any_more_keeps_its_alert(hub: FleetHub) -> None:
    bundle = run(hub)
    traffic(hub, bundle, seed=4, shifted=("d0",))
    hub.look_again_and_again()
    assert open_alerts(hub)
    hub.look(2_000)
    assert open_alerts(hub), "no data is not good news"


def test_an_alert_about_a_bundle_that_nobody_runs_any_more_resolves(hub: FleetHub) -> None:
    bundle = run(hub)
    traffic(hub, bundle, seed=5, shifted=("d0", "d3"))
    hub.look_again_and_again()
    assert open_alerts(hub)
    run(hub, "1.1.0")
    hub.look(2)
    assert open_alerts(hub) == [], "although its windows still lie within the span"
    hub.look(2)
    assert open_alerts(hub) == []


@pytest.mark.slow
def test_each_window_is_counted_once_also_after_a_restart(hub: FleetHub) -> None:
    bundle = run(hub)
    traffic(hub, bundle, seed=6)
    hub.look()
    hub.look()
    hub.restart_monitor()
    hub.look()
    assert {row["count"] for row in hub.rows("drift_scores")} == {600}
    traffic(hub, bundle, seed=7)
    hub.look()
    assert {row["count"] for row in hub.rows("drift_scores")[-6:]} == {1200}


@pytest.mark.slow
def test_old_windows_leave_the_span_and_late_ones_do_not_enter_it(hub: FleetHub) -> None:
    bundle = run(hub)
    traffic(hub, bundle, seed=8)
    hub.look(500)
    assert len(hub.rows("drift_scores")) == 6
    hub.window("d0", bundle, images=images(50, seed=9, shifted=True), start_ms=hub.now_ms - 3_600_000)
    hub.look(50)
    assert {row["count"] for row in hub.rows("drift_scores")[-6:]} == {600}
    hub.look(200)
    assert len(hub.rows("drift_scores")) == 12, "nothing is left to judge"


def test_the_model_s_confidence_is_judged_beside_the_features(hub: FleetHub) -> None:
    bundle = run(hub)
    for _ in range(10):
        hub.window("d0", bundle, images=images(30, seed=1), confidence=np.full(30, 0.2))
    hub.look()
    assert ("north", "confidence") in drifted(hub)


def test_too_few_requests_are_not_judged(hub: FleetHub) -> None:
    bundle = run(hub)
    hub.window("d0", bundle, images=images(20, seed=1, shifted=True))
    hub.look()
    assert hub.rows("drift_scores") == []
    assert open_alerts(hub) == []


def test_a_damaged_sketch_is_left_out_and_stops_nothing(hub: FleetHub) -> None:
    bundle = run(hub)
    hub.window("d0", bundle, images=images(200, seed=1))
    (row,) = hub.rows("windows")
    payload = row["payload"]
    assert isinstance(payload, bytes)
    at = payload.index(b"kll")  # the first feature's sketch
    broken = payload[: at + 40] + b"\xff" * 40 + payload[at + 80 :]
    with writing(hub.services.engine) as connection:
        connection.execute(update(schema.windows).values(payload=broken))
    hub.look()
    scores = {row["feature"] for row in hub.rows("drift_scores")}
    assert len(scores) == 1


def test_a_bundle_without_its_reference_is_judged_once_that_is_back(hub: FleetHub) -> None:
    bundle = run(hub)
    traffic(hub, bundle, seed=10)
    folder = hub.services.settings.state_dir / "blobs"
    aside = folder.with_name("aside")
    folder.rename(aside)
    hub.look()
    assert hub.rows("drift_scores") == []
    aside.rename(folder)
    hub.look()
    assert len(hub.rows("drift_scores")) == 6


def test_a_device_that_stays_offline_raises_an_alert_until_it_is_back(hub: FleetHub) -> None:
    hub.connect("d2", online=False)
    hub.look(60)
    assert open_alerts(hub) == []
    hub.look(120)
    (alert,) = open_alerts(hub)
    assert (alert["rule"], alert["device"], alert["site"]) == ("device_offline", "d2", "east")
    hub.connect("d2")
    hub.look()
    assert open_alerts(hub) == []


def test_a_revoked_device_is_not_offline_but_gone(hub: FleetHub) -> None:
    hub.connect("d2", online=False)
    hub.look(200)
    assert open_alerts(hub)
    hub.revoke("d2")
    hub.look()
    assert open_alerts(hub) == []
