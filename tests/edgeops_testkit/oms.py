"""The reference implementation of OMS as an oracle, and signatures forged by hand with a real key."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import model_signing
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgeops.canonical import sha256_bytes
from edgeops.manifest import SIGNATURE_FILE
from edgeops.signing.keys import PrivateKey, public_pem
from edgeops.signing.oms import PAYLOAD_TYPE, dsse_encoding

# The public functions have no type hints that a strict checker accepts.
_reference: Any = model_signing


def reference_accepts(bundle_dir: Path, public_key: Path) -> bool:
    """What `model_signing verify key BUNDLE --signature BUNDLE/model.sig` would say, in this process."""
    signature = bundle_dir / SIGNATURE_FILE
    files = _reference.hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE])
    verifier = _reference.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    try:
        verifier.set_hashing_config(files).verify(bundle_dir, signature)
    except Exception:  # noqa: BLE001 - it has no error class of its own: whatever it raises is a refusal.
        return False
    return True


def statement_over(digests: Mapping[str, str]) -> dict[str, Any]:
    """The in-toto statement that the reference would make of files with these digests, by path."""
    root = hashlib.sha256(b"".join(bytes.fromhex(digests[path]) for path in sorted(digests)))
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "bundle", "digest": {"sha256": root.hexdigest()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE_FILE],
            },
            "resources": [
                {"name": path, "algorithm": "sha256", "digest": digests[path]} for path in sorted(digests)
            ],
        },
    }


def seal(statement: Mapping[str, Any] | bytes, key: PrivateKey) -> dict[str, Any]:
    """A Sigstore bundle around a statement, whatever it says, with a signature that holds."""
    payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
    signature = key.sign(dsse_encoding(payload), ec.ECDSA(hashes.SHA256()))
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": sha256_bytes(public_pem(key.public_key()))},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
