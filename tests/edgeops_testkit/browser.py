"""Chromium for tests: pages that remember every problem the browser had with them."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from playwright.sync_api import Browser, Page, Playwright

CHROMIUM = "/usr/bin/chromium"
WIDE, NARROW = 1280, 390
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def launch(playwright: Playwright) -> Browser:
    """The system's Chromium, without a window."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))


def login_address(url: str, token: str) -> str:
    """An address that signs in once, made with the operator's token."""
    request = urllib.request.Request(
        f"{url}/api/v1/login-codes",
        data=b"{}",
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return f"{url}/login?code={json.loads(response.read())['code']}"


@dataclass
class Viewer:
    """Someone signed in at a dashboard. `problems`: console errors, page errors, requests that failed or
    were refused."""

    url: str
    page: Page
    problems: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Begins to remember problems."""
        self.page.on(
            "console",
            lambda said: self.problems.append(f"console: {said.text}") if said.type == "error" else None,
        )
        self.page.on("pageerror", lambda error: self.problems.append(f"page: {error}"))
        self.page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url}"))
        self.page.on(
            "response",
            lambda answer: (
                self.problems.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None
            ),
        )

    def open(self, path: str) -> Page:
        """Opens a page and waits until it has shown the hub's state (or that it cannot)."""
        self.page.goto(f"{self.url}{path}")
        self.page.wait_for_selector(".eo-dot.ok, .eo-dot.bad", timeout=20_000)
        return self.page

    def size(self, width: int) -> None:
        """Makes the window as wide as a desk's or a phone's."""
        self.page.set_viewport_size({"width": width, "height": 844 if width == NARROW else 900})


@contextmanager
def signed_in(
    browser: Browser, url: str, token: str, *, width: int = WIDE, scheme: Literal["light", "dark"] = "light"
) -> Iterator[Viewer]:
    """A viewer in a context of its own."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    # So that the first page is not left while it loads: that would look like failed requests.
    page.goto(login_address(url, token))
    page.wait_for_selector(".eo-dot.ok, .eo-dot.bad", timeout=20_000)
    viewer = Viewer(url, page)
    viewer.watch()
    try:
        yield viewer
    finally:
        context.close()
