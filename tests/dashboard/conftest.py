"""A browser, and a hub with something of everything on its pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from edgeops_testkit.browser import launch
from edgeops_testkit.dashboard_hub import DashboardHub, dashboard_hub


# By module: while playwright runs, its event loop counts as running for every test of this process.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = launch(playwright)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardHub]:
    """A hub without anything in it, whose api role runs as a process."""
    with dashboard_hub(tmp_path_factory.mktemp("hub")) as started:
        yield started
