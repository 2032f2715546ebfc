"""The command line when nothing is as it should be: one sentence and the right exit status, always."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgeops.cli import cli
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.keys import make_keys
from edgeops_testkit.system import edgeops
from edgeops_testkit.waiting import refusing_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TOKEN = {"EDGEOPS_HUB_TOKEN": "x" * 43}
# A way to call each command that talks to a hub; BUNDLE stands for a whole bundle's folder.
ASKS_A_HUB: tuple[tuple[str, ...], ...] = (
    ("publish", "BUNDLE"),
    ("hub", "token"),
    ("hub", "login"),
    ("hub", "revoke", "pump-7"),
    ("fleet", "devices"),
    ("fleet", "drift"),
    ("fleet", "alerts"),
    ("fleet", "rollout", "create", "digits", "1.0.0"),
    ("fleet", "rollout", "status"),
    ("fleet", "rollout", "approve", "r-0123456789"),
    ("fleet", "rollout", "promote", "r-0123456789"),
    ("fleet", "rollout", "pause", "r-0123456789"),
    ("fleet", "rollout", "resume", "r-0123456789"),
    ("fleet", "rollout", "abort", "r-0123456789"),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    return make_bundle(folder, key=make_keys(folder).private, teacher=False)


def said(*args: str, status: int, home: Path, env: dict[str, str] | None = None, stdin: str = "") -> str:
    """What a command that must fail says: one line of standard error, and nothing else."""
    done = edgeops(*args, home=home, env=TOKEN if env is None else env, stdin=stdin)
    told = f"edgeops {' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == status, told
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1, told
    assert done.stderr.startswith("error: "), told
    return done.stderr


def commands(group: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(group, click.Group):
        yield path, group
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from commands(command, *path, name)


def test_the_list_of_commands_is_whole() -> None:
    asking = {path for path, command in commands(cli) if any("--hub" in p.opts for p in command.params)}
    listed = {path for path in asking if any(call[: len(path)] == path for call in ASKS_A_HUB)}
    assert asking == listed and len(asking) == len(ASKS_A_HUB)


@pytest.mark.parametrize("call", ASKS_A_HUB, ids=" ".join)
def test_a_hub_that_is_down_is_said_plainly(call: tuple[str, ...], bundle: Path, tmp_path: Path) -> None:
    arguments = [str(bundle) if part == "BUNDLE" else part for part in call]
    with refusing_port() as port:
        url = f"http://127.0.0.1:{port}"
        told = said(*arguments, "--hub", url, status=5, home=tmp_path)
    assert f"The hub at {url} does not answer" in told
    assert "Start it with edgeops hub serve" in told


def test_an_agent_that_is_down_is_said_plainly(tmp_path: Path) -> None:
    with refusing_port() as port:
        told = said("agent", "status", "--admin-port", str(port), status=5, home=tmp_path)
    assert "Start it with edgeops agent run" in told


@pytest.mark.parametrize("answer", [b"<html>Welcome</html>", b"\xff\xfe", b""])
def test_an_address_that_is_no_hub_s_is_said_plainly(answer: bytes, tmp_path: Path) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            told = said("fleet", "devices", "--hub", url, status=5, home=tmp_path)
        finally:
            server.shutdown()
            thread.join()
    assert "answered 200, and not as a hub does" in told
    assert "EDGEOPS_HUB_URL" in told


@pytest.mark.parametrize(
    ("url", "status"),
    [("http://[::1", 6), ("http://127.0.0.1:port", 6), ("no address", 5), ("ftp://127.0.0.1", 5)],
)
def test_what_is_no_address_is_said_plainly(url: str, status: int, tmp_path: Path) -> None:
    assert url in said(
        "fleet", "devices", status=status, home=tmp_path, env={**TOKEN, "EDGEOPS_HUB_URL": url}
    )


def test_a_token_that_is_missing_or_can_be_none_is_said_plainly(tmp_path: Path) -> None:
    told = said("fleet", "devices", status=8, home=tmp_path, env={"EDGEOPS_HUB_TOKEN": "tökén"})
    assert "tökén" not in told, "a secret is not repeated"
    assert "admin.token" in said("fleet", "devices", status=6, home=tmp_path, env={})


def test_a_wrong_file_is_named(bundle: Path, tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "other")
    text = tmp_path / "notes.txt"
    text.write_text("These are notes.")
    token = ("--token", "eot1.x")
    enroll = ("agent", "enroll", "--name", "pump-7", *token)
    for arguments, status, named in (
        (("verify", str(bundle), "--key", str(keys.private)), 6, keys.private),
        (("verify", str(bundle), "--key", str(text)), 6, text),
        (("verify", str(bundle), "--key", str(keys.public)), 3, Path("model.sig")),
        (("verify", str(tmp_path), "--key", str(keys.public)), 3, Path("model.sig")),
        (("inspect", str(tmp_path)), 3, Path("manifest.json")),
        (("inspect", str(bundle), "--key", str(text)), 6, text),
        (("publish", str(text)), 3, text),
        (("publish", str(tmp_path / "nowhere")), 3, tmp_path / "nowhere"),
        (("publish", str(tmp_path)), 3, Path("model.sig")),
        (("hub", "trust", str(keys.private)), 6, keys.private),
        (("hub", "trust", str(tmp_path)), 6, tmp_path),
        (("build", str(text), "--out", str(tmp_path), "--key", str(keys.private)), 6, Path("notes.txt")),
        (("build", "digits", "--out", str(tmp_path), "--key", str(text)), 6, text),
        ((*enroll, "--trust", str(keys.public)), 7, Path("edgeops hub token")),
    ):
        assert str(named) in said(*arguments, status=status, home=tmp_path), arguments


def test_errors_come_as_data_when_data_is_asked_for(tmp_path: Path) -> None:
    done = edgeops("publish", str(tmp_path / "nowhere"), "--json", home=tmp_path, env=TOKEN)
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["subject"] == str(tmp_path / "nowhere")
