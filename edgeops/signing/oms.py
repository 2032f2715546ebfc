"""The builder's signature over a bundle: OpenSSF Model Signing (OMS) v1.0.

`model.sig` is a Sigstore bundle v0.3 (JSON) around a DSSE envelope around an in-toto statement v1 whose
predicate lists every file of the bundle but `model.sig` itself, with its SHA-256.

Law: for every tree and signature, if `verify_signature`, `check_manifest` and the comparison of the files in
`edgeops.bundle` accept, then so does the reference implementation (`model_signing verify key`). Ours is
stricter and never laxer: P-256 only, SHA-256 of whole files only, no symbolic links, no ignored files, no
pre-1.0 forms, and nothing in the unsigned wrapping that the format does not need.

Signing uses the reference implementation, on the builder's desk. Verifying uses `cryptography` alone,
because a device has no room for the other.

Sources: https://github.com/sigstore/model-transparency (the predicate), DSSE v1.0.0 protocol.md (the
pre-authentication encoding), https://github.com/in-toto/attestation (the statement).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgeops.canonical import sha256_bytes, strict_json
from edgeops.durable import write_atomic
from edgeops.errors import ArtifactError
from edgeops.manifest import MANIFEST_FILE, OUTSIDE_IDENTITY, SIGNATURE_FILE, Manifest, is_safe_path
from edgeops.names import is_digest
from edgeops.signing.keys import (
    PublicKey,
    PublicKeys,
    key_id,
    keyring,
    load_private_key,
    passphrase_for,
    public_pem,
)

MAX_SIGNATURE_BYTES = 8 << 20
PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class SignedStatement:
    """What a trusted key has signed: the SHA-256 of each file by its path, and the id of that key."""

    digests: Mapping[str, str]
    key_id: str


class _Wrapping(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Base of what is outside the signature: fields that nobody signed are not accepted."""


class _KeyHint(_Wrapping, frozen=True):
    hint: str


class _Material(_Wrapping, frozen=True):
    public_key: _KeyHint
    tlog_entries: tuple[()]


class _DsseSignature(_Wrapping, frozen=True):
    sig: str
    keyid: Literal[""]


class _Envelope(_Wrapping, frozen=True):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: tuple[_DsseSignature]


class _SigstoreBundle(_Wrapping, frozen=True):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: _Material
    dsse_envelope: _Envelope


class _Resource(msgspec.Struct, frozen=True):
    name: str
    algorithm: Literal["sha256"]
    digest: str


class _Serialization(msgspec.Struct, frozen=True):
    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: bool


class _Predicate(msgspec.Struct, frozen=True):
    serialization: _Serialization
    resources: tuple[_Resource, ...]


class _Subject(msgspec.Struct, frozen=True):
    name: str
    digest: dict[str, str]


class _Statement(msgspec.Struct, frozen=True, rename="camel"):
    type_: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: tuple[_Subject]
    predicate_type: Literal["https://model_signing/signature/v1.0"]
    predicate: _Predicate


def verify_signature(signature: bytes, keys: PublicKeys) -> SignedStatement:
    """The statement in `signature` (the content of `model.sig`), if one of `keys` (by key id) signed it.

    Raises `ArtifactError` with subject `model.sig` otherwise: no such key, a broken signature, an unknown
    format, or a statement that contradicts itself. Nothing is believed before the signature holds.
    """
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise _refused(f"is larger than {MAX_SIGNATURE_BYTES} bytes")
    bundle = _convert(signature, _SigstoreBundle)
    envelope = bundle.dsse_envelope
    payload = _base64(envelope.payload)
    signer = _signer(bundle.verification_material.public_key.hint, keys)
    try:
        keys[signer].verify(
            _base64(envelope.signatures[0].sig), dsse_encoding(payload), ec.ECDSA(hashes.SHA256())
        )
    except InvalidSignature:
        raise _refused("has a signature that does not hold") from None
    return SignedStatement(_digests(_convert(payload, _Statement)), signer)


def check_manifest(statement: SignedStatement, data: bytes) -> Manifest:
    """The manifest in `data`, if the statement covers it and both tell the same of every file.

    Raises `ArtifactError` naming the file: the manifest is not the signed one, is not canonical JSON (then
    its digest would not be its identity), or one of the two lists a file that the other has not, or has
    with another digest. Only what `OUTSIDE_IDENTITY` names is signed without standing in the manifest.
    """
    signed = statement.digests.get(MANIFEST_FILE)
    if signed is None:
        raise _refused(f"does not cover {MANIFEST_FILE}")
    if sha256_bytes(data) != signed:
        raise ArtifactError(
            f"{MANIFEST_FILE} is not the one that was signed.",
            remedy="Fetch or build the bundle again.",
            subject=MANIFEST_FILE,
        )
    manifest = Manifest.parse(data)
    if manifest.to_bytes() != data:
        raise ArtifactError(
            f"{MANIFEST_FILE} is not canonical JSON.",
            remedy="Build the bundle again with edgeops build.",
            subject=MANIFEST_FILE,
        )
    listed = {path: entry.sha256 for path, entry in manifest.all_files().items()} | {MANIFEST_FILE: signed}
    listed |= {path: statement.digests[path] for path in OUTSIDE_IDENTITY if path in statement.digests}
    for path in sorted(listed.keys() | statement.digests.keys()):
        if listed.get(path) != statement.digests.get(path):
            raise ArtifactError(
                f"{MANIFEST_FILE} and {SIGNATURE_FILE} do not tell the same of {path}.",
                remedy="Build and sign the bundle again.",
                subject=path,
            )
    return manifest


def sign_bundle(bundle_dir: Path, private_key_path: Path, *, passphrase: bytes | None = None) -> None:
    """Signs a bundle with the private key in a file; an encrypted one is opened by `passphrase`, or else by
    `EDGEOPS_KEY_PASSPHRASE`. See `sign_with`. `ConfigError` if the key cannot be used."""
    public_key = load_private_key(private_key_path, passphrase=passphrase).public_key()
    password = passphrase_for(private_key_path, passphrase=passphrase)
    config = reference().signing.Config()
    config.use_elliptic_key_signer(private_key=private_key_path, password=password)
    sign_with(bundle_dir, config, public_key)


def reference() -> Any:
    """The reference implementation, `model_signing`. Imported when asked for: it takes half a second and
    60 MB, and only builders have it."""
    return importlib.import_module("model_signing")


def sign_with(bundle_dir: Path, config: Any, public_key: PublicKey) -> None:
    """Signs every file below `bundle_dir` but `model.sig`, and writes that, atomically. `config` is a signing
    configuration of the reference implementation (`model_signing.signing.Config`) that has a key.

    What was signed is checked by `public_key` before it is written: `ArtifactError`, and no signature, if the
    folder holds a symbolic link, a file that the manifest does not list, or lacks one, or one differs, or if
    another key signed.
    """
    # By default the reference ignores Git's files, so anyone could add some. Here only the signature is.
    files = reference().hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False)
    signer = config.set_hashing_config(files)
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / SIGNATURE_FILE
        try:
            signer.sign(bundle_dir, written)
        except ValueError as error:
            raise ArtifactError(
                f"{bundle_dir} cannot be signed: {error}",
                remedy="A bundle holds regular files only.",
                subject=str(bundle_dir),
            ) from error
        signature = written.read_bytes()
    statement = verify_signature(signature, keyring([public_key]))
    check_manifest(statement, (bundle_dir / MANIFEST_FILE).read_bytes())
    write_atomic(bundle_dir / SIGNATURE_FILE, signature)


def dsse_encoding(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (protocol.md, "Signature Definition"): what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _digests(statement: _Statement) -> dict[str, str]:
    predicate = statement.predicate
    if predicate.serialization.allow_symlinks:
        raise _refused("allows symbolic links")
    digests: dict[str, str] = {}
    root = hashlib.sha256()
    for resource in predicate.resources:
        if not is_safe_path(resource.name) or resource.name == SIGNATURE_FILE or resource.name in digests:
            raise _refused(f"names the file {resource.name!r}, or names it twice")
        if not is_digest(resource.digest):
            raise _refused(f"has no valid digest for {resource.name!r}")
        root.update(bytes.fromhex(resource.digest))
        digests[resource.name] = resource.digest
    # The subject's digest goes over the files' digests, in the order in which they are listed.
    if statement.subject[0].digest != {"sha256": root.hexdigest()}:
        raise _refused("has a root digest that does not fit its files")
    return digests


def _signer(hint: str, keys: PublicKeys) -> str:
    # OMS names a key by the SHA-256 of its PEM text.
    for known, key in keys.items():
        if known == key_id(key) and sha256_bytes(public_pem(key)) == hint:
            return known
    raise _refused("was not made by a key that is trusted here")


KindT = TypeVar("KindT")


def _convert(data: bytes, kind: type[KindT]) -> KindT:
    try:
        value: Any = strict_json(data)
        return msgspec.convert(value, kind)
    except (ValueError, msgspec.ValidationError) as error:
        raise _refused(f"is not an OMS v1.0 signature by a key ({error})") from error


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused(f"has broken base64 ({error})") from error
    # Two texts for one value would let the file change without notice.
    if base64.b64encode(data).decode() != text:
        raise _refused("has base64 that is not canonical")
    return data


def _refused(what: str) -> ArtifactError:
    return ArtifactError(
        f"{SIGNATURE_FILE} {what}.",
        remedy="Get the bundle from its builder again, or check which builder's key you trust.",
        subject=SIGNATURE_FILE,
    )
