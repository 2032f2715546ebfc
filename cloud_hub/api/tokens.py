"""Operators: enrolment tokens, and one-time codes for the dashboard."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from cloud_hub.api.fields import Answer, Body, Name
from cloud_hub.trust import login
from cloud_hub.trust.access import Services, operator
from cloud_hub.trust.enrolment import MAX_LABELS, issue_token
from edgeops.clock import now_ms

router = APIRouter(prefix="/api/v1", tags=["access"])
Operator = Annotated[str, Depends(operator)]


class TokenRequest(Body):
    """What a new enrolment token should allow. `ttl_s` None: the hub's setting `token_ttl_s`."""

    labels: dict[Name, Name] = Field(default_factory=dict, max_length=MAX_LABELS)
    uses: int = Field(1, ge=1, le=100_000)
    ttl_s: int | None = Field(None, ge=10, le=30 * 24 * 3600)
    reenroll: bool = False


class TokenAnswer(Answer):
    """The token's text. It is shown this once."""

    token: str
    expires_at_ms: int


class LoginCode(Answer):
    """A code that opens the dashboard once, and the address that takes it."""

    code: str
    url: str
    expires_at_ms: int


@router.post("/tokens", status_code=201)
def create_token(body: TokenRequest, request: Request, actor: Operator) -> TokenAnswer:
    """Makes an enrolment token."""
    services: Services = request.app.state.services
    issued = issue_token(
        services.engine,
        services.authority,
        services.settings,
        labels=body.labels,
        uses=body.uses,
        ttl_s=body.ttl_s if body.ttl_s is not None else services.settings.token_ttl_s,
        reenroll=body.reenroll,
        actor=actor,
        now_ms=now_ms(),
    )
    return TokenAnswer.model_validate(issued)


@router.post("/login-codes", status_code=201)
def create_login_code(request: Request, actor: Operator) -> LoginCode:
    """Makes a code for opening the dashboard in a browser; it works once, within ten minutes."""
    services: Services = request.app.state.services
    code, expires_at_ms = login.issue_code(services.engine, actor, now_ms())
    return LoginCode(code=code, url=f"{request.base_url}login?code={code}", expires_at_ms=expires_at_ms)
