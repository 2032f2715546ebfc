"""Operators: uploading blobs, publishing bundles, reading the registry, aliases."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from cloud_hub.api.fields import Answer, Base64, Body, BundleName, Digest, Name, Version
from cloud_hub.bundles import registry
from cloud_hub.store.database import reading, writing
from cloud_hub.trust.access import Services, operator
from edgeops.clock import now_ms
from edgeops.errors import BadRequestError

router = APIRouter(prefix="/api/v1", tags=["registry"])
Operator = Annotated[str, Depends(operator)]
# Uploads go to the disk in pieces of this size: a hop to a thread for each network chunk would cost more.
_PIECE_BYTES = 1 << 20


class BlobDigests(Body):
    """Blobs by digest."""

    sha256: list[Digest] = Field(max_length=10_000)


class MissingBlobs(Answer):
    """Those that the hub does not have."""

    missing: list[str]


class StoredBlob(Answer):
    """A blob that the hub has."""

    sha256: str
    size_bytes: int


class PublishRequest(Body):
    """A bundle whose blobs were uploaded: its digest, `model.sig`, and `measurements.json` if it has one."""

    digest: Digest
    signature_b64: Base64
    measurements_b64: Base64 | None = None


class Bundle(Answer):
    """A published bundle."""

    digest: str
    name: str
    version: str
    lifecycle: str
    size_bytes: int
    builder_key_id: str
    published_at_ms: int
    published_by: str


class BundleDetail(Bundle):
    """A published bundle with its content: manifest, measurements, and the aliases that point at it."""

    manifest: dict[str, Any]
    measurements: dict[str, Any] | None
    aliases: list[str]


class Bundles(Answer):
    """Bundles, the newest first."""

    bundles: list[Bundle]


class AliasRequest(Body):
    """The version that an alias should name."""

    version: Version


class AliasAnswer(BundleName):
    """What an alias names."""

    alias: registry.Alias


@router.post("/blobs/missing", dependencies=[Depends(operator)])
def missing_blobs(body: BlobDigests, request: Request) -> MissingBlobs:
    """Which of these blobs the hub does not have yet."""
    services: Services = request.app.state.services
    return MissingBlobs(missing=services.blobs.missing(body.sha256))


@router.put(
    "/blobs/{sha256}",
    status_code=201,
    dependencies=[Depends(operator)],
    responses={200: {"description": "The hub had this blob already.", "model": StoredBlob}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_blob(sha256: Digest, request: Request, response: Response) -> StoredBlob:
    """Stores the raw body under its SHA-256. The bytes are hashed as they come; a mismatch is refused."""
    services: Services = request.app.state.services
    writer = await run_in_threadpool(services.blobs.writer, sha256)
    with writer:
        piece = bytearray()
        async for chunk in request.stream():
            piece += chunk
            if len(piece) >= _PIECE_BYTES:
                await run_in_threadpool(writer.write, bytes(piece))
                piece.clear()
        await run_in_threadpool(writer.write, bytes(piece))
        if not await run_in_threadpool(writer.commit):
            response.status_code = 200
    return StoredBlob(sha256=sha256, size_bytes=services.blobs.path(sha256).stat().st_size)


@router.post(
    "/bundles",
    status_code=201,
    responses={200: {"description": "This very bundle was published before.", "model": Bundle}},
)
def publish_bundle(body: PublishRequest, request: Request, response: Response, actor: Operator) -> Bundle:
    """Verifies a bundle against the trusted builders' keys and publishes it. A version never changes."""
    services: Services = request.app.state.services
    measurements = body.measurements_b64
    published, new = registry.publish(
        services.engine,
        services.blobs,
        services.settings,
        digest=body.digest,
        signature=_decoded(body.signature_b64, "signature_b64"),
        measurements=None if measurements is None else _decoded(measurements, "measurements_b64"),
        actor=actor,
        now_ms=now_ms(),
    )
    if not new:
        response.status_code = 200
    return Bundle.model_validate(published)


@router.get("/bundles", dependencies=[Depends(operator)])
def list_bundles(request: Request, name: Annotated[Name | None, Query()] = None) -> Bundles:
    """All published bundles, or those of one model."""
    services: Services = request.app.state.services
    with reading(services.engine) as connection:
        return Bundles.model_validate({"bundles": registry.bundles(connection, name=name)})


@router.get("/bundles/{name}/{version}", dependencies=[Depends(operator)])
def read_bundle(name: Name, version: Version, request: Request) -> BundleDetail:
    """One bundle, with its manifest."""
    services: Services = request.app.state.services
    with reading(services.engine) as connection:
        found = registry.bundle_of(connection, name, version)
        aliases = registry.aliases_of(connection, name)
        return BundleDetail(
            **Bundle.model_validate(found).model_dump(),
            manifest=registry.manifest_of(connection, found.digest).raw,
            measurements=registry.measurements_of(connection, found.digest),
            aliases=sorted(alias for alias, digest in aliases.items() if digest == found.digest),
        )


@router.put("/models/{name}/aliases/{alias}")
def put_alias(
    name: Name, alias: registry.Alias, body: AliasRequest, request: Request, actor: Operator
) -> AliasAnswer:
    """Points an alias of a model (`prod`, `staging`, `canary`) at one of its versions."""
    services: Services = request.app.state.services
    with writing(services.engine) as connection:
        target = registry.bundle_of(connection, name, body.version)
        registry.set_alias(
            connection, name=name, alias=alias, digest=target.digest, actor=actor, now_ms=now_ms()
        )
    return AliasAnswer(alias=alias, name=name, version=target.version, digest=target.digest)


def _decoded(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise BadRequestError(f"{field} is not base64 ({error}).", subject=field) from error
