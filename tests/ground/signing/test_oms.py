"""The signature: what a statement may say, and that the wrapping around it cannot be bent."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgeops.canonical import canonical_json, sha256_bytes
from edgeops.errors import ArtifactError, ConfigError
from edgeops.manifest import Manifest
from edgeops.signing.keys import PrivateKey, key_id, keyring, public_pem
from edgeops.signing.oms import (
    MAX_SIGNATURE_BYTES,
    SignedStatement,
    check_manifest,
    dsse_encoding,
    sign_bundle,
    verify_signature,
)
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.keys import make_keys
from edgeops_testkit.oms import seal, statement_over

KEY: PrivateKey = ec.generate_private_key(ec.SECP256R1())
OTHER: PrivateKey = ec.generate_private_key(ec.SECP256R1())
RING = keyring([KEY.public_key()])
DIGESTS = {"manifest.json": "a" * 64, "variants/a/model.onnx": "b" * 64}
Json = dict[str, Any]


def verify(bundle: Json | bytes, ring: dict[str, ec.EllipticCurvePublicKey] = RING) -> SignedStatement:
    data = bundle if isinstance(bundle, bytes) else json.dumps(bundle).encode()
    return verify_signature(data, ring)


def test_a_signature_that_holds_gives_the_statement() -> None:
    statement = verify(seal(statement_over(DIGESTS), KEY))
    assert statement.digests == DIGESTS
    assert statement.key_id == key_id(KEY.public_key())


def test_one_trusted_key_of_several_is_enough() -> None:
    ring = keyring([OTHER.public_key(), KEY.public_key()])
    assert verify(seal(statement_over(DIGESTS), KEY), ring).key_id == key_id(KEY.public_key())


def test_no_trusted_key_means_no_trust() -> None:
    for ring in ({}, keyring([OTHER.public_key()]), {key_id(OTHER.public_key()): KEY.public_key()}):
        with pytest.raises(ArtifactError, match="trusted") as caught:
            verify(seal(statement_over(DIGESTS), KEY), ring)
        assert caught.value.subject == "model.sig"


def test_the_encoding_is_dsse_s() -> None:
    # protocol.md, "Signature Definition": "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body.
    assert dsse_encoding(b"hello") == b"DSSEv1 28 application/vnd.in-toto+json 5 hello"


def root_of_nothing(statement: Json) -> None:
    statement["subject"][0]["digest"]["sha256"] = sha256_bytes(b"")


def twice(statement: Json) -> None:
    again = statement_over({"a": "b" * 64})["predicate"]["resources"] * 2
    statement["predicate"]["resources"] = again
    statement["subject"][0]["digest"]["sha256"] = sha256_bytes(bytes.fromhex("b" * 64) * 2)


def over(digests: dict[str, str]) -> Callable[[Json], None]:
    return lambda statement: statement.update(statement_over(digests))


def resource(**changes: object) -> Callable[[Json], None]:
    return lambda statement: statement["predicate"]["resources"][0].update(changes)


def serialization(**changes: object) -> Callable[[Json], None]:
    return lambda statement: statement["predicate"]["serialization"].update(changes)


BAD_STATEMENTS: dict[str, Callable[[Json], object]] = {
    "other statement type": lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
    "other predicate": lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"),
    "pre-1.0 predicate": lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"),
    "no subject": lambda s: s.update(subject=[]),
    "two subjects": lambda s: s["subject"].append(s["subject"][0]),
    "root digest of other files": root_of_nothing,
    "root digest missing": lambda s: s["subject"][0].update(digest={}),
    "second root digest": lambda s: s["subject"][0]["digest"].update(sha512="c" * 128),
    "no predicate": lambda s: s.pop("predicate"),
    "no resources": lambda s: s["predicate"].pop("resources"),
    "shards": serialization(method="shards", shard_size=10),
    "other hash": serialization(hash_type="blake2"),
    "symbolic links": serialization(allow_symlinks=True),
    "other algorithm": resource(algorithm="blake3"),
    "upper-case digest": resource(digest="A" * 64),
    "short digest": resource(digest="ab"),
    "digest not hex": resource(digest="x" * 64),
    "the same file twice": twice,
    "path upwards": over({"../manifest.json": "a" * 64}),
    "absolute path": over({"/manifest.json": "a" * 64}),
    "path not normal": over({"a//b": "a" * 64}),
    "empty path": over({"": "a" * 64}),
    "signs the signature": over({"model.sig": "a" * 64}),
}


@pytest.mark.parametrize("change", BAD_STATEMENTS.values(), ids=BAD_STATEMENTS.keys())
def test_a_statement_that_must_not_be_is_refused_though_signed(change: Callable[[Json], object]) -> None:
    statement = statement_over(DIGESTS)
    change(statement)
    with pytest.raises(ArtifactError) as caught:
        verify(seal(statement, KEY))
    assert caught.value.subject == "model.sig"


def test_a_statement_may_say_more_than_v1_0_defines() -> None:
    # OMS v1.0: verifiers ignore other fields of the predicate. They are signed, so nobody slipped them in.
    statement = statement_over(DIGESTS)
    statement["predicate"]["builder"] = {"id": "x"}
    assert verify(seal(statement, KEY)).digests == DIGESTS


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b"\xff", b'{"_type": 1, "_type": 1}', b"[" * 100_000])
def test_a_payload_that_is_no_statement_is_refused_though_signed(payload: bytes) -> None:
    with pytest.raises(ArtifactError):
        verify(seal(payload, KEY))


def envelope(**changes: object) -> Callable[[Json], None]:
    return lambda bundle: bundle["dsseEnvelope"].update(changes)


def material(**changes: object) -> Callable[[Json], None]:
    return lambda bundle: bundle["verificationMaterial"].update(changes)


def add_whitespace_to_base64(bundle: Json) -> None:
    bundle["dsseEnvelope"]["payload"] += "\n"


def resign_as_before_1_0(bundle: Json) -> None:
    # The encoding of model-signing 0.2, which the reference still accepts.
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    text = f"DSSEV1 28 application/vnd.in-toto+json {len(payload)} {payload!r}"
    signature = KEY.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()


def add_bits_to_base64(bundle: Json) -> None:
    # The last character before the padding carries bits that no byte has: another text, the same bytes.
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    assert len(payload) % 3 == 1
    text = bundle["dsseEnvelope"]["payload"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    bundle["dsseEnvelope"]["payload"] = text[:-3] + alphabet[alphabet.index(text[-3]) + 1] + "=="


BAD_WRAPPINGS: dict[str, Callable[[Json], object]] = {
    "other media type": lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"),
    "no media type": lambda b: b.pop("mediaType"),
    "unknown field": lambda b: b.update(extra=1),
    "no envelope": lambda b: b.pop("dsseEnvelope"),
    "message signature beside": lambda b: b.update(messageSignature={}),
    "no hint": material(publicKey={}),
    "another key's hint": material(publicKey={"hint": sha256_bytes(public_pem(OTHER.public_key()))}),
    "empty hint": material(publicKey={"hint": ""}),
    "key inside": material(publicKey={"hint": "", "rawBytes": "AAAA"}),
    "certificate": material(certificate={"rawBytes": "AAAA"}),
    "log entries": material(tlogEntries=[{}]),
    "other payload type": envelope(payloadType="application/json"),
    "no signature": envelope(signatures=[]),
    "empty signature": envelope(signatures=[{"sig": "", "keyid": ""}]),
    "two signatures": lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0]),
    "key id": lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="x"),
    "no base64": envelope(payload="%%%%"),
    "base64 outside ASCII": envelope(payload="é"),
    "base64 with white space": add_whitespace_to_base64,
    "base64 with spare bits": add_bits_to_base64,
    "pre-1.0 encoding": resign_as_before_1_0,
}


def one_more_than_threes() -> Json:
    """A statement whose JSON is one byte longer than a multiple of three."""
    statement = statement_over(DIGESTS)
    while len(json.dumps(statement)) % 3 != 1:
        statement["subject"][0]["name"] += "x"
    return statement


@pytest.mark.parametrize("change", BAD_WRAPPINGS.values(), ids=BAD_WRAPPINGS.keys())
def test_a_wrapping_that_must_not_be_is_refused(change: Callable[[Json], object]) -> None:
    bundle = seal(one_more_than_threes(), KEY)
    changed = copy.deepcopy(bundle)
    change(changed)
    assert verify(bundle).digests == DIGESTS
    with pytest.raises(ArtifactError) as caught:
        verify(changed)
    assert caught.value.subject == "model.sig"


def test_a_signature_by_another_key_under_the_right_hint_is_refused() -> None:
    bundle = seal(statement_over(DIGESTS), OTHER)
    bundle["verificationMaterial"]["publicKey"]["hint"] = sha256_bytes(public_pem(KEY.public_key()))
    with pytest.raises(ArtifactError, match="does not hold"):
        verify(bundle)


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b'{"mediaType": 1, "mediaType": 1}', b"[" * 10**6]
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        verify(data)


def test_a_huge_signature_is_refused_before_it_is_read() -> None:
    with pytest.raises(ArtifactError, match="larger"):
        verify(b" " * (MAX_SIGNATURE_BYTES + 1))


def statement_for(data: bytes, **extra: str) -> SignedStatement:
    manifest = Manifest.parse(data)
    digests = {path: entry.sha256 for path, entry in manifest.all_files().items()}
    return SignedStatement(digests | {"manifest.json": sha256_bytes(data)} | extra, "k")


@pytest.fixture(scope="module")
def manifest_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return (make_bundle(tmp_path_factory.mktemp("bundle"), key=None) / "manifest.json").read_bytes()


def test_a_manifest_that_fits_the_statement_is_accepted(manifest_bytes: bytes) -> None:
    manifest = check_manifest(statement_for(manifest_bytes), manifest_bytes)
    assert manifest.digest == sha256_bytes(manifest_bytes)
    with_measurements = statement_for(manifest_bytes, **{"measurements.json": "c" * 64})
    assert check_manifest(with_measurements, manifest_bytes).digest == manifest.digest


def test_another_manifest_than_the_signed_one_is_refused(manifest_bytes: bytes) -> None:
    other = manifest_bytes.replace(b'"version":"1.0.0"', b'"version":"0.9.0"')
    with pytest.raises(ArtifactError, match="not the one") as caught:
        check_manifest(statement_for(manifest_bytes), other)
    assert caught.value.subject == "manifest.json"


def test_a_statement_without_the_manifest_is_refused(manifest_bytes: bytes) -> None:
    with pytest.raises(ArtifactError, match="does not cover"):
        check_manifest(SignedStatement({}, "k"), manifest_bytes)


def test_a_signed_manifest_that_is_not_canonical_is_refused(manifest_bytes: bytes) -> None:
    pretty = json.dumps(json.loads(manifest_bytes), indent=1).encode()
    with pytest.raises(ArtifactError, match="canonical"):
        check_manifest(statement_for(pretty), pretty)


@pytest.mark.parametrize("change", ["missing", "other digest", "extra"])
def test_manifest_and_statement_must_tell_the_same(manifest_bytes: bytes, change: str) -> None:
    digests = dict(statement_for(manifest_bytes).digests)
    if change == "missing":
        path = "README.md"
        del digests[path]
    elif change == "other digest":
        path = "variants/onnx-fp32/model.onnx"
        digests[path] = "c" * 64
    else:
        path = "variants/onnx-fp32/hook.py"
        digests[path] = "c" * 64
    with pytest.raises(ArtifactError) as caught:
        check_manifest(SignedStatement(digests, "k"), manifest_bytes)
    assert caught.value.subject == path


def test_a_signed_manifest_of_another_major_schema_is_refused(manifest_bytes: bytes) -> None:
    downgraded = canonical_json(json.loads(manifest_bytes) | {"schema_version": "0.9"})
    statement = SignedStatement({"manifest.json": sha256_bytes(downgraded)}, "k")
    with pytest.raises(ArtifactError, match="schema version"):
        check_manifest(statement, downgraded)


def test_signing_again_replaces_the_signature(tmp_path: Path) -> None:
    first, second = make_keys(tmp_path, "first"), make_keys(tmp_path, "second")
    bundle = make_bundle(tmp_path, key=first.private)
    sign_bundle(bundle, second.private)
    data = (bundle / "model.sig").read_bytes()
    assert verify_signature(data, second.ring).key_id in second.ring
    with pytest.raises(ArtifactError, match="trusted"):
        verify_signature(data, first.ring)


def test_signing_with_an_encrypted_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeops.signing.keys import load_public_key, new_key

    private, public = new_key("builder", tmp_path, passphrase=b"open sesame")
    bundle = make_bundle(tmp_path, key=None)
    monkeypatch.delenv("EDGEOPS_KEY_PASSPHRASE", raising=False)
    with pytest.raises(ConfigError, match="EDGEOPS_KEY_PASSPHRASE"):
        sign_bundle(bundle, private)
    monkeypatch.setenv("EDGEOPS_KEY_PASSPHRASE", "open sesame")
    sign_bundle(bundle, private)
    ring = keyring([load_public_key(public)])
    assert verify_signature((bundle / "model.sig").read_bytes(), ring).key_id in ring


@pytest.mark.parametrize("flaw", ["stray file", "changed file", "missing file", "symbolic link", "git file"])
def test_what_would_not_verify_is_not_signed(tmp_path: Path, flaw: str) -> None:
    bundle = make_bundle(tmp_path, key=None)
    if flaw == "stray file":
        (bundle / "notes.txt").write_text("not in the manifest")
    elif flaw == "changed file":
        (bundle / "README.md").write_text("changed after the manifest was written")
    elif flaw == "missing file":
        (bundle / "README.md").unlink()
    elif flaw == "git file":
        (bundle / ".gitignore").write_text("*")
    else:
        (bundle / "link").symlink_to("README.md")
    with pytest.raises(ArtifactError):
        sign_bundle(bundle, make_keys(tmp_path).private)
    assert not (bundle / "model.sig").exists()
