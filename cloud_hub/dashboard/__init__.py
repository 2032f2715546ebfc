"""The dashboard: live pages for whoever watches the fleet. NiceGUI on the operators' application."""

from __future__ import annotations

from fastapi import FastAPI

from cloud_hub.trust.access import Services


def mount_dashboard(app: FastAPI, services: Services) -> None:
    """Adds the pages at `/` and whatever they need. Call it after every other route was added: the
    dashboard takes all paths that are left. Every page and socket needs a session (`cloud_hub.trust.login`)."""
    from cloud_hub.dashboard.gate import Gate
    from cloud_hub.dashboard.views import register

    register(app, services)
    app.add_middleware(Gate, services=services)
