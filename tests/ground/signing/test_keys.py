"""Keys: made once, never overwritten, readable by their owner only, P-256 and nothing else."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from edgeops.canonical import sha256_bytes
from edgeops.errors import BadRequestError, ConfigError, ConflictError
from edgeops.signing.keys import (
    key_id,
    keyring,
    load_private_key,
    load_public_key,
    load_public_keys,
    new_key,
    public_pem,
)


def test_a_pair_belongs_together_and_the_private_half_is_secret(tmp_path: Path) -> None:
    private, public = new_key("builder", tmp_path / "made" / "here")
    assert (private.name, public.name) == ("builder.key", "builder.pub")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert public.read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")
    assert key_id(load_private_key(private).public_key()) == key_id(load_public_key(public))
    assert sorted(path.name for path in private.parent.iterdir()) == ["builder.key", "builder.pub"]


def test_a_key_id_is_the_hash_of_the_der_key(tmp_path: Path) -> None:
    key = load_public_key(new_key("builder", tmp_path)[1])
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert key_id(key) == sha256_bytes(der)


@pytest.mark.parametrize("taken", ["builder.key", "builder.pub"])
@pytest.mark.parametrize("dangling", [False, True])
def test_nothing_is_overwritten(tmp_path: Path, taken: str, dangling: bool) -> None:
    if dangling:
        (tmp_path / taken).symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / taken).write_text("precious")
    with pytest.raises(ConflictError) as caught:
        new_key("builder", tmp_path)
    assert caught.value.subject == str(tmp_path / taken)
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert dangling or (tmp_path / taken).read_text() == "precious"


def test_of_many_who_make_the_same_key_at_once_one_wins(tmp_path: Path) -> None:
    for turn in range(10):
        together = threading.Barrier(4)

        def attempt(folder: Path = tmp_path / str(turn), together: threading.Barrier = together) -> bool:
            together.wait()
            try:
                new_key("builder", folder)
            except ConflictError:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            outcomes = [future.result() for future in [pool.submit(attempt) for _ in range(4)]]
        assert outcomes.count(True) == 1
        private, public = (tmp_path / str(turn) / f"builder.{half}" for half in ("key", "pub"))
        assert key_id(load_private_key(private).public_key()) == key_id(load_public_key(public))


def test_a_name_cannot_lead_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(BadRequestError):
        new_key("../builder", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        new_key("builder", tmp_path / "file" / "below")
    assert "--out" in str(caught.value)


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = new_key("builder", tmp_path, passphrase=b"open sesame")
    assert b"ENCRYPTED" in private.read_bytes()
    monkeypatch.delenv("EDGEOPS_KEY_PASSPHRASE", raising=False)
    with pytest.raises(ConfigError, match="EDGEOPS_KEY_PASSPHRASE") as missing:
        load_private_key(private)
    assert missing.value.subject == str(private)
    monkeypatch.setenv("EDGEOPS_KEY_PASSPHRASE", "wrong words")
    with pytest.raises(ConfigError, match="with this passphrase") as wrong:
        load_private_key(private)
    assert "wrong words" not in str(wrong.value)
    monkeypatch.setenv("EDGEOPS_KEY_PASSPHRASE", "open sesame")
    assert key_id(load_private_key(private).public_key()) == key_id(load_public_key(public))


def test_a_passphrase_does_not_hinder_a_plain_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, _ = new_key("builder", tmp_path)
    monkeypatch.setenv("EDGEOPS_KEY_PASSPHRASE", "for another key")
    assert load_private_key(private).curve.name == "secp256r1"


def pem_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> tuple[bytes, bytes]:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public


@pytest.mark.parametrize(
    "other",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-384", "secp256k1", "Ed25519"],
)
def test_other_kinds_of_keys_are_refused(
    tmp_path: Path, other: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
) -> None:
    private, public = pem_of(other)
    (tmp_path / "a.key").write_bytes(private)
    with pytest.raises(ConfigError, match="P-256"):
        load_private_key(tmp_path / "a.key")
    with pytest.raises(ConfigError, match="P-256"):
        load_public_key(public)


@pytest.mark.parametrize(
    "data", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.pem"
    path.write_bytes(data)
    for load in (load_private_key, load_public_key):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert caught.value.subject == str(path)


def test_the_halves_are_not_taken_for_each_other(tmp_path: Path) -> None:
    private, public = new_key("builder", tmp_path)
    with pytest.raises(ConfigError):
        load_private_key(public)
    with pytest.raises(ConfigError):
        load_public_key(private)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_public_key(tmp_path / "missing.pub")
    (tmp_path / "huge.pub").write_bytes(bytes(1 << 20))
    with pytest.raises(ConfigError, match="too large"):
        load_public_key(tmp_path / "huge.pub")


def test_public_keys_come_from_text_too(tmp_path: Path) -> None:
    key = load_public_key(new_key("builder", tmp_path)[1])
    pem = public_pem(key)
    assert key_id(load_public_key(pem)) == key_id(load_public_key(pem.decode())) == key_id(key)


def test_a_folder_of_keys_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    assert load_public_keys(tmp_path) == {}
    keys = [load_public_key(new_key(name, tmp_path)[1]) for name in ("one", "two")]
    assert load_public_keys(tmp_path).keys() == keyring(keys).keys()
    (tmp_path / "three.pub").write_text("damaged")
    with pytest.raises(ConfigError, match=r"three\.pub"):
        load_public_keys(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        load_public_keys(tmp_path / "missing")
