"""The authority: its keys, its certificates, its revocation list."""

from __future__ import annotations

import ipaddress
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud_hub.settings import HubSettings
from cloud_hub.trust.authority import Authority, AuthorityFiles, prepare
from edgeops.errors import BadRequestError, ConfigError
from edgeops.settings import load
from edgeops_testkit.hub_core import DeviceKey, csr


def settings_in(folder: Path, public_host: str = "hub.example") -> HubSettings:
    return load(HubSettings, state_dir=folder, public_host=public_host)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return prepare(settings_in(tmp_path))


def test_private_files_are_readable_by_the_owner_only(authority: Authority) -> None:
    folder = authority.files.folder
    assert folder.stat().st_mode & 0o777 == 0o700
    keys = sorted(folder.glob("*.key"))
    assert [key.name for key in keys] == ["ca.key", "desired.key", "server.key"]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def test_the_authority_signs_leaves_only(authority: Authority) -> None:
    ca = x509.load_pem_x509_certificate(authority.ca_pem)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical and basic.value.ca and basic.value.path_length == 0
    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)
    assert ca.not_valid_after_utc - ca.not_valid_before_utc > timedelta(days=3640)


def test_a_device_gets_the_hubs_name_and_nothing_it_asked_for(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    asked = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another-device")])
    )
    asked = asked.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    from cryptography.hazmat.primitives import hashes

    pem = asked.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    issued = authority.issue_device(pem, "pump-1")
    found = x509.load_pem_x509_certificate(issued.pem)
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [name.value for name in names] == ["pump-1"]
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    found.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.ca_pem))
    assert found.public_key() == key.public_key()
    assert int(issued.serial, 16) == found.serial_number
    assert issued.expires_at_ms == int(found.not_valid_after_utc.timestamp() * 1000)


def test_a_request_that_someone_else_signed_is_refused(authority: Authority) -> None:
    mine, theirs = DeviceKey.new(), DeviceKey.new()
    good = x509.load_pem_x509_csr(mine.csr().encode())
    der = bytearray(good.public_bytes(Encoding.DER))
    foreign = x509.load_pem_x509_csr(theirs.csr().encode()).public_bytes(Encoding.DER)
    # Their public key in my request: the signature no longer proves possession.
    position = der.find(good.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    other = (
        x509.load_der_x509_csr(foreign)
        .public_key()
        .public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    )
    der[position : position + len(other)] = other
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(BadRequestError, match="wrong signature"):
        authority.issue_device(forged, "pump-1")


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"no pem",
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        csr(ec.generate_private_key(ec.SECP384R1()), "a").encode(),
        csr(rsa.generate_private_key(65537, 2048), "a").encode(),
        b"x" * (17 << 10),
    ],
    ids=["empty", "text", "garbage", "P-384", "RSA", "too large"],
)
def test_an_unfit_request_is_the_callers_fault(authority: Authority, pem: bytes) -> None:
    with pytest.raises(BadRequestError) as caught:
        authority.issue_device(pem, "pump-1")
    assert caught.value.subject == "csr_pem"


def test_opening_again_gives_the_same_authority(tmp_path: Path) -> None:
    first = prepare(settings_in(tmp_path))
    again = prepare(settings_in(tmp_path))
    assert again.ca_sha256 == first.ca_sha256
    assert again.desired_public_pem == first.desired_public_pem
    assert first.files.server.certificate.read_bytes() == again.files.server.certificate.read_bytes()


@pytest.mark.slow
def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = set(pool.map(_fingerprint, [tmp_path] * 8))
    assert len(found) == 1


def _fingerprint(folder: Path) -> str:
    return prepare(settings_in(folder)).ca_sha256


def test_the_server_certificate_follows_the_public_host(tmp_path: Path) -> None:
    names = hosts_of(prepare(settings_in(tmp_path, "10.1.2.3")))
    assert names == ["10.1.2.3", "localhost", "127.0.0.1", "::1"]
    assert hosts_of(prepare(settings_in(tmp_path, "edge.example")))[0] == "edge.example"


def hosts_of(authority: Authority) -> list[str]:
    found = x509.load_pem_x509_certificate(authority.files.server.certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [
        str(name.value)
        if isinstance(name.value, ipaddress.IPv4Address | ipaddress.IPv6Address)
        else name.value
        for name in names
    ]


def test_a_server_certificate_near_its_end_is_replaced(tmp_path: Path) -> None:
    from cloud_hub.trust import certificates
    from edgeops.signing.keys import load_private_key

    settings = settings_in(tmp_path)
    authority = prepare(settings)
    files = authority.files
    ca, ca_key = x509.load_pem_x509_certificate(authority.ca_pem), load_private_key(files.ca_key)
    names = ["hub.example", "localhost", "127.0.0.1", "::1"]
    server_key = load_private_key(files.server.key)
    ending = certificates.server_certificate(names, server_key.public_key(), ca, ca_key, days=0)
    files.server.certificate.write_bytes(ending.public_bytes(Encoding.PEM))
    prepare(settings)
    found = x509.load_pem_x509_certificate(files.server.certificate.read_bytes())
    assert found.not_valid_after_utc > datetime.now(UTC) + timedelta(days=365)
    assert found.public_key() == load_private_key(files.server.key).public_key()


def test_a_cut_between_certificate_and_key_heals(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    files = AuthorityFiles.of(settings)
    prepare(settings)
    # As after a power cut before the authority's own key was written: it never issued anything.
    files.ca_key.unlink()
    healed = prepare(settings)
    server = x509.load_pem_x509_certificate(files.server.certificate.read_bytes())
    server.verify_directly_issued_by(x509.load_pem_x509_certificate(healed.ca_pem))
    assert server.issuer == x509.load_pem_x509_certificate(healed.ca_pem).subject


def test_the_revocation_list_is_signed_and_complete(authority: Authority) -> None:
    authority.update_revocations(lambda: [("0a1b", 1_700_000_000_000), ("ff", 1_700_000_001_000)])
    crl = x509.load_pem_x509_crl(authority.files.revocations.read_bytes())
    ca = x509.load_pem_x509_certificate(authority.ca_pem)
    public_key = ca.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    assert crl.is_signature_valid(public_key)
    assert [entry.serial_number for entry in crl] == [0x0A1B, 0xFF]
    assert crl.next_update_utc == ca.not_valid_after_utc
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    authority.update_revocations(list)
    newer = x509.load_pem_x509_crl(authority.files.revocations.read_bytes())
    assert newer.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number + 1
    assert len(newer) == 0


def test_an_authority_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="edgeops hub serve"):
        Authority.open(settings_in(tmp_path))


def test_a_key_of_another_authority_is_refused(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "a")
    authority = prepare(settings)
    other = prepare(settings_in(tmp_path / "b"))
    authority.files.ca_key.write_bytes(other.files.ca_key.read_bytes())
    with pytest.raises(ConfigError, match="is not the key of"):
        Authority.open(settings)
