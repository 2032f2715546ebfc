"""One opened page: in whose session it is, and what its bar shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloud_hub.dashboard.cached import Cached
from cloud_hub.dashboard.pulse import Pulse
from cloud_hub.trust.access import Services
from cloud_hub.trust.login import session_of
from edgeops.errors import UnauthenticatedError


@dataclass(frozen=True)
class Visit:
    """A page's socket outlives the look at the session that let it in. So whoever acts is looked up again,
    and an open page asks from time to time whether its session still lasts."""

    services: Services
    scope: Mapping[str, Any]
    pulse: Cached[Pulse]

    def actor(self) -> str:
        """In whose name the viewer acts now. Reads the database. Raises `UnauthenticatedError` when the
        session has ended."""
        actor = session_of(self.scope, self.services)
        if actor is None:
            raise UnauthenticatedError("Your session has ended.", remedy="Sign in again.")
        return actor
