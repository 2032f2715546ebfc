"""Operators: the devices, what they run and should run, and revoking them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from cloud_hub import audit, devices
from cloud_hub.api.fields import Answer, Body, BundleName, Digest, Name
from cloud_hub.broker.cutoff import cut_off
from cloud_hub.bundles import registry
from cloud_hub.control.desired import assign
from cloud_hub.store.database import reading, writing
from cloud_hub.trust import enrolment
from cloud_hub.trust.access import Services, operator
from edgeops.clock import now_ms

router = APIRouter(prefix="/api/v1", tags=["devices"])
Operator = Annotated[str, Depends(operator)]


class Running(Answer):
    """What a device has loaded, as it reports it."""

    digest: str
    name: str | None
    version: str | None
    variant: str | None
    requests: int


class Update(Answer):
    """Where a device's update stands."""

    phase: str
    generation: int
    target_digest: str | None
    progress: float
    error: dict[str, Any] | None


class Wanted(Answer):
    """What the hub wants a device to run. No bundle: nothing."""

    generation: int
    bundle: BundleName | None
    rollout: str | None


class Device(Answer):
    """A device: who it is, and both sides of its twin. `in_sync`: it has loaded just what is wanted."""

    name: str
    site: str
    labels: dict[str, str]
    online: bool
    revoked: bool
    in_sync: bool
    agent_version: str
    enrolled_at_ms: int
    certificate_expires_at_ms: int
    seen_at_ms: int | None
    reported_at_ms: int | None
    reported_generation: int
    window_at_ms: int | None
    running: Running | None
    update: Update
    wanted: Wanted | None


class Telemetry(Answer):
    """Totals of all that a device sent."""

    windows: int
    requests: int
    errors: int
    rejected: int
    fallbacks: int
    missing_windows: int


class DeviceDetail(Device):
    """A device with its totals."""

    telemetry: Telemetry


class Devices(Answer):
    """Devices by name. `next` is what to pass as `after` for more, if there may be more."""

    devices: list[Device]
    next: str | None


class Revoked(Answer):
    """A revoked device. `new` is false if it was revoked before."""

    device: str
    new: bool


class DesiredRequest(Body):
    """The bundle that one device should run; None for nothing."""

    digest: Digest | None


class DesiredAnswer(Answer):
    """The generation of the device's desired state that is in force now."""

    device: str
    generation: int


@router.get("/devices", dependencies=[Depends(operator)])
def list_devices(
    request: Request,
    site: Annotated[Name | None, Query()] = None,
    after: Annotated[Name | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Devices:
    """Devices by name, all or of one site."""
    services: Services = request.app.state.services
    with reading(services.engine) as connection:
        found = devices.devices(connection, site=site, after=after, limit=limit)
    following = found[-1].name if len(found) == limit else None
    return Devices.model_validate({"devices": found, "next": following})


@router.get("/devices/{name}", dependencies=[Depends(operator)])
def read_device(name: Name, request: Request) -> DeviceDetail:
    """One device, with the totals of its telemetry."""
    services: Services = request.app.state.services
    with reading(services.engine) as connection:
        found = Device.model_validate(devices.device(connection, name))
        totals = Telemetry.model_validate(devices.telemetry(connection, name))
    return DeviceDetail(**found.model_dump(), telemetry=totals)


@router.post("/devices/{name}/revoke")
def revoke_device(name: Name, request: Request, actor: Operator) -> Revoked:
    """Ends a device's certificates and cuts its connections."""
    services: Services = request.app.state.services
    new = enrolment.revoke(
        services.engine,
        services.authority,
        device=name,
        actor=actor,
        now_ms=now_ms(),
        on_revoked=lambda device: cut_off(services.settings, device),
    )
    return Revoked(device=name, new=new)


@router.post("/devices/{name}/desired")
def set_desired(name: Name, body: DesiredRequest, request: Request, actor: Operator) -> DesiredAnswer:
    """Makes one device run a bundle, outside any rollout. Control publishes it to the device."""
    services: Services = request.app.state.services
    now = now_ms()
    with writing(services.engine) as connection:
        target = registry.bundle_by_digest(connection, body.digest).ref if body.digest is not None else None
        generation = assign(connection, services.desired_key, name, target, None, now)
        detail = {"digest": body.digest, "generation": generation}
        audit.record(connection, actor, "device.assign", name, detail, now)
    return DesiredAnswer(device=name, generation=generation)
