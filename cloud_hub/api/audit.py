"""Operators: the audit log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from cloud_hub import audit
from cloud_hub.api.fields import Answer
from cloud_hub.store.database import reading
from cloud_hub.trust.access import Services, operator

router = APIRouter(prefix="/api/v1", tags=["audit"])


class AuditEntry(Answer):
    """One act: who did what to what."""

    id: int
    at_ms: int
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


class AuditLog(Answer):
    """Entries, the newest first."""

    entries: list[AuditEntry]


@router.get("/audit", dependencies=[Depends(operator)])
def read_audit(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before_id: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> AuditLog:
    """The newest acts first; for older ones, pass the last `id` seen as `before_id`."""
    services: Services = request.app.state.services
    with reading(services.engine) as connection:
        found = audit.entries(connection, limit=limit, before_id=before_id)
    return AuditLog.model_validate({"entries": found})
