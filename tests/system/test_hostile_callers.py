"""What comes over the wires: bad requests to a device, bad messages, bad tokens, bad certificates."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cloud_hub.trust import certificates
from edgeops.errors import AccessError, ConflictError
from edgeops.messages import MAX_MESSAGE_BYTES, encode
from edgeops.signing.keys import private_pem
from edgeops.topics import topic
from edgeops_testkit.bad_requests import BAD_REQUESTS, INFER, LIMIT_BYTES, tensor
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.guessing import guessing
from edgeops_testkit.hub_mqtt import DeviceClient, DeviceFiles, window
from edgeops_testkit.storage import HubStorage
from edgeops_testkit.system import Agent, System, edgeops
from edgeops_testkit.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NOT_AUTHORIZED = 0x87  # MQTT 5, 2.4


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    made = System(tmp_path_factory.mktemp("callers"))
    try:
        made.start_hub()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def storage(system: System) -> HubStorage:
    return HubStorage.of(system)


# --- The device's local API.


@pytest.fixture(scope="module")
def agent(system: System) -> Agent:
    """A device that serves digits and takes requests of at most 64 KiB."""
    made = system.add_agent("serving", env={"EDGEOPS_AGENT_REQUEST_SIZE_BYTES": str(LIMIT_BYTES)})
    made.daemon.start()
    folder = make_bundle(system.root / "bundles", key=system.builder.with_suffix(".key"), teacher=False)
    digest = json.loads(system.cli("publish", str(folder), "--json"))["digest"]
    system.api("/api/v1/devices/serving/desired", {"digest": digest})
    wait_until(lambda: made.status().get("running"), 60, lambda: made.daemon.tail())
    return made


def ask(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def delivered(system: System, agent: Agent) -> dict[str, Any]:
    """The hub's totals of a device, once all of its telemetry is there."""

    def pending() -> int:
        recorded = agent.status()["spool"]["pending"]
        assert isinstance(recorded, int)
        return recorded

    # A window closes only after it is old enough, so the last one may not be in the spool yet.
    windows = agent.status()["telemetry"]["windows"]
    wait_until(lambda: agent.status()["telemetry"]["windows"] > windows, 20, "the window closes")
    wait_until(lambda: pending() == 0, 20, "the spool is delivered")
    totals: dict[str, Any] = system.device(agent.name)["telemetry"]
    return totals


def test_bad_requests_are_told_counted_as_rejected_and_hurt_nobody(system: System, agent: Agent) -> None:
    assert ask(agent.api_port, "POST", INFER, tensor(), {})[0] == 200
    before = delivered(system, agent)
    wrong = {}
    for what, (status, path, body, headers) in BAD_REQUESTS.items():
        headers = {"Content-Type": "application/json", **headers}
        got, answer = ask(agent.api_port, "POST", path, body, headers)
        if got != status or not json.loads(answer)["error"]:
            wrong[what] = got, answer
    assert wrong == {}
    assert ask(agent.api_port, "POST", INFER, tensor(), {})[0] == 200
    after = delivered(system, agent)
    assert after["rejected"] - before["rejected"] == len(BAD_REQUESTS)
    assert after["requests"] - before["requests"] == 1
    assert after["errors"] == 0
    assert agent.status()["serving"]["crashes"] == 0


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,  # a TLS client hello
        b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /v2 HTTP/1.1\r\nX: " + b"a" * (1 << 20),
        b"GET /v2 HTTP/9.9\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_a_400_or_silence(agent: Agent, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", agent.api_port), timeout=10) as connection:
        answer = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(4096):
                answer += piece
        except ConnectionError:
            pass  # the end that the server put to it
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert ask(agent.api_port, "GET", "/v2/health/ready", b"", {})[0] == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'{"id": 1, "label": "7"}', b'{"id": "nobody", "label": "7"}']
)
def test_labels_that_fit_no_answer_are_refused(agent: Agent, body: bytes) -> None:
    status, answer = ask(agent.api_port, "POST", "/edgeops/v1/labels", body, {})
    assert 400 <= status < 500
    assert json.loads(answer)["error"]


# --- The broker.


def files_of(agent: Agent) -> DeviceFiles:
    """The identity that enrolment gave a device, for a client that is no agent of ours."""
    folder = agent.state_dir / "identity"
    return DeviceFiles(agent.name, folder / "device.crt", folder / "device.key", folder / "ca.pem")


@pytest.fixture(scope="module")
def probe(system: System) -> Iterator[DeviceClient]:
    """A client with a device's certificate that speaks MQTT by hand."""
    client = DeviceClient(files_of(system.add_agent("probe")), system.ports["mqtt"]).connect()
    yield client
    client.close()


def test_bad_messages_are_counted_and_dropped(
    system: System, storage: HubStorage, probe: DeviceClient
) -> None:
    names = ("messages_malformed", "messages_foreign", "windows_duplicate", "windows_stored")
    before = {name: storage.counter(name) for name in names}
    good = encode(window("probe", 1))
    malformed = [
        ("windows", b""),
        ("windows", b"\xc1 no MessagePack"),
        ("windows", good[:-1]),
        ("windows", good + b"\0"),
        ("windows", encode(window("probe", 2, requests=-1))),
        ("windows", encode(window("probe", 0))),
        ("windows", encode(window("probe", 2, errors={"x": 1 << 40}))),
        ("windows", encode(window("probe", 2, latency=b"no sketch"))),
        ("windows", b"\0" * (MAX_MESSAGE_BYTES + 1)),
        ("events", b"\x93"),
        ("state", b"offline"),
        ("reported", good),
    ]
    for channel, payload in malformed:
        assert probe.send(channel, payload) == 0
    foreign = [encode(window("serving", 1)), encode(window("nobody", 1))]
    for payload in foreign:
        assert probe.send("windows", payload) == 0
    for _ in range(3):
        assert probe.send("windows", good) == 0
    # Another content under the same number is a replay, too.
    assert probe.send("windows", encode(window("probe", 1, requests=999))) == 0
    wait_until(lambda: (1, 1) in probe.acked, 20, "the good one is acknowledged")
    expected = [len(malformed), len(foreign), 3]
    wait_until(
        lambda: [storage.counter(name) - before[name] for name in names[:3]] == expected,
        20,
        lambda: str([storage.counter(name) - before[name] for name in names]),
    )
    telemetry = system.device("probe")["telemetry"]
    assert (telemetry["windows"], telemetry["requests"]) == (1, 3)


def test_a_packet_above_the_limit_ends_its_connection_and_nothing_else(
    system: System, storage: HubStorage, probe: DeviceClient
) -> None:
    flooder = DeviceClient(files_of(system.add_agent("flooder")), system.ports["mqtt"]).connect()
    flooder.client.publish(topic("flooder", "windows"), b"\0" * (4 << 20), qos=1)
    wait_until(lambda: flooder.disconnects, 20, "the broker ends it")
    flooder.close()
    assert probe.send("windows", encode(window("probe", 2))) == 0
    wait_until(lambda: (1, 2) in probe.acked, 20, "the others are heard")
    assert system.device("flooder")["telemetry"]["windows"] == 0


@pytest.mark.parametrize("channel", ["windows", "events", "state", "reported", "desired", "acks"])
def test_nobody_publishes_under_another_s_name(
    system: System, agent: Agent, storage: HubStorage, probe: DeviceClient, channel: Any
) -> None:
    assert probe.publish(topic("serving", channel), encode(window("serving", 1))) == NOT_AUTHORIZED
    # What is sent after it has arrived, so that would have arrived.
    sequence = 10 + ["windows", "events", "state", "reported", "desired", "acks"].index(channel)
    assert probe.send("windows", encode(window("probe", sequence))) == 0
    wait_until(lambda: (1, sequence) in probe.acked, 20, "the next one is heard")
    assert storage.counter("messages_foreign") <= 2
    assert agent.status()["twin"]["refused"] == 0
    assert agent.status()["link"]["malformed"] == 0


def device_status(system: System, files: DeviceFiles, role: str, path: str) -> int:
    """The status that the hub answers a device's certificate with; 0 when the handshake fails."""
    url = f"https://127.0.0.1:{system.ports[role]}{path}"
    try:
        with urllib.request.urlopen(url, context=files.context(), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, ConnectionError):
        return 0


def let_in(system: System, files: DeviceFiles) -> bool:
    """Whether the broker lets this certificate in."""
    client = DeviceClient(files, system.ports["mqtt"])
    try:
        client.connect(timeout_s=2)
    except (OSError, AssertionError):
        return False
    finally:
        client.client.loop_stop()
    accepted = not client.connects[0].is_failure and not client.disconnects
    client.close()
    return accepted


def test_a_revoked_device_is_cut_off_everywhere_and_cannot_come_back(system: System) -> None:
    token = system.cli("hub", "token").strip()
    thief = Agent("thief", system.root / "thief", {})
    trust = str(system.builder.with_suffix(".pub"))

    def enroll(*more: str) -> tuple[int, str]:
        done = edgeops(
            "agent", "enroll", "--name", "thief", "--trust", trust, "--token", "-", *more,
            home=thief.daemon.home, stdin=token,
        )  # fmt: skip
        return done.returncode, done.stderr

    assert enroll()[0] == 0
    files = files_of(thief)
    blob = "/device/v1/blobs/" + "0" * 64
    assert device_status(system, files, "device", blob) == 404
    assert device_status(system, files, "gateway", "/v2") == 200
    client = DeviceClient(files, system.ports["mqtt"], reconnect=True).connect()
    assert client.send("windows", encode(window("thief", 1))) == 0

    assert system.cli("hub", "revoke", "thief").strip() == "thief is revoked."
    wait_until(lambda: client.disconnects, 20, "its connection ends")
    assert device_status(system, files, "device", blob) == AccessError.http_status
    wait_until(
        lambda: device_status(system, files, "gateway", "/v2/models/digits") == AccessError.http_status,
        20,
        "the gateway hears of it",
    )
    client.client.loop_stop()
    assert not let_in(system, files)
    # Its key and the token that let it in do not bring it back, and its name is not free either.
    assert enroll("--force")[0] == ConflictError.exit_code
    token = system.cli("hub", "token").strip()
    status, said = enroll("--force")
    assert status == ConflictError.exit_code and "--reenroll" in said
    seen = system.device("thief")
    assert seen["revoked"] and not seen["online"] and seen["telemetry"]["windows"] <= 1


def test_a_certificate_of_another_authority_opens_nothing(system: System, tmp_path: Path) -> None:
    """Made by another authority that bears the same name, for a device that exists."""
    ca_key, key = certificates.new_key(), certificates.new_key()
    ca = certificates.self_signed("edgeops hub", ca_key)
    forged = certificates.client_certificate("probe", key.public_key(), ca, ca_key, 30)
    real = files_of(system.agents["probe"])
    files = DeviceFiles.write(
        tmp_path / "forged",
        "probe",
        forged.public_bytes(Encoding.PEM),
        private_pem(key),
        real.ca.read_bytes(),
    )
    assert not let_in(system, files)
    assert device_status(system, files, "device", "/device/v1/blobs/" + "0" * 64) == 0
    assert device_status(system, files, "gateway", "/v2") == 0
    # And a hub that is not ours gets nothing from a device.
    stranger = replace(real, ca=tmp_path / "ca.pem")
    stranger.ca.write_bytes(ca.public_bytes(Encoding.PEM))
    with pytest.raises(ssl.SSLError):
        DeviceClient(stranger, system.ports["mqtt"]).connect(timeout_s=2)


# --- Tokens. The last test uses up this machine's attempts.


def enroll(system: System, name: str, token: str) -> tuple[int, str]:
    done = edgeops(
        "agent", "enroll", "--name", name, "--trust", str(system.builder.with_suffix(".pub")), "--token", "-",
        home=system.root / name, stdin=token,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def forged(token: str, **changes: str) -> str:
    body = token.strip().removeprefix("eot1.")
    content = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))) | changes
    return "eot1." + base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def test_tokens_that_are_wrong_used_up_or_expired_are_refused(system: System, storage: HubStorage) -> None:
    token = system.cli("hub", "token")
    refusal = (
        "error: The enrolment token is wrong, used up or expired. Make a new one with edgeops hub token.\n"
    )
    assert enroll(system, "guesser", forged(token, secret="x" * 43)) == (8, refusal)
    assert enroll(system, "guesser", forged(token, id="0" * 32)) == (8, refusal)
    wrong_hub = enroll(system, "guesser", forged(token, ca_sha256="0" * 64))
    assert wrong_hub[0] == 8 and "is not the one that made this token" in wrong_hub[1]
    assert enroll(system, "first", token)[0] == 0
    assert enroll(system, "second", token) == (8, refusal)
    late = system.cli("hub", "token")
    token_id = storage.value("SELECT id FROM tokens ORDER BY created_at_ms DESC LIMIT 1")
    storage.execute("UPDATE tokens SET expires_at_ms = 1 WHERE id = ?", token_id)
    assert enroll(system, "late", late) == (8, refusal)
    names = {device["name"] for device in system.api("/api/v1/devices")["devices"]}
    assert "first" in names and not names & {"guesser", "second", "late"}


def test_a_wrong_operator_s_token_is_refused_and_guessing_is_slowed_down(system: System) -> None:
    wrong = {**system.cli_env, "EDGEOPS_HUB_TOKEN": "guess-" + "x" * 40}
    done = edgeops("fleet", "devices", home=system.hub.home, env=wrong)
    assert done.returncode == 8
    assert done.stderr.startswith("error: The operator's token is wrong. Read it from admin.token")

    def attempt() -> int:
        status, _ = ask(system.ports["api"], "GET", "/api/v1/devices", b"", {"Authorization": "Bearer x"})
        assert status in (401, 429)
        return status

    assert 429 in (attempt() for _ in range(200))
    with guessing(attempt):
        done = edgeops("fleet", "devices", home=system.hub.home, env=wrong)
    assert done.returncode == 8
    assert done.stderr.startswith("error: There were too many attempts. Try again in ")
    system.cli("fleet", "devices")


def test_guessing_tokens_is_slowed_down(system: System, probe: DeviceClient) -> None:
    good = system.cli("hub", "token")
    guess = {"id": "0" * 32, "secret": "x", "device": "guesser", "csr_pem": "x"}
    context = files_of(system.agents[probe.name]).context()

    def attempt() -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection("127.0.0.1", system.ports["device"], context=context)
        connection.request(
            "POST", "/device/v1/enroll", json.dumps(guess), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        connection.close()
        return answer

    answer = next(answer for _ in range(200) if (answer := attempt()).status == 429)
    assert int(answer.headers["Retry-After"]) >= 1
    with guessing(lambda: attempt().status):
        status, said = enroll(system, "honest", good)
    assert status == 8
    assert said.startswith("error: There were too many attempts. Try again in ")
