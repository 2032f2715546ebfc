"""What every page shares: the bar with navigation and the live mark, the style, and the refreshing."""

from __future__ import annotations

import html
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from nicegui import ui
from starlette.concurrency import run_in_threadpool

from cloud_hub.dashboard import words
from cloud_hub.dashboard.parts import Markup, empty_markup
from cloud_hub.dashboard.pulse import Pulse
from cloud_hub.dashboard.visit import Visit
from edgeops.clock import now_ms
from edgeops.errors import NotFoundError, UnauthenticatedError

logger = logging.getLogger(__name__)
T = TypeVar("T")

REFRESH_S = 1.0
# Every so many refreshes a page asks whether its session still lasts.
_SESSION_EVERY = 10
PAGES = (("/", "Fleet"), ("/rollouts", "Rollouts"), ("/drift", "Drift"), ("/alerts", "Alerts"))
_HERE = Path(__file__).parent
_STYLE = (_HERE / "style.css").read_text()
_SCRIPT = (_HERE / "page.js").read_text()


class Frame:
    """A page's surroundings. Use `with frame.main:` to fill it and `frame.keep_fresh` to keep it live."""

    def __init__(self, current: str, title: str, visit: Visit) -> None:
        self._visit = visit
        ui.add_css(_STYLE)
        ui.add_head_html(f"<script>{_SCRIPT}</script>")
        ui.page_title(f"{title} · edgeops")
        ui.html('<a class="eo-skip" href="#main">Skip to the content</a>', sanitize=False)
        with ui.element("header").classes("eo-bar"):
            ui.link("edgeops", "/").classes("eo-brand").props('aria-label="edgeops: the fleet"')
            with ui.element("nav").classes("eo-nav").props('aria-label="Pages"'):
                self._badges = {path: self._link(path, name, current) for path, name in PAGES}
            with ui.element("div").classes("eo-live"):
                self._dot = ui.element("span").classes("eo-dot")
                self._live = ui.label("connecting").props("data-testid=live")
            ui.html(
                '<form method="post" action="/logout"><button class="eo-quiet">Sign out</button></form>',
                sanitize=False,
            )
        self._main = ui.element("main").classes("eo-main").props("id=main tabindex=-1")
        with self._main:
            self._error = Markup(testid="error")
            self._missing = Markup()
            self._body = ui.element("div").classes("eo-body")

    @property
    def main(self) -> AbstractContextManager[object]:
        """Where the page's own parts go."""
        return self._body

    def keep_fresh(
        self,
        load: Callable[[], Awaitable[T]],
        show: Callable[[T], None],
        show_pulse: Callable[[Pulse], None] = lambda pulse: None,
    ) -> None:
        """Loads and shows now and every `REFRESH_S` while the page is open. What fails is said on the page,
        with the time of the last good look; the figures of that look stay."""
        last_good_ms: int | None = None
        turns = 0

        async def refresh() -> None:
            nonlocal last_good_ms, turns
            turns += 1
            try:
                if turns % _SESSION_EVERY == 0:
                    await run_in_threadpool(self._visit.actor)
                pulse = await self._visit.pulse.get()
                view = await load()
            except UnauthenticatedError:
                ui.navigate.to("/login")
                return
            except NotFoundError as error:
                self._body.set_visibility(False)
                self._missing.show(empty_markup(error.message, error.remedy or ""))
                self._mark("ok", "live")
                return
            except Exception:  # whatever it is, the page must say so and try again
                logger.exception("The dashboard could not read the hub's state.")
                since = f"is from {words.clock(last_good_ms)} UTC" if last_good_ms else "is nothing yet"
                self._error.show(
                    '<div class="eo-error" role="alert">The hub&rsquo;s database does not answer; what is shown '
                    f"{since}. It is tried again every second; the hub&rsquo;s log says why.</div>"
                )
                self._mark("bad", "not live")
                return
            last_good_ms = now_ms()
            self._error.show("")
            self._show_badges(pulse)
            show_pulse(pulse)
            show(view)
            self._mark("ok", f"live · {words.clock(last_good_ms)} UTC")

        ui.timer(REFRESH_S, refresh)

    @staticmethod
    def _link(path: str, name: str, current: str) -> Markup:
        with ui.link(target=path) as link:
            ui.html(html.escape(name), sanitize=False, tag="span")
            badge = Markup(tag="span")
        if path == current:
            link.props("aria-current=page")
        return badge

    def _show_badges(self, pulse: Pulse) -> None:
        tone = "bad" if pulse.alerts["critical"] else "warn"
        self._badges["/alerts"].show(_badge(pulse.open_alerts, tone, "open"))
        self._badges["/rollouts"].show(_badge(len(pulse.under_way), "accent", "under way"))

    def _mark(self, tone: str, text: str) -> None:
        self._dot.classes(remove="ok bad", add=tone)
        self._live.set_text(text)


def _badge(count: int, tone: str, meaning: str) -> str:
    if not count:
        return ""
    return f'<span class="eo-badge {tone}">{count}<span class="eo-hidden"> {meaning}</span></span>'
