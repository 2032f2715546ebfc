"""Who this device is and whom it trusts: the files that enrolment wrote.

identity/device.key        P-256 private key, 0600
identity/device.crt        client certificate; its common name is the device's name
identity/ca.pem            the hub's authority: the only one that the hub's servers are checked against
identity/desired.pub       checks desired states (the hub's online key)
identity/builders/*.pub    check bundles (the builders' offline keys), from the device's owner, not the hub
identity/enrolment.json    name and addresses
"""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from edgeops.durable import fsync_directory, write_atomic
from edgeops.errors import ConfigError
from edgeops.names import is_name
from edgeops.signing.keys import (
    PrivateKey,
    PublicKey,
    PublicKeys,
    load_private_key,
    load_public_key,
    load_public_keys,
)

KEY, CERTIFICATE, CA, DESIRED_KEY = "device.key", "device.crt", "ca.pem", "desired.pub"
BUILDERS, ENROLMENT = "builders", "enrolment.json"


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """What enrolment told: this device's name and where the hub is. `ca_sha256` is that of the authority's
    certificate (DER): another one means another hub."""

    device: str
    hub_url: str
    mqtt_host: str
    mqtt_port: int
    gateway_url: str
    ca_sha256: str


@dataclass(frozen=True)
class Identity:
    """A loaded identity. The certificate is read from its file each time, since renewal replaces it."""

    folder: Path
    enrolment: Enrolment
    builders: PublicKeys
    desired_key: PublicKey

    @property
    def device(self) -> str:
        """The device's name."""
        return self.enrolment.device

    @property
    def key_path(self) -> Path:
        return self.folder / KEY

    @property
    def certificate_path(self) -> Path:
        return self.folder / CERTIFICATE

    @property
    def ca_path(self) -> Path:
        return self.folder / CA

    def tls_context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer as a client that trusts the hub's authority alone and shows its certificate."""
        context = ca_context(self.ca_path)
        try:
            context.load_cert_chain(self.certificate_path, self.key_path)
        except (OSError, ssl.SSLError) as error:
            raise _broken(self.certificate_path, str(error)) from error
        return context

    def certificate(self) -> x509.Certificate:
        """The client certificate in force."""
        try:
            return x509.load_pem_x509_certificate(self.certificate_path.read_bytes())
        except (OSError, ValueError) as error:
            raise _broken(self.certificate_path, str(error)) from error

    def renewal_due_ms(self) -> int:
        """When the certificate should be renewed: two thirds into its life (ms UTC)."""
        certificate = self.certificate()
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        due = start + timedelta(seconds=(end - start).total_seconds() * 2 / 3)
        return int(due.timestamp() * 1000)

    def certificate_request(self) -> bytes:
        """A certificate request (PEM) for the same key, for renewal."""
        return certificate_request(load_private_key(self.key_path), self.device)

    def replace_certificate(self, pem: bytes) -> None:
        """Swaps the certificate in one step. Raises `ConfigError` if it is not one for this device's key
        and name; the old one then stays."""
        check_certificate(pem, load_private_key(self.key_path), self.device)
        write_atomic(self.certificate_path, pem)


def certificate_request(key: PrivateKey, device: str) -> bytes:
    """A PKCS #10 request (RFC 2986) in PEM; its own signature proves possession of the key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def check_certificate(pem: bytes, key: PrivateKey, device: str) -> None:
    """Raises `ConfigError` unless `pem` is a certificate for `key` with the common name `device`."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = [a.value for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        fits = certificate.public_key() == key.public_key() and names == [device]
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(
            f"The hub's certificate is not one for this device ({device}) and its key.",
            remedy="Check the hub; enrol again if it was set up anew.",
            subject=CERTIFICATE,
        )


def ca_context(ca: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer as a client that trusts the authority in `ca` alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise _broken(ca, str(error)) from error
    return context


def load_identity(folder: Path) -> Identity:
    """The identity in `folder`. Raises `ConfigError` if the device is not enrolled or a file is broken."""
    _finish_replacement(folder)
    path = folder / ENROLMENT
    if not path.exists():
        raise ConfigError(
            f"This device is not enrolled: there is no {path}.",
            remedy="Enrol it with edgeops agent enroll.",
            subject=str(path),
        )
    try:
        enrolment = msgspec.json.decode(path.read_bytes(), type=Enrolment)
    except (OSError, msgspec.DecodeError) as error:
        raise _broken(path, str(error)) from error
    try:
        builders = load_public_keys(folder / BUILDERS)
        desired_key = load_public_key(folder / DESIRED_KEY)
    except ConfigError as error:
        raise _broken(Path(error.subject or folder), "it holds no public key") from error
    if not is_name(enrolment.device) or not builders:
        raise _broken(path, "it names no device, or no builder is trusted")
    identity = Identity(folder, enrolment, builders, desired_key)
    # Now, and not when they are needed: serving processes would fail for it, and a good bundle be blamed.
    try:
        load_private_key(identity.key_path)
    except ConfigError as error:
        raise _broken(identity.key_path, "it holds no private key") from error
    identity.tls_context()
    return identity


def write_identity(folder: Path, files: Mapping[str, bytes]) -> None:
    """Makes `files` (by path below `folder`) the identity, in place of an older one, in one step.

    A power cut leaves the old identity or the new one. Private keys get mode 0600.
    """
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / BUILDERS).mkdir(parents=True, mode=0o700)
    for name, data in files.items():
        write_atomic(fresh / name, data, mode=0o600 if name == KEY else 0o644)
    fsync_directory(fresh)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    # Between the two renames a reader finds `.old`, and puts it back (see `_finish_replacement`).
    fresh.rename(folder)
    fsync_directory(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _finish_replacement(folder: Path) -> None:
    # What was not whole yet holds a private key that nobody needs.
    shutil.rmtree(folder.with_name(folder.name + ".new"), ignore_errors=True)
    old = folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        old.rename(folder)
        fsync_directory(folder.parent)


def _broken(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be used ({why}).",
        remedy="Restore it, or enrol the device again with edgeops agent enroll --force.",
        subject=str(path),
    )
