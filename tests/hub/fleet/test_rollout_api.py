"""The operators' API and command line for rollouts, drift and alerts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from rich.console import Console

from cloud_hub.commands import fleet_tables
from edgeops_testkit.hub_fleet import FleetHub, images

DEVICES = [f"d{number}" for number in range(6)]


def post(api: TestClient, path: str, body: object, status: int) -> Any:
    answer = api.post(f"/api/v1{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def get(api: TestClient, path: str) -> Any:
    answer = api.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def create(api: TestClient, version: str, **fields: object) -> str:
    return str(post(api, "/rollouts", {"model": "digits", "version": version, **fields}, 201)["id"])


def install_first(hub: FleetHub, api: TestClient) -> str:
    rollout_id = create(api, "1.0.0", strategy="all-at-once")
    post(api, f"/rollouts/{rollout_id}/approve", {}, 200)
    hub.tick()
    for name in DEVICES:
        hub.report(name, hub.wanted(name), requests=5)
    hub.tick()
    return rollout_id


def printed(what: Any) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def test_a_rollout_from_draft_to_abort(hub: FleetHub, api: TestClient) -> None:
    install_first(hub, api)
    rollout_id = create(api, "1.1.0", canary_count=2)
    draft = get(api, f"/rollouts/{rollout_id}")
    assert (draft["phase"], draft["devices_moved"], len(draft["canaries"])) == ("draft", 0, 2)
    assert draft["baseline"]["version"] == "1.0.0"
    assert post(api, f"/rollouts/{rollout_id}/approve", None, 200)["phase"] == "approved"
    hub.tick()
    paused = post(api, f"/rollouts/{rollout_id}/pause", {"reason": "stocktaking"}, 200)
    assert paused["phase"] == "paused"
    assert paused["reason"] == "Paused by operator: stocktaking."
    assert post(api, f"/rollouts/{rollout_id}/resume", {}, 200)["phase"] == "canary"
    aborted = post(api, f"/rollouts/{rollout_id}/abort", {"reason": "wrong version"}, 200)
    assert aborted["phase"] == "rolling_back"
    listed = get(api, "/rollouts")["rollouts"]
    assert {each["id"]: each["phase"] for each in listed}[rollout_id] == "rolling_back"


def test_the_status_explains_the_verdict(hub: FleetHub, api: TestClient) -> None:
    install_first(hub, api)
    rollout_id = create(api, "1.1.0", canary_count=2)
    post(api, f"/rollouts/{rollout_id}/approve", {}, 200)
    hub.tick()
    hub.tick()
    first, second = get(api, f"/rollouts/{rollout_id}")["canaries"]
    for name in DEVICES:
        if name != second:
            bundle = hub.wanted(name)
            assert bundle is not None
            hub.report(name, bundle, requests=5)
            hub.window(name, bundle, requests=40, wrong=2)
    hub.tick()
    status = get(api, f"/rollouts/{rollout_id}")
    verdict = status["verdict"]
    assert verdict["decision"] == "hold"
    assert f"{second} to run the candidate and to serve from it" in verdict["missing"]
    assert f"10 more requests on {first}" in verdict["missing"]
    errors, labels = verdict["figures"]
    assert (errors["canary_n"], errors["baseline_n"]) == (40, 160)
    assert (labels["canary_bad"], labels["baseline_bad"]) == (2, 8)
    assert {each["name"]: each["status"] for each in status["devices"] if each["canary"]} == {
        first: "updated",
        second: "waiting",
    }
    assert [each["status"] for each in status["devices"] if not each["canary"]] == ["untouched"] * 4
    text = printed(fleet_tables.status_view(status))
    assert "Verdict: hold" in text
    assert f"Waits for {second} to run the candidate" in text
    assert "2 of 40 (5.0%)" in text
    assert [entry["kind"] for entry in status["log"]].count("look") == 1


def test_an_operator_may_promote_and_the_log_says_so(hub: FleetHub, api: TestClient) -> None:
    install_first(hub, api)
    rollout_id = create(api, "1.1.0", canary_count=2)
    post(api, f"/rollouts/{rollout_id}/approve", {}, 200)
    hub.tick()
    promoted = post(api, f"/rollouts/{rollout_id}/promote", {}, 200)
    assert promoted["phase"] == "rolling_out"
    assert promoted["reason"] == "Promoted by operator."
    assert promoted["devices_moved"] == 6
    assert {row["action"] for row in hub.rows("audit")} >= {"rollout.promote"}


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"version": "9.9.9"}, 404, "not_found"),
        ({"cohort": {"labels": {"site": "nowhere"}}}, 404, "not_found"),
        ({"cohort": {"devices": ["d99"]}}, 404, "not_found"),
        ({"canary_count": 6}, 409, "conflict"),
        ({"canary_count": 0}, 400, "bad_request"),
        ({"criteria": {"alpha": 0}}, 400, "bad_request"),
        ({"criteria": {"alpha": "very small"}}, 400, "bad_request"),
        ({"criteria": {"threshold": 0.1}}, 400, "bad_request"),
        ({"strategy": "all-at-once", "canary_count": 1}, 400, "bad_request"),
        ({"canary_deadline_s": 1e12}, 400, "bad_request"),
        ({"model": "../etc"}, 400, "bad_request"),
    ],
)
def test_bad_requests_are_refused_and_nothing_is_written(
    hub: FleetHub, api: TestClient, fields: dict[str, object], status: int, kind: str
) -> None:
    install_first(hub, api)
    answer = post(api, "/rollouts", {"model": "digits", "version": "1.1.0", **fields}, status)
    assert answer["error"]["kind"] == kind
    assert answer["error"]["message"]
    assert len(hub.rows("rollouts")) == 1


def test_a_canary_on_an_empty_fleet_says_what_to_do(hub: FleetHub, api: TestClient) -> None:
    answer = post(api, "/rollouts", {"model": "digits", "version": "1.0.0"}, 409)
    assert "--strategy all-at-once" in answer["error"]["remedy"]


def test_a_verb_at_the_wrong_time_is_a_conflict_and_changes_nothing(hub: FleetHub, api: TestClient) -> None:
    rollout_id = install_first(hub, api)
    before = hub.rows("rollouts"), hub.rows("audit")
    for verb in ("approve", "pause", "resume", "promote", "abort"):
        answer = post(api, f"/rollouts/{rollout_id}/{verb}", {}, 409)
        assert answer["error"]["kind"] == "illegal_transition"
    assert (hub.rows("rollouts"), hub.rows("audit")) == before
    post(api, "/rollouts/r-none/abort", {}, 404)


def test_nobody_without_the_token_may_read_or_act(hub: FleetHub, api: TestClient) -> None:
    rollout_id = install_first(hub, api)
    for method, path in [
        ("GET", "/rollouts"),
        ("POST", "/rollouts"),
        ("GET", f"/rollouts/{rollout_id}"),
        ("POST", f"/rollouts/{rollout_id}/abort"),
        ("GET", "/drift"),
        ("GET", "/alerts"),
    ]:
        answer = api.request(method, f"/api/v1{path}", headers={"Authorization": "Bearer wrong"}, json={})
        assert answer.status_code == 401, path


def test_only_a_rollout_of_the_whole_fleet_moves_the_alias_by_itself(hub: FleetHub, api: TestClient) -> None:
    install_first(hub, api)
    specs = [
        get(api, f"/rollouts/{create(api, '1.1.0', canary_count=1, **fields)}")["spec"]["alias"]
        for fields in ({}, {"cohort": {"labels": {"site": "north"}}}, {"alias": "none"}, {"alias": "staging"})
    ]
    assert specs == ["prod", None, None, "staging"]


def test_drift_and_alerts_are_answered_and_printed(hub: FleetHub, api: TestClient) -> None:
    assert get(api, "/drift") == {"at_ms": None, "scores": []}
    install_first(hub, api)
    for name in DEVICES:
        for seed in range(4):
            pictures = images(60, seed=seed, shifted=name in ("d0", "d3"))
            hub.window(name, hub.bundles["1.0.0"], requests=60, images=pictures)
    hub.look_again_and_again()
    drift = get(api, "/drift")
    assert drift["at_ms"] == hub.now_ms
    assert {each["site"] for each in drift["scores"] if each["drifted"]} == {"north"}
    alerts = get(api, "/alerts")["alerts"]
    assert {each["feature"] for each in alerts} == {"mean", "std"}
    assert "drifted" in printed(fleet_tables.drift_table(drift))
    assert "digits 1.0.0 at north has drifted" in printed(fleet_tables.alerts_table(alerts))
    assert "d0" in printed(fleet_tables.devices_table(get(api, "/devices")["devices"]))
    assert "1.0.0" in printed(fleet_tables.rollouts_table(get(api, "/rollouts")["rollouts"]))


def test_answers_are_plain_json(hub: FleetHub, api: TestClient) -> None:
    rollout_id = install_first(hub, api)
    text = api.get(f"/api/v1/rollouts/{rollout_id}").text
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["phase"] == "completed"
