"""P-256 keys in PEM files: the builder's, and the hub's for desired state.

A private key is PKCS #8 (RFC 5958), readable by its owner only; a public one is a
SubjectPublicKeyInfo (RFC 5280, 4.1.2.7). Other curves are refused: one algorithm, nothing to negotiate.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgeops.durable import fsync_directory
from edgeops.errors import ConfigError, ConflictError
from edgeops.names import require_name
from edgeops.signing.passphrases import PASSPHRASE_VARIABLE

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey
PublicKeys = Mapping[str, PublicKey]

_MAX_KEY_BYTES = 64 << 10


def new_key(name: str, folder: Path, *, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """Makes a key pair in `folder` (made if missing): `NAME.key`, mode 0600, and `NAME.pub`.

    With a `passphrase` the private key is encrypted by it. Existing files are never overwritten:
    raises `ConflictError` naming the file, and then writes nothing.
    """
    require_name(name, "key")
    private_path, public_path = folder / f"{name}.key", folder / f"{name}.pub"
    for path in (private_path, public_path):
        if path.exists() or path.is_symlink():
            raise _taken(path)
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _create(private_path, private_pem(key, passphrase=passphrase), 0o600)
        try:
            _create(public_path, public_pem(key.public_key()), 0o644)
        except BaseException:
            private_path.unlink()
            raise
        fsync_directory(folder)
    except FileExistsError as error:
        raise _taken(Path(error.filename)) from error
    except OSError as error:
        raise ConfigError(
            f"No key can be written to {folder} ({error.strerror}).",
            remedy="Choose another folder with --out.",
            subject=str(folder),
        ) from error
    return private_path, public_path


def private_pem(key: PrivateKey, *, passphrase: bytes | None = None) -> bytes:
    """The private key as PKCS #8 in PEM, encrypted if there is a passphrase."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def public_pem(key: PublicKey) -> bytes:
    """The public key as SubjectPublicKeyInfo in PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_id(key: PublicKey) -> str:
    """How a key is named everywhere: the SHA-256, in hex, of its DER SubjectPublicKeyInfo."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def passphrase_for(path: Path, *, passphrase: bytes | None = None) -> bytes | None:
    """What opens the private key in `path`: None if it is not encrypted, else the `passphrase` given, else
    `EDGEOPS_KEY_PASSPHRASE` (None too if that is not set)."""
    return _passphrase(_read(path), passphrase)


def is_encrypted(path: Path) -> bool:
    """Whether the private key in `path` needs a passphrase. `ConfigError` if the file cannot be read."""
    return b"ENCRYPTED" in _read(path)


def load_private_key(path: Path, *, passphrase: bytes | None = None) -> PrivateKey:
    """The P-256 private key in a PEM file; an encrypted one is opened by `passphrase`, or else by
    `EDGEOPS_KEY_PASSPHRASE`.

    Raises `ConfigError` naming the file when it is missing, no such key, or the passphrase is wrong.
    """
    data = _read(path)
    try:
        key = serialization.load_pem_private_key(data, _passphrase(data, passphrase))
    except TypeError:
        # What cryptography raises when a passphrase is needed and none was given.
        raise ConfigError(
            f"The key {path} is protected by a passphrase.",
            remedy=f"Set {PASSPHRASE_VARIABLE} to it, or give it by --passphrase-fd.",
            subject=str(path),
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        wrong = " with this passphrase" if b"ENCRYPTED" in data else ""
        raise ConfigError(
            f"{path} holds no private key that can be read{wrong}.",
            remedy=f"Give a PEM file that edgeops keys new made, and {PASSPHRASE_VARIABLE} if it needs one.",
            subject=str(path),
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _not_p256(str(path))
    return key


def load_public_key(source: Path | str | bytes) -> PublicKey:
    """The P-256 public key in a PEM file (a `Path`) or in PEM text (`str` or `bytes`).

    Raises `ConfigError`, naming the file, when it is missing or no such key.
    """
    where = str(source) if isinstance(source, Path) else "the given PEM text"
    if isinstance(source, Path):
        data = _read(source)
    else:
        data = source.encode() if isinstance(source, str) else source
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"There is no public key in {where}.",
            remedy="Give the .pub file that edgeops keys new made.",
            subject=where,
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _not_p256(where)
    return key


def load_public_keys(folder: Path) -> dict[str, PublicKey]:
    """The public keys of all `*.pub` files in `folder`, by key id; empty if there are none.

    One unreadable file fails the lot (`ConfigError`): a trust store must not shrink unnoticed.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"The folder of trusted keys {folder} does not exist.",
            remedy="Make it, and copy the builders' .pub files there.",
            subject=str(folder),
        )
    return keyring(load_public_key(path) for path in sorted(folder.glob("*.pub")))


def keyring(keys: Iterable[PublicKey]) -> dict[str, PublicKey]:
    """Public keys by key id, as verification takes them."""
    return {key_id(key): key for key in keys}


def _passphrase(pem: bytes, given: bytes | None) -> bytes | None:
    if b"ENCRYPTED" not in pem:
        return None
    if given is not None:
        return given
    value = os.environ.get(PASSPHRASE_VARIABLE)
    return value.encode() if value else None


def _create(path: Path, data: bytes, mode: int) -> None:
    # O_EXCL also refuses a symbolic link, so nobody can direct the key elsewhere.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"The key {path} cannot be read ({error.strerror}).",
            remedy="Check the path; edgeops keys new makes a key pair.",
            subject=str(path),
        ) from error
    if len(data) > _MAX_KEY_BYTES:
        raise ConfigError(f"{path} is too large for a key.", remedy="Check the path.", subject=str(path))
    return data


def _taken(path: Path) -> ConflictError:
    return ConflictError(
        f"{path} exists already and is never overwritten.",
        remedy="Choose another name or folder, or move the file away.",
        subject=str(path),
    )


def _not_p256(where: str) -> ConfigError:
    return ConfigError(
        f"The key in {where} is not a P-256 one.",
        remedy="Make one with edgeops keys new.",
        subject=where,
    )
