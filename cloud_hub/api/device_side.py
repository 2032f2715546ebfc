"""Devices: enrolment, renewal, downloads. Everything but enrolment needs a device's certificate."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse
from pydantic import Field

from cloud_hub.api.fields import Answer, Body, Digest, Name
from cloud_hub.broker.cutoff import cut_off
from cloud_hub.bundles import registry
from cloud_hub.store.database import reading
from cloud_hub.trust import enrolment
from cloud_hub.trust.access import Services, device, source_of
from cloud_hub.trust.certificates import MAX_CSR_BYTES
from edgeops.clock import now_ms

router = APIRouter(prefix="/device/v1", tags=["devices"])
DeviceName = Annotated[str, Depends(device)]
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


class EnrollRequest(Body):
    """A token's id and secret, the name that the device wants, and its certificate request (PEM)."""

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    secret: str = Field(min_length=1, max_length=128)
    device: Name
    csr_pem: str = Field(max_length=MAX_CSR_BYTES)


class EnrollAnswer(Answer):
    """What a device needs to belong to this hub."""

    device: str
    certificate_pem: str
    ca_pem: str
    desired_key_pem: str
    mqtt_host: str
    mqtt_port: int
    gateway_url: str
    hub_url: str


class RenewRequest(Body):
    """A new certificate request (PEM), for the same key or another."""

    csr_pem: str = Field(max_length=MAX_CSR_BYTES)


class RenewAnswer(Answer):
    """The new certificate. The old one stays valid until it expires."""

    device: str
    certificate_pem: str
    expires_at_ms: int


@router.get("/ca", response_class=Response, responses={200: {"content": {"application/x-pem-file": {}}}})
def read_ca(request: Request) -> Response:
    """The authority's certificate. A device compares its SHA-256 with the one in its enrolment token."""
    services: Services = request.app.state.services
    return Response(services.authority.ca_pem, media_type="application/x-pem-file")


@router.post("/enroll", status_code=201)
def enroll_device(body: EnrollRequest, request: Request) -> EnrollAnswer:
    """Makes a device one of this hub's, by a token; its certificate request proves that it has the key."""
    services: Services = request.app.state.services
    services.enrolments.attempt(source_of(request.scope))
    issued = enrolment.enroll(
        services.engine,
        services.authority,
        token_id=body.id,
        secret=body.secret,
        device=body.device,
        csr_pem=body.csr_pem.encode(),
        now_ms=now_ms(),
        on_revoked=lambda name: cut_off(services.settings, name),
    )
    return EnrollAnswer(
        device=body.device,
        certificate_pem=issued.pem.decode(),
        ca_pem=services.authority.ca_pem.decode(),
        desired_key_pem=services.authority.desired_public_pem.decode(),
        mqtt_host=services.settings.public_host,
        mqtt_port=services.settings.mqtt_port,
        gateway_url=enrolment.gateway_url(services.settings),
        hub_url=enrolment.device_url(services.settings),
    )


@router.post("/renew")
def renew_certificate(body: RenewRequest, request: Request, name: DeviceName) -> RenewAnswer:
    """A new certificate for the device that the connection's certificate names."""
    services: Services = request.app.state.services
    issued = enrolment.renew(
        services.engine, services.authority, device=name, csr_pem=body.csr_pem.encode(), now_ms=now_ms()
    )
    return RenewAnswer(device=name, certificate_pem=issued.pem.decode(), expires_at_ms=issued.expires_at_ms)


@router.get(
    "/blobs/{sha256}",
    dependencies=[Depends(device)],
    response_class=FileResponse,
    responses={200: {"content": _BYTES}, 206: {"content": _BYTES, "description": "The range asked for."}},
)
def read_blob(sha256: Digest, request: Request) -> FileResponse:
    """A blob, or a range of it (RFC 9110, section 14), so that a download can go on where it was cut."""
    services: Services = request.app.state.services
    # The name says the content, so it is the strongest validator there is (If-Range).
    headers = {"ETag": f'"{sha256}"'}
    return FileResponse(services.blobs.path(sha256), media_type="application/octet-stream", headers=headers)


@router.get(
    "/bundles/{digest}/signature",
    dependencies=[Depends(device)],
    response_class=Response,
    responses={200: {"content": _BYTES}},
)
def read_signature(digest: Digest, request: Request) -> Response:
    """A published bundle's `model.sig`."""
    services: Services = request.app.state.services
    with reading(services.engine) as connection:
        signature = registry.signature_of(connection, digest)
    return Response(signature, media_type="application/octet-stream")
