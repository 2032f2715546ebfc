"""`edgeops keys`, `verify` and `inspect`, as they are typed."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeops.bundle import file_entry, other_files, read_manifest, write_manifest
from edgeops.canonical import canonical_json
from edgeops.manifest import ColumnSpec, Language, ManifestFields, TensorSpec
from edgeops.signing.oms import sign_bundle
from edgeops_testkit.bundles import DEVICE_VARIANT, make_bundle
from edgeops_testkit.keys import KeyPair, make_keys
from edgeops_testkit.oms import reference_accepts

EDGEOPS = str(Path(sys.executable).with_name("edgeops"))


@dataclass(frozen=True)
class Outcome:
    """A finished command."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The one JSON line that it printed."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        return json.loads(lines[0])


def edgeops(*arguments: str | Path, stdin: str = "") -> Outcome:
    done = subprocess.run(
        [EDGEOPS, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def bundle(tmp_path: Path, keys: KeyPair) -> Path:
    return make_bundle(tmp_path, key=keys.private)


pytestmark = pytest.mark.slow


def test_keys_new_makes_a_pair_that_signs(tmp_path: Path) -> None:
    done = edgeops("keys", "new", "builder", "--out", tmp_path / "keys", "--json")
    assert done.status == 0, done.err
    private, public = Path(done.data["private"]), Path(done.data["public"])
    assert (private, public) == (tmp_path / "keys/builder.key", tmp_path / "keys/builder.pub")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    bundle = make_bundle(tmp_path, key=private)
    verified = edgeops("verify", bundle, "--key", public, "--json")
    assert (verified.status, verified.data["key_id"]) == (0, done.data["key_id"])


def test_keys_new_never_overwrites(tmp_path: Path) -> None:
    assert edgeops("keys", "new", "builder", "--out", tmp_path).status == 0
    before = (tmp_path / "builder.key").read_bytes()
    again = edgeops("keys", "new", "builder", "--out", tmp_path)
    assert again.status == 10
    assert "builder.key exists already" in again.err
    assert (tmp_path / "builder.key").read_bytes() == before


def test_keys_new_asks_for_a_passphrase_and_shows_it_nowhere(tmp_path: Path) -> None:
    done = edgeops("keys", "new", "builder", "--out", tmp_path, "--encrypt", stdin="sesame-7\nsesame-7\n")
    assert done.status == 0, done.err
    assert "sesame-7" not in done.out + done.err
    assert b"ENCRYPTED" in (tmp_path / "builder.key").read_bytes()


def test_verify_accepts_what_the_reference_accepts(bundle: Path, keys: KeyPair) -> None:
    assert reference_accepts(bundle, keys.public)
    done = edgeops("verify", bundle, "--key", keys.public)
    assert (done.status, done.err) == (0, "")
    assert "digits 1.0.0 is whole" in done.out
    data = edgeops("verify", bundle, "--key", keys.public, "--json").data
    assert data["digest"] in done.out
    assert (data["name"], data["version"], data["path"]) == ("digits", "1.0.0", str(bundle))


@pytest.mark.parametrize("path", ["variants/onnx-fp32/model.onnx", "README.md", "manifest.json", "model.sig"])
def test_verify_names_the_changed_file(bundle: Path, keys: KeyPair, path: str) -> None:
    data = bytearray((bundle / path).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / path).write_bytes(data)
    done = edgeops("verify", bundle, "--key", keys.public, "--json")
    assert done.status == 3
    assert path in done.err
    assert (done.data["error"]["subject"], done.data["error"]["kind"]) == (path, "artifact")


def test_verify_with_another_key_refuses(bundle: Path, keys: KeyPair, tmp_path: Path) -> None:
    other = make_keys(tmp_path, "other")
    done = edgeops("verify", bundle, "--key", other.public)
    assert done.status == 3
    assert "model.sig" in done.err
    assert edgeops("verify", bundle, "--key", other.public, "--key", keys.public).status == 0


def test_verify_of_a_slot(bundle: Path, keys: KeyPair) -> None:
    done = edgeops("verify", bundle, "--key", keys.public, "--variant", DEVICE_VARIANT)
    assert done.status == 3
    assert "does not belong" in done.err


def test_verify_without_a_key_is_a_usage_error(bundle: Path) -> None:
    done = edgeops("verify", bundle)
    assert done.status == 2
    assert "--key" in done.err


def test_a_key_that_is_none_is_said_plainly(bundle: Path) -> None:
    done = edgeops("verify", bundle, "--key", bundle / "README.md")
    assert done.status == 6
    assert "no public key" in done.err
    assert "Traceback" not in done.err


def test_inspect_says_whether_the_signature_was_checked(bundle: Path, keys: KeyPair) -> None:
    unchecked = edgeops("inspect", bundle)
    assert unchecked.status == 0
    assert "NOT CHECKED" in unchecked.out
    checked = edgeops("inspect", bundle, "--key", keys.public)
    assert "verified" in checked.out
    assert "NOT CHECKED" not in checked.out
    (bundle / "model.sig").unlink()
    assert "not signed" in edgeops("inspect", bundle).out
    assert edgeops("inspect", bundle, "--key", keys.public).status == 3


def test_inspect_with_a_key_refuses_what_was_changed(bundle: Path, keys: KeyPair) -> None:
    (bundle / "README.md").write_text("changed")
    done = edgeops("inspect", bundle, "--key", keys.public)
    assert done.status == 3
    assert "README.md" in done.err
    assert done.out == ""


def test_inspect_as_data(bundle: Path, keys: KeyPair) -> None:
    data = edgeops("inspect", bundle, "--key", keys.public, "--json").data
    manifest = read_manifest(bundle)
    assert data["digest"] == manifest.digest
    assert data["signature"] == {"present": True, "checked": True, "key_id": next(iter(keys.ring))}
    assert [variant["id"] for variant in data["variants"]] == [v.id for v in manifest.fields.variants]
    assert data["variants"][0]["size_bytes"] == manifest.fields.variants[0].files[0].size_bytes
    assert data["variants"][0]["quality"] == manifest.fields.variants[0].quality
    assert data["measurements"]["run_p50_us"][DEVICE_VARIANT] > 0


def test_inspect_shows_the_contract_and_the_temperature(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.fields.fallback is not None
    write_manifest(
        bundle,
        rewritten(bundle, fallback=msgspec.structs.replace(manifest.fields.fallback, temperature=1.5)),
    )
    shown = edgeops("inspect", bundle).out
    assert "image: FP32, any x 1 x 8 x 8, 0 to 1, counted outside" in shown
    assert "below a confidence of 0.6 at temperature 1.5" in shown
    data = edgeops("inspect", bundle, "--json").data
    assert data["fallback"]["temperature"] == 1.5
    assert data["inputs"] == [
        {
            "name": "image",
            "dtype": "FP32",
            "shape": [-1, 1, 8, 8],
            "minimum": 0.0,
            "maximum": 1.0,
            "outside": "count",
        }
    ]


def test_inspect_shows_columns_texts_and_languages(bundle: Path) -> None:
    columns = (
        ColumnSpec(name="age", minimum=0.0, maximum=120.0),
        ColumnSpec(name="income", minimum=0.0, max_null_rate=0.25),
        ColumnSpec(name="balance"),
    )
    inputs = (
        TensorSpec(name="image", dtype="FP32", shape=(-1, 3), columns=columns, outside="refuse"),
        TensorSpec(name="note", dtype="BYTES", shape=(-1,), max_characters=200),
    )
    language = Language(context_tokens=512, chat_template="README.md")
    write_manifest(bundle, rewritten(bundle, inputs=inputs, language=language))
    shown = edgeops("inspect", bundle).out
    assert "image: FP32, any x 3, refused outside" in shown
    assert "note: BYTES, any, at most 200 characters" in shown
    assert "Language   512 tokens, README.md" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["age", "0", "to", "120", "none"] in lines
    assert ["income", "at", "least", "0", "at", "most", "0.25"] in lines
    assert ["balance", "any", "none"] in lines
    data = edgeops("inspect", bundle, "--json").data
    assert data["inputs"][0]["columns"][1] == {"name": "income", "minimum": 0.0, "max_null_rate": 0.25}
    assert data["inputs"][1]["max_characters"] == 200
    assert data["language"]["context_tokens"] == 512


def rewritten(bundle: Path, **changes: object) -> ManifestFields:
    """The bundle's fields with other values, and its files as they are now."""
    fields = read_manifest(bundle).fields
    return msgspec.structs.replace(fields, files=other_files(bundle, fields.variants), **changes)


def test_inspect_shows_the_gates(bundle: Path, keys: KeyPair) -> None:
    accuracy = {"name": "accuracy >= 0.9", "value": 0.97, "passed": True}
    latency = {"name": "latency_p99_ms <= 2", "passed": False}
    (bundle / "evaluation").mkdir()
    (bundle / "evaluation/report.json").write_bytes(canonical_json({"gates": [accuracy, latency]}))
    (bundle / "measurements.json").write_bytes(canonical_json({"gates": {latency["name"]: 2.5}}))
    write_manifest(bundle, rewritten(bundle))
    sign_bundle(bundle, keys.private)
    shown = edgeops("inspect", bundle, "--key", keys.public)
    assert shown.status == 0, shown.err
    assert "accuracy >= 0.9" in shown.out
    assert "FAILED" in shown.out
    assert edgeops("inspect", bundle, "--json").data["gates"] == [accuracy, latency | {"value": 2.5}]


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"gates": 1}', b'{"gates": [{"name": "a", "passed": "yes"}]}']
)
def test_inspect_refuses_gates_that_it_cannot_read(bundle: Path, text: bytes) -> None:
    (bundle / "evaluation").mkdir()
    (bundle / "evaluation/report.json").write_bytes(text)
    write_manifest(bundle, rewritten(bundle))
    done = edgeops("inspect", bundle)
    assert done.status == 3
    assert "evaluation/report.json" in done.err


def test_inspect_lets_no_text_drive_the_terminal(bundle: Path) -> None:
    write_manifest(bundle, rewritten(bundle, description="\x1b[2J[red]verified[/red]\r"))
    out = edgeops("inspect", bundle).out
    assert "\x1b" not in out
    assert "\r" not in out
    assert "[red]verified[/red]" in out


def test_the_entry_helpers_agree_with_the_manifest(bundle: Path) -> None:
    for path, entry in read_manifest(bundle).all_files().items():
        assert file_entry(bundle, path) == entry
