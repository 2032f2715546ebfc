"""Asking an operator before something that matters is done."""

from __future__ import annotations

import logging
from collections.abc import Callable

from nicegui import run, ui

from edgeops.errors import EdgeopsError

logger = logging.getLogger(__name__)

MAX_REASON_CHARS = 200


class Question:
    """A question in a dialog, built once with its page, so that the keyboard's focus returns to the button
    that asked."""

    def __init__(self, text: str, verb: str, *, reason: bool = False) -> None:
        with ui.dialog().props('aria-label="Confirm"') as self._dialog, ui.card().classes("eo-ask"):
            ui.label(text).classes("eo-question")
            self._reason = ui.input("Reason, for the log (may be left out)")
            self._reason.props(f"outlined dense maxlength={MAX_REASON_CHARS}").classes("w-full")
            self._reason.set_visibility(reason)
            with ui.element("div").classes("eo-actions"):
                cancel = ui.button("Cancel", on_click=lambda: self._dialog.submit(False))
                cancel.props("flat no-caps autofocus")
                agree = ui.button(verb, on_click=lambda: self._dialog.submit(True))
                agree.props("unelevated no-caps color=negative")

    async def ask(self) -> str | None:
        """The reason that was typed (empty if none), or None when the operator thought better of it (Cancel,
        Escape)."""
        self._reason.set_value("")
        agreed = await self._dialog
        return str(self._reason.value or "").strip() if agreed else None


async def perform(act: Callable[[], None]) -> None:
    """Does what an operator asked for, beside the event loop. What goes wrong is said on the page."""
    try:
        await run.io_bound(act)
    except EdgeopsError as error:
        ui.notify(str(error), type="negative")
    except Exception:  # whatever it is, the operator must learn that it was not done
        logger.exception("What an operator asked for on the dashboard failed.")
        ui.notify("It was not done: the hub met an unexpected error. Its log says why.", type="negative")
