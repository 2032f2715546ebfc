"""What every page shares: the bar with navigation and the live mark, the style, and the refreshing."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from nicegui import ui

from cloud_hub.dashboard import words
from cloud_hub.dashboard.parts import Markup
from edgeops.clock import now_ms

logger = logging.getLogger(__name__)
T = TypeVar("T")

REFRESH_S = 1.0
PAGES = (("/", "Fleet"), ("/rollouts", "Rollouts"), ("/drift", "Drift"), ("/alerts", "Alerts"))
_STYLE = (Path(__file__).parent / "style.css").read_text()


class Frame:
    """A page's surroundings. Use `with frame.main:` to fill it and `frame.keep_fresh` to keep it live."""

    def __init__(self, current: str, title: str) -> None:
        ui.add_css(_STYLE)
        ui.page_title(f"{title} · edgeops")
        with ui.element("header").classes("eo-bar"):
            ui.link("edgeops", "/").classes("eo-brand")
            with ui.element("nav").classes("eo-nav").props('aria-label="Pages"'):
                for path, name in PAGES:
                    link = ui.link(name, path)
                    if path == current:
                        link.props("aria-current=page")
            with ui.element("div").classes("eo-live").props('role="status"'):
                self._dot = ui.element("span").classes("eo-dot")
                self._live = ui.label("connecting")
        self._main = ui.element("main").classes("eo-main")
        with self._main:
            self._error = Markup()

    @property
    def main(self) -> AbstractContextManager[object]:
        """Where the page's own parts go."""
        return self._main

    def keep_fresh(self, load: Callable[[], Awaitable[T]], show: Callable[[T], None]) -> None:
        """Loads and shows now and every `REFRESH_S` while the page is open. What fails is said on the page,
        with the time of the last good look; the figures of that look stay."""
        last_good_ms: int | None = None

        async def refresh() -> None:
            nonlocal last_good_ms
            try:
                view = await load()
            except Exception:  # whatever it is, the page must say so and try again
                logger.exception("The dashboard could not read the hub's state.")
                since = words.clock(last_good_ms) + " UTC" if last_good_ms else "the start"
                self._error.show(
                    '<div class="eo-error" role="alert">The hub&rsquo;s database does not answer; what is shown '
                    f"is from {since}. It is tried again every second; the hub&rsquo;s log says why.</div>"
                )
                self._mark("bad", "not live")
                return
            last_good_ms = now_ms()
            self._error.show("")
            show(view)
            self._mark("ok", f"live · {words.clock(last_good_ms)} UTC")

        ui.timer(REFRESH_S, refresh)

    def _mark(self, tone: str, text: str) -> None:
        self._dot.classes(remove="ok bad", add=tone)
        self._live.set_text(text)
