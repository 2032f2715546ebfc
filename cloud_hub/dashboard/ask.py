"""Asking an operator before something that matters is done."""

from __future__ import annotations

from nicegui import ui

MAX_REASON_CHARS = 200


async def ask(question: str, verb: str, *, reason: bool = False) -> str | None:
    """Asks in a dialog. The reason that was typed (empty if none, or none was asked for), or None when the
    operator thought better of it (Cancel, Escape)."""
    with ui.dialog().props('aria-label="Confirm"') as dialog, ui.card().classes("eo-ask"):
        ui.label(question).classes("eo-question")
        typed = (
            ui.input("Reason, for the log (may be left out)")
            .props(f"outlined dense maxlength={MAX_REASON_CHARS}")
            .classes("w-full")
            if reason
            else None
        )
        with ui.element("div").classes("eo-actions"):
            ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat no-caps autofocus")
            ui.button(verb, on_click=lambda: dialog.submit(True)).props("unelevated no-caps color=negative")
    agreed = await dialog
    text = str(typed.value or "").strip() if typed is not None else ""
    dialog.delete()
    return text if agreed else None
