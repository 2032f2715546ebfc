"""A PKCS #11 token in software: SoftHSM2, with a P-256 key in it."""

from __future__ import annotations

import gc
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgeops_testkit.keys import make_keys

PIN = "5678-builder"
_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)


@dataclass(frozen=True)
class Token:
    """The token's key: its URI without a PIN, its public key's file, and the library behind it."""

    uri: str
    public: Path
    module: Path


def why_not() -> str | None:
    """What is missing here to test with a token."""
    if find_spec("PyKCS11") is None:
        return "PyKCS11 is not installed"
    if shutil.which("softhsm2-util") is None:
        return "softhsm2-util is not installed"
    if not any(Path(path).exists() for path in _MODULES):
        return "libsofthsm2.so is not where it usually is"
    return None


@contextmanager
def token(folder: Path, monkeypatch: pytest.MonkeyPatch, *, curve: str = "P-256") -> Iterator[Token]:
    """A token below `folder`. This process, and what it starts, find it by SOFTHSM2_CONF."""
    module = next(Path(path) for path in _MODULES if Path(path).exists())
    (folder / "tokens").mkdir(parents=True)
    configuration = folder / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    keys = make_keys(folder, "hsm")
    if curve != "P-256":
        key = ec.generate_private_key(ec.SECP384R1())
        keys.private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    _softhsm("--init-token", "--free", "--label", "desk", "--so-pin", "so-1234", "--pin", PIN)
    _softhsm(
        "--import", str(keys.private), "--token", "desk", "--label", "signing", "--id", "A1", "--pin", PIN
    )
    keys.private.unlink()  # from here on the token alone has it
    yield Token(f"pkcs11:token=desk;object=signing?module-path={module}", keys.public, module)
    # A process logs in once, until the last session is closed: errors that were caught may hold some.
    gc.collect()


def _softhsm(*arguments: str) -> None:
    subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True)
