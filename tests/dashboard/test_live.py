"""A real fleet in a browser: the canary moves, the evidence grows, the roll back comes, without a reload."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from edgeops_testkit.browser import Viewer, signed_in
from edgeops_testkit.bundles import Quality, make_bundle
from edgeops_testkit.labelled_traffic import LabelledTraffic
from edgeops_testkit.system import System
from edgeops_testkit.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.browser]
DEVICES = {"berlin-1": "berlin", "berlin-2": "berlin", "oslo-1": "oslo", "oslo-2": "oslo"}
MOVED_MS = 90_000


@pytest.fixture(scope="module")
def traffic() -> list[LabelledTraffic]:
    """What applications send to the devices."""
    return []


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, traffic: list[LabelledTraffic]) -> Iterator[System]:
    """A hub with four devices that run 1.0.0 and have labelled traffic."""
    started = System(tmp_path_factory.mktemp("live"))
    try:
        started.start_hub()
        for name, site in DEVICES.items():
            started.add_agent(name, site=site).daemon.start()
        wait_until(lambda: all(d["online"] for d in devices(started)), 60, "all devices to be online")
        publish(started, "1.0.0")
        first = roll_out(started, "1.0.0", strategy="all-at-once")
        wait_until(lambda: all(d["running"] for d in devices(started)), 60, "all devices to run 1.0.0")
        for seed, agent in enumerate(started.agents.values()):
            traffic.append(LabelledTraffic(agent, seed=seed))
            traffic[-1].start()
        wait_until(
            lambda: started.api(f"/api/v1/rollouts/{first}")["phase"] == "completed", 60, "the first install"
        )
        yield started
    finally:
        for each in traffic:
            each.finish()
        started.stop()


@pytest.fixture
def viewer(system: System, browser: Browser) -> Iterator[Viewer]:
    with signed_in(browser, system.url, system.token) as signed:
        yield signed
    assert signed.problems == []


def devices(system: System) -> list[dict[str, object]]:
    found: list[dict[str, object]] = system.api("/api/v1/devices")["devices"]
    return found if len(found) == len(DEVICES) else [{"online": False, "running": None}]


def publish(system: System, version: str, quality: Quality = "good") -> None:
    """Builds a version and publishes it."""
    key = system.builder.with_suffix(".key")
    path = make_bundle(system.root / "built", version=version, key=key, quality=quality)
    assert json.loads(system.cli("publish", str(path), "--json").splitlines()[-1])["version"] == version


def roll_out(system: System, version: str, **fields: object) -> str:
    """Writes down a rollout and approves it."""
    identity = draft(system, version, **fields)
    system.api(f"/api/v1/rollouts/{identity}/approve", {})
    return identity


def draft(system: System, version: str, **fields: object) -> str:
    return str(system.api("/api/v1/rollouts", {"model": "digits", "version": version, **fields})["id"])


def approve_and_watch(system: System, viewer: Viewer, rollout: str) -> tuple[Page, list[str]]:
    """Opens a draft's page, approves it there, and returns the page with the canaries' names."""
    page = viewer.open(f"/rollouts/{rollout}")
    page.evaluate("window.kept = 'not reloaded'")
    expect(page.get_by_test_id("phase")).to_have_text("draft")
    expect(page.locator('[data-status="untouched"]')).to_have_count(len(DEVICES))
    page.get_by_role("button", name="Approve").click()
    canaries = system.api(f"/api/v1/rollouts/{rollout}")["canaries"]
    assert len(canaries) == 1
    return page, canaries


def test_a_good_candidate_is_seen_to_move_and_to_be_promoted(system: System, viewer: Viewer) -> None:
    publish(system, "1.1.0")
    # A wide margin: how long it takes to be sure is for the statistics' own tests.
    rollout = draft(system, "1.1.0", canary_count=1, criteria={"accuracy_margin": 0.05})
    page, [canary] = approve_and_watch(system, viewer, rollout)
    shown = page.locator(f'[data-device="{canary}"]')
    expect(shown).to_have_attribute("data-status", "updated", timeout=MOVED_MS)
    expect(shown).to_have_class("eo-device candidate")
    verdict = page.get_by_test_id("verdict")
    expect(verdict).to_contain_text("wrong labels", timeout=MOVED_MS)
    seen = set()
    wait_until(lambda: len(seen) > 3 or seen.add(verdict.inner_text()), 60, "the verdict's figures to grow")
    expect(page.get_by_test_id("phase")).to_have_text("completed", timeout=MOVED_MS)
    expect(page.locator('[data-status="updated"]')).to_have_count(len(DEVICES))
    expect(verdict).to_contain_text("promote")
    expect(page.get_by_role("img", name="Evidence of the canary over time")).to_be_visible()
    expect(page.get_by_test_id("log")).to_contain_text("rolling out")
    assert page.evaluate("window.kept") == "not reloaded"
    # What the page says is what the devices do.
    assert {d["running"]["version"] for d in devices(system)} == {"1.1.0"}  # type: ignore[index]


def test_a_bad_candidate_is_seen_to_be_rolled_back(system: System, viewer: Viewer) -> None:
    before = {d["name"]: d["running"]["digest"] for d in devices(system)}  # type: ignore[index]
    publish(system, "1.2.0", "bad")
    # Very sure before it aborts: else all may be over between two looks of the page, a second apart.
    rollout = draft(system, "1.2.0", canary_count=1, criteria={"alpha": 1e-9})
    page, [canary] = approve_and_watch(system, viewer, rollout)
    shown = page.locator(f'[data-device="{canary}"]')
    expect(shown).to_have_class("eo-device candidate", timeout=MOVED_MS)
    expect(page.get_by_test_id("phase")).to_have_text("aborted", timeout=MOVED_MS)
    expect(shown).to_have_attribute("data-status", "returned")
    expect(shown).to_have_class("eo-device returned")
    expect(page.locator('[data-status="untouched"]')).to_have_count(len(DEVICES) - 1)
    expect(page.get_by_test_id("reason")).to_contain_text("more wrong labels than the baseline")
    expect(page.get_by_test_id("verdict")).to_contain_text("abort")
    expect(page.get_by_test_id("steps")).to_contain_text("rolling back")
    expect(page.get_by_role("link", name="Alerts")).to_contain_text("open")
    assert page.evaluate("window.kept") == "not reloaded"
    assert {d["name"]: d["running"]["digest"] for d in devices(system)} == before  # type: ignore[index]
    expect(viewer.open("/alerts").get_by_test_id("open-alerts")).to_contain_text(f"Rollout {rollout}")


def test_an_operator_aborts_in_the_browser(system: System, viewer: Viewer) -> None:
    publish(system, "1.3.0")
    rollout = draft(system, "1.3.0", canary_count=1, criteria={"min_requests": 1_000_000})
    page, [canary] = approve_and_watch(system, viewer, rollout)
    expect(page.locator(f'[data-device="{canary}"]')).to_have_class("eo-device candidate", timeout=MOVED_MS)
    page.get_by_role("button", name="Abort").click()
    page.get_by_label("Reason, for the log").fill("the night shift wants quiet")
    page.locator(".q-dialog").get_by_role("button", name="Abort").click()
    expect(page.get_by_test_id("phase")).to_have_text("aborted", timeout=MOVED_MS)
    expect(page.get_by_test_id("reason")).to_contain_text("Aborted by operator: the night shift wants quiet.")
    assert page.evaluate("window.kept") == "not reloaded"


def test_the_fleet_page_follows_a_device_that_goes_and_comes(
    system: System, viewer: Viewer, traffic: list[LabelledTraffic]
) -> None:
    assert [each.failures for each in traffic] == [[]] * len(DEVICES), "no switch cost an answer"
    page = viewer.open("/")
    online = page.locator(".eo-tile", has_text="Online").locator(".v")
    expect(online).to_have_text("4 / 4")
    expect(page.locator(".eo-tile", has_text="Accuracy").locator(".v")).to_contain_text("%")
    expect(page.get_by_role("img", name="Requests per second by version over ten minutes")).to_be_visible()
    agent = system.agents["oslo-2"]
    agent.daemon.stop()
    expect(online).to_have_text("3 / 4", timeout=MOVED_MS)
    row = page.get_by_test_id("devices").locator("tr", has_text="oslo-2")
    expect(row).to_contain_text("offline")
    agent.daemon.start()
    expect(online).to_have_text("4 / 4", timeout=MOVED_MS)


def test_a_device_is_revoked_in_the_browser(system: System, viewer: Viewer) -> None:
    page = viewer.open("/devices/berlin-2")
    expect(page.get_by_test_id("link")).to_have_text("online")
    page.get_by_role("button", name="Revoke").click()
    page.locator(".q-dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_test_id("link")).to_have_text("revoked")
    expect(page.get_by_role("button", name="Revoke")).to_be_hidden()
    assert system.device("berlin-2")["revoked"] is True
    expect(page.get_by_role("table", name="Newest windows").locator("tbody tr")).to_have_count(20)
