"""The hub's authority: the keys and certificates that identify the hub and its devices.

Everything lies in `<state_dir>/authority/` (0700), private keys 0600. `prepare` makes what is missing,
once, under a lock; `Authority.open` only reads. The authority decides where devices may be sent, never
what they run: bundles are signed by the builder's key, which the hub does not have.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cloud_hub.settings import HubSettings
from cloud_hub.trust import certificates
from cloud_hub.trust.tls import TlsFiles, normal_serial
from edgeops.durable import write_atomic
from edgeops.errors import ConfigError
from edgeops.signing.keys import PrivateKey, key_id, load_private_key, private_pem, public_pem

logger = logging.getLogger(__name__)

_SERVER_DAYS = 825


@dataclass(frozen=True)
class AuthorityFiles:
    """Where each part lies. All are PEM files."""

    folder: Path

    @classmethod
    def of(cls, settings: HubSettings) -> AuthorityFiles:
        """The files of the hub with these settings."""
        return cls(settings.state_dir / "authority")

    @property
    def ca(self) -> Path:
        """The authority's certificate: the only one that devices and the hub trust."""
        return self.folder / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The authority's private key."""
        return self.folder / "ca.key"

    @property
    def revocations(self) -> Path:
        """The certificate revocation list, for the broker."""
        return self.folder / "revoked.crl"

    @property
    def desired_key(self) -> Path:
        """The private key that signs desired states."""
        return self.folder / "desired.key"

    @property
    def server(self) -> TlsFiles:
        """The server end of every listener of the hub, the broker's included."""
        return TlsFiles(self.folder / "server.crt", self.folder / "server.key", self.ca)


@dataclass(frozen=True)
class IssuedCertificate:
    """A device's new certificate; `public_key_sha256` is its key's id (see `key_id`)."""

    pem: bytes
    serial: str
    expires_at_ms: int
    public_key_sha256: str


def prepare(settings: HubSettings) -> Authority:
    """Makes what is missing or about to expire, then opens the authority. Safe to call at once from
    several processes. Raises `ConfigError` when the folder cannot be written or holds a broken key."""
    files = AuthorityFiles.of(settings)
    files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files.folder.chmod(0o700)
    with _locked(files.folder):
        # The key comes last: where it is, the certificate that belongs to it is there too.
        if not files.ca_key.exists():
            key = certificates.new_key()
            ca = certificates.self_signed("edgeops hub", key)
            write_atomic(files.ca, _certificate_pem(ca), mode=0o644)
            write_atomic(files.ca_key, private_pem(key), mode=0o600)
        if not files.desired_key.exists():
            write_atomic(files.desired_key, private_pem(certificates.new_key()), mode=0o600)
        authority = Authority.open(settings)
        authority._renew_server(settings)
        if not files.revocations.exists():
            authority._write_revocations([])
    return authority


class Authority:
    """The authority with its keys in memory. Use `prepare` at start, `open` in role processes."""

    def __init__(
        self,
        files: AuthorityFiles,
        ca: x509.Certificate,
        ca_key: PrivateKey,
        desired_key: PrivateKey,
        certificate_days: int,
    ) -> None:
        self.files = files
        self.desired_key = desired_key
        self._ca = ca
        self._ca_key = ca_key
        self._days = certificate_days

    @classmethod
    def open(cls, settings: HubSettings) -> Authority:
        """Reads the authority of a hub that was prepared. Raises `ConfigError` if it is not there."""
        files = AuthorityFiles.of(settings)
        try:
            ca = x509.load_pem_x509_certificate(_read(files.ca))
        except ValueError as error:
            raise ConfigError(
                f"{files.ca} holds no certificate.",
                remedy="Restore it from a backup: every device trusts this authority and no other.",
                subject=str(files.ca),
            ) from error
        ca_key = load_private_key(files.ca_key)
        if ca.public_key() != ca_key.public_key():
            raise ConfigError(
                f"{files.ca_key} is not the key of {files.ca}.",
                remedy="Restore both from the same backup.",
                subject=str(files.ca_key),
            )
        return cls(files, ca, ca_key, load_private_key(files.desired_key), settings.certificate_days)

    @property
    def ca_pem(self) -> bytes:
        """The authority's certificate, PEM."""
        return _certificate_pem(self._ca)

    @property
    def ca_sha256(self) -> str:
        """The SHA-256 of the authority's certificate (DER), hex: what enrolment tokens carry."""
        return hashlib.sha256(self._ca.public_bytes(serialization.Encoding.DER)).hexdigest()

    @property
    def desired_public_pem(self) -> bytes:
        """The public key that devices check desired states with, PEM SubjectPublicKeyInfo."""
        return public_pem(self.desired_key.public_key())

    def issue_device(self, csr_pem: bytes, device: str) -> IssuedCertificate:
        """A client certificate for the key in a certificate request. The name comes from the hub; what
        the request itself asks for is ignored. Raises `BadRequestError` if the request is unfit."""
        key = certificates.key_of_request(csr_pem)
        issued = certificates.client_certificate(device, key, self._ca, self._ca_key, self._days)
        return IssuedCertificate(
            pem=_certificate_pem(issued),
            serial=normal_serial(issued.serial_number),
            expires_at_ms=int(issued.not_valid_after_utc.timestamp() * 1000),
            public_key_sha256=key_id(key),
        )

    def update_revocations(self, revoked: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """Replaces the revocation list by what `revoked` returns: (serial, time in ms) pairs.

        `revoked` is called under a lock, so of two processes that revoke at once the one that writes
        last has read both. The list is on the disk when this returns; the broker must still be told.
        """
        with _locked(self.files.folder):
            self._write_revocations(list(revoked()))

    def _write_revocations(self, revoked: list[tuple[str, int]]) -> None:
        number = 1
        if self.files.revocations.exists():
            try:
                old = x509.load_pem_x509_crl(self.files.revocations.read_bytes())
                number = old.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
            except ValueError:
                # All of it comes from the database; only the hub's own broker reads it, and not its number.
                logger.warning("%s was damaged and is made anew.", self.files.revocations)
        crl = certificates.revocation_list(revoked, self._ca, self._ca_key, number)
        write_atomic(self.files.revocations, crl.public_bytes(serialization.Encoding.PEM), mode=0o644)

    def _renew_server(self, settings: HubSettings) -> None:
        names = [settings.public_host, "localhost", "127.0.0.1", "::1"]
        server = self.files.server
        if server.certificate.exists():
            try:
                current = x509.load_pem_x509_certificate(server.certificate.read_bytes())
                fits = current.public_key() == load_private_key(server.key).public_key()
            except (ValueError, ConfigError):
                logger.warning("The hub's server certificate or its key was damaged; both are made anew.")
                fits = False
            if fits and certificates.covers(current, names, self._ca):
                return
        key = certificates.new_key()
        issued = certificates.server_certificate(
            names, key.public_key(), self._ca, self._ca_key, _SERVER_DAYS
        )
        # The old certificate goes first: a cut in between leaves none, and the next start makes both anew.
        server.certificate.unlink(missing_ok=True)
        write_atomic(server.key, private_pem(key), mode=0o600)
        write_atomic(server.certificate, _certificate_pem(issued))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}).",
            remedy="Start the hub once with edgeops hub serve, which makes it, or restore it from a backup.",
            subject=str(path),
        ) from error


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
