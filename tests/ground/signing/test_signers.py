"""Signers: keys in files and in tokens, and where their secrets may come from."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from edgeops.bundle import verify_bundle
from edgeops.errors import ConfigError
from edgeops.manifest import SIGNATURE_FILE
from edgeops.signing.keys import key_id, keyring, load_public_key, new_key
from edgeops.signing.passphrases import find_secret, read_secret, without_secrets
from edgeops.signing.signers import FileSigner, Signer, open_signer
from edgeops_testkit import softhsm
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.keys import make_keys
from edgeops_testkit.oms import reference_accepts

EDGEOPS = Path(sys.executable).with_name("edgeops")


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEOPS_KEY_PASSPHRASE", "EDGEOPS_KEY_PIN"):
        monkeypatch.delenv(name, raising=False)


def descriptor(text: str) -> int:
    """An open file descriptor from which `text` can be read."""
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    return reader


def signs(signer: Signer, public: Path, folder: Path) -> bool:
    """Whether what it signs holds, for us and for the reference."""
    bundle = make_bundle(folder, key=None)
    signer.sign_bundle(bundle)
    ring = keyring([load_public_key(public)])
    assert verify_bundle(bundle, ring).key_id == key_id(signer.public_key)
    return reference_accepts(bundle, public)


def test_a_key_in_a_file_signs(tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    assert signs(open_signer(str(keys.private)), keys.public, tmp_path / "bundles")


@pytest.mark.parametrize("way", ["fd", "environment", "prompt"])
def test_a_passphrase_comes_by_each_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    private, public = new_key("builder", tmp_path, passphrase=b"open sesame")
    fd, prompt = None, None
    if way == "fd":
        fd = descriptor("open sesame\nnot this\n")
        monkeypatch.setenv("EDGEOPS_KEY_PASSPHRASE", "wrong: the descriptor comes first")
    elif way == "environment":
        monkeypatch.setenv("EDGEOPS_KEY_PASSPHRASE", "open sesame")
    else:

        def prompt(what: str) -> str:
            assert str(private) in what
            return "open sesame"

    signer = open_signer(str(private), secret_fd=fd, prompt=prompt)
    monkeypatch.delenv("EDGEOPS_KEY_PASSPHRASE", raising=False)
    assert signs(signer, public, tmp_path / "bundles")


def test_an_encrypted_key_without_a_passphrase_says_how_to_give_it(tmp_path: Path) -> None:
    private, _ = new_key("builder", tmp_path, passphrase=b"open sesame")
    with pytest.raises(ConfigError, match=r"EDGEOPS_KEY_PASSPHRASE.*--passphrase-fd"):
        FileSigner.open(private)


@pytest.mark.parametrize(
    ("content", "what"), [("", "holds nothing"), ("\n", "holds nothing"), ("x" * 5000, "more than 4096")]
)
def test_a_descriptor_that_holds_no_secret_is_refused(content: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        read_secret(descriptor(content))


def test_a_descriptor_that_is_not_open_is_refused() -> None:
    reader = descriptor("x")
    os.close(reader)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(reader)


def test_an_empty_variable_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPS_KEY_PIN", "")
    assert find_secret("EDGEOPS_KEY_PIN", fd=None, prompt=None, what="") is None
    assert without_secrets({"EDGEOPS_KEY_PIN": "1", "EDGEOPS_KEY_PASSPHRASE": "2", "HOME": "/"}) == {
        "HOME": "/"
    }


@pytest.mark.slow
def test_a_terminal_is_asked_and_shows_nothing(tmp_path: Path) -> None:
    private, public = new_key("builder", tmp_path, passphrase=b"open sesame")
    outer, inner = pty.openpty()
    process = subprocess.Popen(
        [EDGEOPS, "keys", "public", private], stdin=inner, stdout=subprocess.PIPE, stderr=inner
    )
    os.close(inner)
    shown = os.read(outer, 1000)
    os.write(outer, b"open sesame\n")
    stdout, _ = process.communicate(timeout=60)
    assert stdout == public.read_bytes()
    assert b"Passphrase of" in shown
    rest = os.read(outer, 1000)
    assert b"sesame" not in shown + rest
    os.close(outer)


@pytest.mark.slow
def test_without_a_terminal_nobody_is_asked(tmp_path: Path) -> None:
    private, _ = new_key("builder", tmp_path, passphrase=b"open sesame")
    done = subprocess.run(
        [EDGEOPS, "keys", "public", private], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == ConfigError.exit_code
    assert "protected by a passphrase" in done.stderr


@pytest.mark.slow
def test_keys_new_takes_a_passphrase_from_a_descriptor(tmp_path: Path) -> None:
    reader = descriptor("open sesame\n")
    command = [EDGEOPS, "keys", "new", "builder", "--out", tmp_path, "--passphrase-fd", str(reader)]
    subprocess.run(command, pass_fds=[reader], check=True, capture_output=True)
    assert FileSigner.open(tmp_path / "builder.key", secret_fd=descriptor("open sesame"))


def test_a_pin_in_the_uri_is_refused() -> None:
    with pytest.raises(ConfigError, match="every user") as caught:
        open_signer("pkcs11:token=desk;object=signing?pin-value=1234")
    assert "1234" not in str(caught.value)
    with pytest.raises(ConfigError, match="every user"):
        open_signer("pkcs11:token=desk?module-name=x&pin%2Dvalue=1234")


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[softhsm.Token]:
    reason = softhsm.why_not()
    if reason is not None:
        pytest.skip(reason)
    with softhsm.token(tmp_path / "hsm", monkeypatch) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("way", ["fd", "environment", "file"])
def test_a_key_in_a_token_signs(
    tmp_path: Path, token: softhsm.Token, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    uri, fd = token.uri, None
    if way == "fd":
        fd = descriptor(f"{softhsm.PIN}\n")
    elif way == "environment":
        monkeypatch.setenv("EDGEOPS_KEY_PIN", softhsm.PIN)
    else:
        (tmp_path / "pin").write_text(f"{softhsm.PIN}\n")
        uri += f"&pin-source=file:{quote(str(tmp_path / 'pin'))}"
    assert signs(open_signer(uri, secret_fd=fd), token.public, tmp_path / "bundles")


@pytest.mark.slow
def test_a_token_is_found_by_its_librarys_name_and_the_keys_id(
    token: softhsm.Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEOPS_KEY_PIN", softhsm.PIN)
    signer = open_signer("pkcs11:token=desk;id=%A1?module-name=libsofthsm2")
    assert key_id(signer.public_key) == key_id(load_public_key(token.public))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("token=desk", "token=other"), "token"),
        (("object=signing", "object=other"), "other"),
        (("module-path=", "module-path=/no"), "No such file"),
        (("pkcs11:", "pkcs11:nonsense;"), "malformed"),
        (None, "PIN"),
    ],
)
def test_a_token_that_cannot_be_used_is_one_sentence_without_the_pin(
    tmp_path: Path,
    token: softhsm.Token,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, str] | None,
    what: str,
) -> None:
    monkeypatch.setenv("EDGEOPS_KEY_PIN", softhsm.PIN if change else "wrong-pin-77")
    with pytest.raises(ConfigError, match=what) as caught:
        open_signer(token.uri.replace(*change) if change else token.uri)
    assert softhsm.PIN not in str(caught.value)
    assert "wrong-pin-77" not in str(caught.value)


@pytest.mark.slow
def test_a_key_on_another_curve_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = softhsm.why_not()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setenv("EDGEOPS_KEY_PIN", softhsm.PIN)
    with softhsm.token(tmp_path / "hsm", monkeypatch, curve="P-384") as token:
        # In a process of its own: the library reads its settings once.
        done = subprocess.run([EDGEOPS, "keys", "public", token.uri], capture_output=True, text=True)
    assert done.returncode == ConfigError.exit_code
    assert "not a P-256 one" in done.stderr


@pytest.mark.slow
def test_a_token_that_fails_while_it_signs_leaves_no_signature(
    tmp_path: Path, token: softhsm.Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEOPS_KEY_PIN", softhsm.PIN)
    signer = open_signer(token.uri)
    bundle = make_bundle(tmp_path / "bundles", key=None)
    (bundle / "stray").write_text("not in the manifest")
    with pytest.raises(Exception, match="stray"):
        signer.sign_bundle(bundle)
    assert not (bundle / SIGNATURE_FILE).exists()
