"""The X.509 certificates that the hub's authority issues (RFC 5280). P-256 and SHA-256 throughout."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgeops.errors import BadRequestError
from edgeops.signing.keys import PrivateKey, PublicKey

CA_DAYS = 3650
MAX_CSR_BYTES = 16 << 10
# A device's clock may be behind the hub's: what is issued now must be valid for it already.
_BACKDATE = timedelta(minutes=10)

Names = Iterable[str]


def new_key() -> PrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def self_signed(common_name: str, key: PrivateKey) -> x509.Certificate:
    """The authority's own certificate: may sign leaves and revocation lists, nothing below it may."""
    name = _name(common_name)
    builder = _builder(name, name, key.public_key(), CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def server_certificate(
    names: Names, public_key: PublicKey, ca: x509.Certificate, ca_key: PrivateKey, days: int
) -> x509.Certificate:
    """A server's certificate for these host names and addresses."""
    hosts = list(dict.fromkeys(names))
    builder = _leaf(hosts[0], public_key, ca, days, ExtendedKeyUsageOID.SERVER_AUTH)
    alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    return builder.add_extension(alternatives, critical=False).sign(ca_key, hashes.SHA256())


def client_certificate(
    common_name: str, public_key: PublicKey, ca: x509.Certificate, ca_key: PrivateKey, days: int
) -> x509.Certificate:
    """A client's certificate; its common name is the client's identity at the broker and the APIs."""
    builder = _leaf(common_name, public_key, ca, days, ExtendedKeyUsageOID.CLIENT_AUTH)
    return builder.sign(ca_key, hashes.SHA256())


def revocation_list(
    revoked: Iterable[tuple[str, int]], ca: x509.Certificate, ca_key: PrivateKey, number: int
) -> x509.CertificateRevocationList:
    """The list of revoked certificates: pairs of serial (hex) and time of revocation (ms).

    Only the broker on the hub's own machine reads it, and the hub rewrites it at every change, so
    `nextUpdate` says nothing about freshness. It is as far off as the authority's own end, because a
    broker refuses every client once it has passed.
    """
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.subject)
    builder = builder.last_update(now - _BACKDATE).next_update(ca.not_valid_after_utc)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    builder = builder.add_extension(_authority_key(ca), critical=False)
    for serial, at_ms in revoked:
        at = datetime.fromtimestamp(at_ms / 1000, tz=UTC)
        entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(at)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(ca_key, hashes.SHA256())


def key_of_request(csr_pem: bytes) -> PublicKey:
    """The public key in a PKCS #10 request whose own signature holds, so its sender has the private key.

    Nothing else that the request asks for is looked at. Raises `BadRequestError`.
    """
    if len(csr_pem) > MAX_CSR_BYTES:
        raise _bad_request(f"is larger than {MAX_CSR_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_request(f"cannot be read ({error})") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad_request("has a key that is not on the curve P-256")
    if not valid:
        raise _bad_request("has a wrong signature")
    return key


def covers(certificate: x509.Certificate, names: Names, ca: x509.Certificate) -> bool:
    """Whether `ca` issued this server certificate, for just these hosts, and more than a third of its life
    is still to come."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate.verify_directly_issued_by(ca)
    except (x509.ExtensionNotFound, InvalidSignature, ValueError):
        return False
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    return set(found) == {_general_name(name) for name in names} and left > life / 3


def _leaf(
    common_name: str,
    public_key: PublicKey,
    ca: x509.Certificate,
    days: int,
    purpose: x509.ObjectIdentifier,
) -> x509.CertificateBuilder:
    builder = _builder(_name(common_name), ca.subject, public_key, days, ca.not_valid_after_utc)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.add_extension(_authority_key(ca), critical=False)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    days: int,
    latest: datetime | None = None,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - _BACKDATE)
    builder = builder.not_valid_after(min(end, latest) if latest is not None else end)
    identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    return builder.add_extension(identifier, critical=False)


def _authority_key(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _bad_request(what: str) -> BadRequestError:
    return BadRequestError(
        f"The certificate request {what}.",
        remedy="Send a PKCS #10 request with a P-256 key.",
        subject="csr_pem",
    )
