"""The fleet's devices as a table: searched, filtered, sorted and paged on the hub, so that a page of a large
fleet costs no more than that of a small one."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from nicegui import ui

from cloud_hub.dashboard import device_words, words
from cloud_hub.dashboard.fleet_data import FleetView
from cloud_hub.dashboard.parts import Column, Markup, empty_markup, pill_markup, rows_markup
from cloud_hub.devices import Device

PAGE = 25
# What is longer may be broken.
_LONG = 24
_COLUMNS = (
    Column("Device", "Its name in its certificate. The link leads to all that is known of it."),
    Column("Site", "The label 'site' that its enrolment token gave it."),
    Column("Link", "Whether it is connected to the broker now. An offline device goes on serving."),
    Column("Runs", "The version whose weights it reports as loaded."),
    Column("Should run", "The version that the hub wants it to run; orange while it does not run it."),
    Column("Update", "Where its update machine stands, and what failed last.", wide=True),
    Column("Answered", "Requests answered by the loaded weights since they were loaded.", number=True),
    Column("Telemetry", "When its last window of telemetry came."),
)
_Key = Callable[[Device], Any]
_SORT_KEYS: tuple[_Key, ...] = (
    lambda device: device.name,
    lambda device: device.site,
    device_words.link,
    device_words.running,
    device_words.wanted,
    device_words.update,
    lambda device: device.running.requests if device.running else -1,
    lambda device: device.window_at_ms or 0,
)
_FILTERS: tuple[tuple[str, str, Callable[[Device], bool]], ...] = (
    ("all", "Every device that ever enrolled.", lambda device: True),
    (
        "need attention",
        "Offline, failed to update, or idle on something else than they should run.",
        device_words.needs_attention,
    ),
    (
        "out of sync",
        "Have not loaded just what they should run.",
        lambda device: not device.revoked and not device.in_sync,
    ),
    (
        "offline",
        "Enrolled, not revoked, and not connected.",
        lambda device: not device.revoked and not device.online,
    ),
    ("revoked", "Cut off for good; they have to enrol again.", lambda device: device.revoked),
)


class DeviceTable:
    """The table and its controls. Each viewer has a search, filter, order and page of their own."""

    def __init__(self) -> None:
        self._fleet: FleetView | None = None
        self._filter = 0
        self._sort = 0
        self._descending = False
        self._page = 0
        with ui.element("div").classes("eo-controls") as self._controls:
            self._search = (
                ui.input(placeholder="Search name, site, version, label", on_change=self._from_start)
                .props('outlined dense clearable debounce=200 aria-label="Search devices"')
                .classes("eo-search")
            )
            with ui.element("div").classes("eo-chips").props('role=group aria-label="Filter devices"'):
                self._chips = [self._chip(index) for index in range(len(_FILTERS))]
        with ui.element("div").classes("eo-scroll"):
            self._table = ui.element("table").classes("eo-table stack").props("role=table aria-label=Devices")
            with self._table:
                with ui.element("thead").props("role=rowgroup"), ui.element("tr").props("role=row"):
                    self._heads = [self._head(index) for index in range(len(_COLUMNS))]
                self._body = Markup(tag="tbody", testid="devices")
        self._nothing = Markup()
        with ui.element("div").classes("eo-pager") as self._pager:
            self._range = ui.label("")
            self._back = ui.button("Previous", on_click=lambda: self._turn(-1)).props("flat dense no-caps")
            self._on = ui.button("Next", on_click=lambda: self._turn(1)).props("flat dense no-caps")

    def show(self, fleet: FleetView) -> None:
        """Shows the devices as they are now."""
        self._fleet = fleet
        for part in (self._controls, self._table):
            part.set_visibility(bool(fleet.devices))
        self._pager.set_visibility(bool(fleet.devices))
        if not fleet.devices:
            self._nothing.show(
                empty_markup(
                    "No devices yet",
                    "Make a token on the hub, then enrol a device with it and start its agent:",
                    "edgeops hub token --site lab",
                    "edgeops agent enroll --name NAME --trust builder.pub --token -",
                    "edgeops agent run",
                )
            )
            return
        for (chip, number), (_, _, fits) in zip(self._chips, _FILTERS, strict=True):
            count = sum(map(fits, fleet.devices))
            number.set_text(str(count))
            chip.classes(add="none" if not count else "", remove="none" if count else "")
        found = self._found(fleet)
        self._page = min(self._page, max(0, (len(found) - 1) // PAGE))
        first = self._page * PAGE
        shown = found[first : first + PAGE]
        self._body.show(rows_markup(_COLUMNS, [_row(device, fleet.at_ms) for device in shown]))
        self._nothing.show("" if shown else '<div class="eo-muted eo-none">No device fits.</div>')
        more = "" if fleet.enrolled == len(fleet.devices) else f" (the first of {fleet.enrolled:,} by name)"
        self._range.set_text(f"{first + 1}–{first + len(shown)} of {len(found):,}{more}" if shown else "")
        self._back.set_visibility(len(found) > PAGE)
        self._on.set_visibility(len(found) > PAGE)
        self._back.set_enabled(self._page > 0)
        self._on.set_enabled(first + PAGE < len(found))

    def _found(self, fleet: FleetView) -> list[Device]:
        fits = _FILTERS[self._filter][2]
        wanted = str(self._search.value or "").lower().split()
        found = [
            device
            for device in fleet.devices
            if fits(device) and (not wanted or all(word in _text(device) for word in wanted))
        ]
        return sorted(found, key=_SORT_KEYS[self._sort], reverse=self._descending)

    def _chip(self, index: int) -> tuple[ui.element, ui.label]:
        name, explanation, _ = _FILTERS[index]
        with ui.element("button").classes("eo-chip").on("click", lambda: self._choose(index)) as chip:
            ui.label(name)
            number = ui.label("").classes("n")
        chip.props["data-tip"] = explanation
        chip.props["aria-pressed"] = "true" if index == self._filter else "false"
        return chip, number

    def _head(self, index: int) -> ui.element:
        column = _COLUMNS[index]
        with (
            ui.element("th")
            .props("role=columnheader scope=col")
            .classes("num" if column.number else "") as head,
            ui.element("button").classes("eo-sort").on("click", lambda: self._order(index)) as button,
        ):
            ui.label(column.name)
        button.props["data-tip"] = f"{column.explanation} Press to sort."
        head.props["aria-sort"] = "ascending" if index == self._sort else "none"
        return head

    def _choose(self, index: int) -> None:
        self._filter = index
        for number, (chip, _) in enumerate(self._chips):
            chip.props(f"aria-pressed={'true' if number == index else 'false'}")
        self._from_start()

    def _order(self, index: int) -> None:
        self._descending = not self._descending if index == self._sort else False
        self._sort = index
        direction = "descending" if self._descending else "ascending"
        for number, head in enumerate(self._heads):
            head.props(f"aria-sort={direction if number == index else 'none'}")
        self._from_start()

    def _turn(self, by: int) -> None:
        self._page = max(0, self._page + by)
        self._again()

    def _from_start(self) -> None:
        self._page = 0
        self._again()

    def _again(self) -> None:
        if self._fleet is not None:
            self.show(self._fleet)


def _text(device: Device) -> str:
    parts = [device.name, device.site, device_words.link(device), device_words.running(device)]
    parts += [device_words.wanted(device), *(f"{key}={value}" for key, value in device.labels.items())]
    return " ".join(parts).lower()


def _row(device: Device, now_ms: int) -> list[str]:
    name, link = html.escape(device.name), device_words.link(device)
    wanted = html.escape(device_words.wanted(device))
    if not device.revoked and not device.in_sync:
        wanted = f'<span class="eo-pill warn{" long" if len(wanted) > _LONG else ""}">{wanted}</span>'
    update, error = html.escape(device_words.update(device)), device_words.error(device)
    if error:
        update += f'<div class="eo-cause">{html.escape(error)}</div>'
    return [
        f'<a href="/devices/{name}">{name}</a>',
        html.escape(device.site) or words.NONE,
        pill_markup(link, words.tone(link)),
        html.escape(device_words.running(device)),
        wanted,
        update,
        words.count(device.running.requests) if device.running else words.NONE,
        words.ago(device.window_at_ms, now_ms),
    ]
