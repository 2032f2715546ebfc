"""Asking an operator before something that matters is done."""

from __future__ import annotations

from nicegui import ui

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
