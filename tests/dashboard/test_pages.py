"""Every page in a browser: empty, filled, with hostile names, broken, by keyboard, and at two widths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from edgeops_testkit.browser import NARROW, WIDE, Viewer, signed_in
from edgeops_testkit.dashboard_hub import HOSTILE, LONG, DashboardHub, dashboard_hub

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardHub]:
    """The hub with something of everything on its pages."""
    root = tmp_path_factory.mktemp("full")
    with dashboard_hub(root) as started:
        started.fill(root)
        yield started


@pytest.fixture(scope="module")
def viewer(hub: DashboardHub, browser: Browser) -> Iterator[Viewer]:
    with signed_in(browser, hub.url, hub.token) as signed:
        yield signed


@pytest.fixture(autouse=True)
def _clean(viewer: Viewer) -> Iterator[None]:
    """Each test begins in a wide window, and ends without a problem in the browser."""
    viewer.size(WIDE)
    viewer.problems.clear()
    yield
    assert viewer.problems == []


def pages(hub: DashboardHub) -> tuple[str, ...]:
    """Every page there is."""
    one = f"/rollouts/{hub.rollout_id}"
    return ("/", "/rollouts", one, f"/devices/{LONG}", "/devices/d3", "/drift", "/alerts", "/devices/nobody")


def test_empty_states_say_what_brings_something(tmp_path: Path, browser: Browser) -> None:
    with dashboard_hub(tmp_path) as empty, signed_in(browser, empty.url, empty.token) as viewer:
        page = viewer.open("/")
        for text in ("No devices yet", "edgeops hub token --site lab", "No traffic", "Nothing runs"):
            expect(page.get_by_text(text, exact=True)).to_be_visible()
        expect(page.get_by_test_id("devices")).to_be_hidden()
        expect(page.locator(".eo-tile", has_text="Error rate").locator(".v")).to_have_text("–")
        expect(viewer.open("/rollouts").get_by_text("No rollouts yet")).to_be_visible()
        expect(viewer.open("/drift").get_by_text("Nothing judged yet")).to_be_visible()
        expect(viewer.open("/alerts").get_by_text("All quiet")).to_be_visible()
        assert viewer.problems == []


def test_the_fleet_page_counts_what_runs_and_finds_who_needs_attention(
    hub: DashboardHub, viewer: Viewer
) -> None:
    page = viewer.open("/")
    expect(page.locator(".eo-tile", has_text="Online").locator(".v")).to_have_text("4 / 5")
    expect(page.get_by_test_id("versions")).to_contain_text("digits 1.0.0")
    expect(page.get_by_test_id("under-way")).to_contain_text("digits 1.1.0")
    rows = page.get_by_test_id("devices").locator("tr")
    expect(rows).to_have_count(5)
    page.get_by_role("button", name="need attention").click()
    # d2 is offline; d3 refused what it should run.
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("The self-test failed.")
    page.get_by_role("button", name="all", exact=False).first.click()
    page.get_by_label("Search devices").fill("south d3")
    expect(rows).to_have_count(1)
    page.get_by_label("Search devices").fill("")
    page.get_by_role("button", name="Device").click()
    expect(rows.first).to_contain_text(LONG)
    expect(page.get_by_role("columnheader", name="Device")).to_have_attribute("aria-sort", "descending")


def test_a_device_page_shows_both_sides_of_the_twin_and_why_an_update_failed(
    hub: DashboardHub, viewer: Viewer
) -> None:
    page = viewer.open("/")
    page.get_by_role("link", name="d3").click()
    expect(page.get_by_test_id("failure")).to_contain_text("The self-test failed.")
    expect(page.get_by_text("What the hub wants")).to_be_visible()
    expect(page.locator(".eo-facts").nth(1)).to_contain_text("digits 1.0.0")
    expect(page.locator(".eo-tile", has_text="Windows").locator(".v")).to_have_text("1")
    expect(page.get_by_role("table", name="Newest windows").locator("tbody tr")).to_have_count(1)


def test_drift_names_feature_and_site(hub: DashboardHub, viewer: Viewer) -> None:
    page = viewer.open("/drift")
    heat = page.get_by_test_id("heat")
    expect(heat.locator(".eo-cell.drift")).to_have_count(2)
    cell = heat.locator(".eo-cell.drift").first
    cell.hover()
    expect(page.get_by_role("tooltip")).to_contain_text("threshold")
    expect(viewer.open("/alerts").get_by_test_id("open-alerts")).to_contain_text("south")


def test_what_does_not_exist_is_said_with_what_to_do(viewer: Viewer) -> None:
    page = viewer.open("/devices/nobody")
    expect(page.get_by_text("There is no device nobody.")).to_be_visible()
    expect(page.get_by_text("edgeops fleet devices lists them.")).to_be_visible()
    expect(page.get_by_text("What the hub wants")).to_be_hidden()


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_no_page_is_wider_than_the_window(hub: DashboardHub, viewer: Viewer, width: int) -> None:
    viewer.size(width)
    for path in pages(hub):
        page = viewer.open(path)
        assert page.evaluate("document.documentElement.clientWidth") == width
        assert page.evaluate("document.documentElement.scrollWidth") == width, path
        clipped = page.evaluate(_OUTSIDE)
        assert clipped == [], f"{path} has text outside of the window"


# Visible elements with text of their own whose box leaves the window, unless what they are in scrolls.
_OUTSIDE = """() => [...document.querySelectorAll('main *')].filter(each => {
  const box = each.getBoundingClientRect();
  const text = [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  const leaves = box.right > innerWidth + 1 || box.left < -1;
  return text && box.width > 1 && leaves && !each.closest('.eo-scroll');
}).map(each => each.outerHTML.slice(0, 120))"""


def test_explanations_stay_within_a_narrow_window(hub: DashboardHub, viewer: Viewer) -> None:
    viewer.size(NARROW)
    page = viewer.open("/")
    for tip in page.locator("main [data-tip]:visible").all()[:20]:
        tip.hover()
        box = page.get_by_role("tooltip").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= NARROW
        assert 0 <= box["y"] <= 844 - box["height"]


def test_every_figure_is_explained(hub: DashboardHub, viewer: Viewer) -> None:
    page = viewer.open("/")
    assert page.locator(".eo-tile").count() == page.locator(".eo-tile [data-tip]").count() == 8
    for path in (*pages(hub)[:-1],):
        viewer.open(path)
        heads = page.locator("table.eo-table.stack th:visible")
        explained = page.locator("table.eo-table.stack th:visible:has([data-tip])")
        assert heads.count() == explained.count(), path


def test_hostile_text_is_shown_as_text(hub: DashboardHub, viewer: Viewer) -> None:
    hub.execute(
        "UPDATE devices SET site = :site, labels_json = :labels WHERE name = 'd0'",
        site=HOSTILE,
        labels='{"site": "<script>document.title=1</script>"}',
    )
    hub.alert("hostile", HOSTILE)
    hub.execute(
        "INSERT INTO events (device, session, sequence, at_ms, received_ms, kind, detail_json) "
        "VALUES ('d0', 9, 1, 1, 1, :kind, '{\"why\": \"<img src=x onerror=alert(1)>\"}')",
        kind="<b>kind</b>",
    )
    for path, place in (
        ("/", "devices"),
        ("/alerts", "open-alerts"),
    ):
        expect(viewer.open(path).get_by_test_id(place)).to_contain_text(HOSTILE)
    page = viewer.open("/devices/d0")
    expect(page.get_by_role("heading", level=1)).to_contain_text(HOSTILE)
    expect(page.get_by_text("<img src=x onerror=alert(1)>")).to_be_visible()
    expect(page).to_have_title("Device d0 · edgeops")
    assert page.locator("main script, main img").count() == 0


def test_an_operators_reason_is_text_too(hub: DashboardHub, viewer: Viewer) -> None:
    page = viewer.open(f"/rollouts/{hub.rollout_id}")
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Reason, for the log").fill(HOSTILE)
    page.locator(".q-dialog").get_by_role("button", name="Pause").click()
    expect(page.get_by_test_id("phase")).to_have_text("paused")
    expect(page.get_by_test_id("reason")).to_contain_text(HOSTILE)
    expect(page.get_by_test_id("log")).to_contain_text(HOSTILE)
    assert page.locator("main script, main img").count() == 0
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_test_id("phase")).to_have_text("canary")
    assert hub.rollout()["phase"] == "canary"


def test_an_unreadable_database_is_said_and_goes_away_when_repaired(
    hub: DashboardHub, viewer: Viewer
) -> None:
    page = viewer.open("/")
    page.evaluate("window.kept = true")
    with hub.broken("windows"):
        expect(page.get_by_role("alert")).to_contain_text("database does not answer")
        expect(page.get_by_test_id("live")).to_have_text("not live")
        # The last good figures stay.
        expect(page.get_by_test_id("devices").locator("tr")).to_have_count(5)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_test_id("live")).to_contain_text("live · ")
    assert page.evaluate("window.kept") is True


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.textContent"))


def test_by_keyboard_alone(hub: DashboardHub, viewer: Viewer) -> None:
    page = viewer.open(f"/rollouts/{hub.rollout_id}")
    reached = []
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.append(focused(page))
        if reached[-1] == "Abort":
            break
    assert reached[:2] == ["Skip to the content", "edgeops"]
    wanted = ["Fleet", "Drift", "Sign out", "Promote", "Pause", "Abort"]
    assert [name for name in reached if name in wanted] == wanted
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("return to what they ran before")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("button", name="Abort")).to_be_focused()
    assert hub.rollout()["phase"] == "canary", "Escape did nothing"
    while focused(page) != "Devices":
        page.keyboard.press("Tab")
    expect(page.get_by_role("tooltip")).to_contain_text("counts as updated")
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "eo-tooltip"
    page.keyboard.press("Escape")
    expect(page.get_by_role("tooltip")).to_be_hidden()


def test_the_focus_survives_what_is_live(hub: DashboardHub, viewer: Viewer) -> None:
    page = viewer.open("/")
    page.get_by_role("link", name="d2").focus()
    before = page.get_by_test_id("devices").inner_html()
    hub.fleet.report("d0", hub.fleet.bundles["1.0.0"], requests=77_777)
    expect(page.get_by_test_id("devices")).to_contain_text("77,777")
    assert page.get_by_test_id("devices").inner_html() != before
    expect(page.get_by_role("link", name="d2")).to_be_focused()


def test_an_open_page_ends_with_its_session(hub: DashboardHub, browser: Browser) -> None:
    with signed_in(browser, hub.url, hub.token) as leaver:
        page = leaver.open(f"/rollouts/{hub.rollout_id}")
        page.get_by_role("button", name="Abort").click()
        # As if it was signed out elsewhere: this page's socket is still open.
        newest = "(SELECT max(created_at_ms) FROM login_sessions)"
        hub.execute(f"DELETE FROM login_sessions WHERE created_at_ms = {newest}")
        page.locator(".q-dialog").get_by_role("button", name="Abort").click()
        expect(page.get_by_text("Your session has ended. Sign in again.")).to_be_visible()
        assert hub.rollout()["phase"] == "canary"
        expect(page.get_by_label("Operator's token")).to_be_visible(timeout=20_000)
        assert leaver.problems == []


def test_what_fails_is_said(hub: DashboardHub, viewer: Viewer) -> None:
    page = viewer.open(f"/rollouts/{hub.rollout_id}")
    page.get_by_role("button", name="Abort").click()
    with hub.broken("audit"):
        page.locator(".q-dialog").get_by_role("button", name="Abort").click()
        expect(page.get_by_text("It was not done")).to_be_visible()
    assert hub.rollout()["phase"] == "canary"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(hub: DashboardHub, browser: Browser, scheme: str) -> None:
    with signed_in(browser, hub.url, hub.token, scheme="dark" if scheme == "dark" else "light") as viewer:
        for path in pages(hub)[:-1]:
            page = viewer.open(path)
            assert page.evaluate(_FAINT) == [], path


# Text whose contrast to what is behind it is below 4.5 (WCAG 2.2, 1.4.3), disabled controls left out.
_FAINT = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = colour => [.2126, .7152, .0722].reduce((sum, w, i) => sum + w * linear(colour[i] / 255), 0);
  const behind = node => { for (; node; node = node.parentElement) {
    const colour = parse(getComputedStyle(node).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour; } return [255, 255, 255]; };
  const shown = each => each.checkVisibility({visibilityProperty: true})
    && !each.closest('[disabled], #popup, svg, script, style');
  return [...document.querySelectorAll('body *')].filter(each => {
    const own = [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !shown(each)) return false;
    const pair = [light(parse(getComputedStyle(each).color)), light(behind(each))].sort((x, y) => y - x);
    return (pair[0] + .05) / (pair[1] + .05) < 4.5;
  }).map(each => each.outerHTML.slice(0, 140));
}"""
