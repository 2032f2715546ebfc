"""Who signs bundles: a key in a file, or one in a hardware module that never leaves it.

A signer has a public key and can sign a bundle. A key management service fits as one more class.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec

from edgeops.errors import ConfigError
from edgeops.signing.keys import PublicKey, is_encrypted, load_private_key
from edgeops.signing.oms import reference, sign_bundle, sign_with
from edgeops.signing.passphrases import PASSPHRASE_VARIABLE, PIN_VARIABLE, Prompt, find_secret

PKCS11_SCHEME = "pkcs11:"
# Where a `module-name` is looked for, beside what model_signing knows.
MODULE_FOLDERS = (
    "/usr/lib64/pkcs11/",
    "/usr/lib/pkcs11/",
    f"/usr/lib/{platform.machine()}-linux-gnu/pkcs11/",
    f"/usr/lib/{platform.machine()}-linux-gnu/softhsm/",
    "/usr/lib/softhsm/",
    "/usr/local/lib/",
    "/opt/homebrew/lib/",
)


class Signer(Protocol):
    """Signs bundles with one P-256 key."""

    @property
    def public_key(self) -> PublicKey:
        """What its signatures are verified with."""

    def sign_bundle(self, folder: Path) -> None:
        """Signs as `edgeops.signing.oms.sign_with` does. `ConfigError` if the key cannot be used."""


def open_signer(key: str, *, secret_fd: int | None = None, prompt: Prompt | None = None) -> Signer:
    """The signer that `key` names: a PEM file, or a `pkcs11:` URI (RFC 7512).

    Its passphrase or PIN is read from the file descriptor `secret_fd`, or else from EDGEOPS_KEY_PASSPHRASE
    or EDGEOPS_KEY_PIN, or else asked for by `prompt`. Raises `ConfigError` if the key cannot be used.
    """
    if key.startswith(PKCS11_SCHEME):
        return Pkcs11Signer.open(key, secret_fd=secret_fd, prompt=prompt)
    return FileSigner.open(Path(key), secret_fd=secret_fd, prompt=prompt)


class FileSigner:
    """A P-256 key in a PEM file, encrypted or not."""

    def __init__(self, path: Path, passphrase: bytes | None, public_key: PublicKey) -> None:
        self.public_key = public_key
        self._path = path
        self._passphrase = passphrase

    @classmethod
    def open(cls, path: Path, *, secret_fd: int | None = None, prompt: Prompt | None = None) -> FileSigner:
        """The key in the file. A passphrase is looked for only if the key is encrypted."""
        passphrase = None
        if is_encrypted(path):
            passphrase = find_secret(
                PASSPHRASE_VARIABLE, fd=secret_fd, prompt=prompt, what=f"Passphrase of {path}"
            )
        return cls(path, passphrase, load_private_key(path, passphrase=passphrase).public_key())

    def sign_bundle(self, folder: Path) -> None:
        sign_bundle(folder, self._path, passphrase=self._passphrase)


class Pkcs11Signer:
    """A P-256 key in a PKCS #11 token: a hardware module, a smart card, SoftHSM. Needs the packages of
    `edgeops[pkcs11]`. The key signs inside the token (CKM_ECDSA)."""

    def __init__(self, config: Any, public_key: PublicKey) -> None:
        self.public_key = public_key
        # It holds the session with the token. One is enough: a process can log in only once.
        self._config = config

    @classmethod
    def open(cls, uri: str, *, secret_fd: int | None = None, prompt: Prompt | None = None) -> Pkcs11Signer:
        """The key that the URI names by `id` or `object`, in the token that it names by `token` or `slot-id`,
        through the library in `module-path` or found by `module-name`. The PIN may come from a file that
        the URI names by `pin-source`; `pin-value` is refused, since other users see command lines."""
        path, query = _split(uri)
        if "pin-value" in query:
            raise ConfigError(
                "A PIN in the key's URI can be read by every user of this machine.",
                remedy=f"Leave pin-value out; use {PIN_VARIABLE}, --passphrase-fd or pin-source.",
                subject="pin-value",
            )
        source = query.pop("pin-source", None)
        if source is not None:
            pin: bytes | None = _pin_from(source)
        else:
            pin = find_secret(PIN_VARIABLE, fd=secret_fd, prompt=prompt, what="PIN of the token")
        if pin is not None:
            query["pin-value"] = quote(pin, safe="")
        whole = (
            PKCS11_SCHEME
            + path
            + "".join(
                ("&" if index else "?") + f"{name}={value}"
                for index, (name, value) in enumerate(query.items())
            )
        )
        config = reference().signing.Config()
        with _token_errors():
            config.use_pkcs11_signer(pkcs11_uri=whole, module_paths=MODULE_FOLDERS)
        # The reference keeps its signer to itself, and gives no other way to the key in the token.
        key = config._signer.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError(
                "The key in the token is not a P-256 one.",
                remedy="Make one there on the curve secp256r1 (prime256v1).",
                subject=PKCS11_SCHEME,
            )
        return cls(config, key)

    def sign_bundle(self, folder: Path) -> None:
        with _token_errors():
            sign_with(folder, self._config, self.public_key)


def _split(uri: str) -> tuple[str, dict[str, str]]:
    """The path and the query attributes of a PKCS #11 URI (RFC 7512, section 2.3), still escaped."""
    path, _, query = uri.removeprefix(PKCS11_SCHEME).partition("?")
    pairs = [part.partition("=") for part in query.split("&") if part]
    return path, {unquote_to_bytes(name).decode(errors="replace"): value for name, _, value in pairs}


def _pin_from(source: str) -> bytes:
    """The first line of the file that `pin-source` names by its absolute path, as it is or as a file: URI."""
    parts = urlsplit(unquote_to_bytes(source).decode(errors="replace"))
    path = Path(parts.path)
    if parts.scheme not in ("", "file") or not path.is_absolute():
        raise ConfigError(
            f"pin-source {source!r} is not the absolute path of a file.",
            remedy="Name a file that only you can read, such as pin-source=file:/root/pin.",
            subject="pin-source",
        )
    try:
        return path.read_bytes().split(b"\n", 1)[0].rstrip(b"\r")
    except OSError as error:
        raise ConfigError(
            f"The PIN's file {path} cannot be read ({error.strerror}).", subject=str(path)
        ) from error


@contextlib.contextmanager
def _token_errors() -> Iterator[None]:
    """What the token or its library says, as errors of ours. It never holds the PIN, and the URI that does is
    not repeated."""
    try:
        import PyKCS11
    except ImportError as error:
        raise ConfigError(
            "Keys in PKCS #11 tokens need the Python package PyKCS11.",
            remedy="Install it: pip install 'edgeops[pkcs11]'.",
            subject="PyKCS11",
        ) from error
    try:
        yield
    except (ValueError, OSError, PyKCS11.PyKCS11Error) as error:
        why = str(error) or str(error.__cause__ or type(error).__name__)
        raise ConfigError(
            f"The key in the PKCS #11 token cannot be used ({why}).",
            remedy="Check token, object, module-path and PIN; pkcs11-tool --list-objects helps.",
            subject=PKCS11_SCHEME,
        ) from error
