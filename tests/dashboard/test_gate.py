"""Who may see the dashboard: whoever has a session, and nobody by another way."""

from __future__ import annotations

import asyncio
import http.client
import socket
from urllib.parse import urlsplit

import aiohttp
import nicegui
import pytest

from cloud_hub.dashboard.gate import SOCKET
from edgeops_testkit.browser import login_address
from edgeops_testkit.dashboard_hub import DashboardHub
from edgeops_testkit.waiting import wait_until

pytestmark = pytest.mark.slow
PAGES = ("/", "/rollouts", "/rollouts/r-0123456789", "/devices/d0", "/drift", "/alerts")
SOCKET_PATH = f"{SOCKET}socket.io/?EIO=4&transport="


def ask(
    hub: DashboardHub, path: str, *, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request that follows nothing; the answer's header names in lower case."""
    parts = urlsplit(hub.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def cookie(hub: DashboardHub) -> str:
    """A session, as a browser sends it."""
    path = login_address(hub.url, hub.token).removeprefix(hub.url)
    status, headers, _ = ask(hub, path)
    assert (status, headers["location"]) == (303, "/")
    return headers["set-cookie"].split(";")[0]


@pytest.mark.parametrize("path", [*PAGES, SOCKET_PATH + "polling"])
def test_without_a_session_there_is_only_the_sign_in_page(hub: DashboardHub, path: str) -> None:
    for headers in ({}, {"Cookie": "edgeops_session=guessed"}):
        status, answered, body = ask(hub, path, **headers)
        assert (status, answered["location"], body) == (303, "/login", b"")


def test_with_a_session_the_pages_open(hub: DashboardHub) -> None:
    session = cookie(hub)
    for path in PAGES:
        status, _, body = ask(hub, path, Cookie=session)
        assert status == 200, path
        assert b"edgeops</title>" in body


def test_the_socket_needs_a_session_too(hub: DashboardHub) -> None:
    session = cookie(hub)

    async def greeting(**headers: str) -> str:
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(f"{hub.url}{SOCKET_PATH}websocket", headers=headers) as ws,
        ):
            return str((await ws.receive(timeout=10)).data)

    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        asyncio.run(greeting())
    assert refused.value.status == 403
    assert asyncio.run(greeting(Cookie=session)).startswith("0{"), "the socket's own greeting"


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(hub: DashboardHub) -> None:
    path = login_address(hub.url, hub.token).removeprefix(hub.url)
    _, headers, _ = ask(hub, path)
    attributes = {part.strip().lower() for part in headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= attributes
    assert ask(hub, path)[0] == 401, "the code is used up"


def test_signing_out_ends_the_session(hub: DashboardHub) -> None:
    session = cookie(hub)
    assert ask(hub, "/alerts", Cookie=session)[0] == 200
    assert ask(hub, "/logout", method="POST", Cookie=session)[1]["location"] == "/login"
    assert ask(hub, "/alerts", Cookie=session)[0] == 303


def test_the_api_is_as_it_was(hub: DashboardHub) -> None:
    session = cookie(hub)
    token = {"Authorization": f"Bearer {hub.token}"}
    assert ask(hub, "/api/v1/devices", **token)[0] == 200
    for headers in ({}, {"Cookie": session}):
        status, answered, _ = ask(hub, "/api/v1/devices", **headers)
        assert (status, answered["content-type"]) == (401, "application/json"), "a session is not for the API"
    assert ask(hub, "/api/v1/nothing", **token)[0] == 404
    assert ask(hub, "/healthz")[0] == 200
    assert ask(hub, "/metrics")[0] == 200
    assert ask(hub, "/login")[0] == 200


def test_a_database_that_does_not_answer_is_said_and_passes(hub: DashboardHub) -> None:
    session = cookie(hub)
    with hub.broken("login_sessions"):
        status, headers, body = ask(hub, "/", Cookie=session)
        assert (status, headers["retry-after"]) == (503, "5")
        assert b"database does not answer" in body
        assert b"sqlite" not in body.lower()
    assert ask(hub, "/", Cookie=session)[0] == 200


def test_a_browser_that_leaves_early_is_no_error_of_the_hub(hub: DashboardHub) -> None:
    parts = urlsplit(hub.url)
    asset = f"/_nicegui/{nicegui.__version__}/static/nicegui.css"
    assert ask(hub, asset)[0] == 200
    before = _answered(hub)
    for _ in range(20):
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
            connection.sendall(f"GET {asset} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
    wait_until(lambda: _answered(hub) - before >= 20, 20, "the requests of those who left to be over")
    assert "No response returned" not in hub.log.read_text()


def _answered(hub: DashboardHub) -> int:
    """Requests to pages that the hub has measured, whatever became of them."""
    text = ask(hub, "/metrics")[2].decode()
    lines = [line for line in text.splitlines() if line.startswith("edgeops_hub_http_requests_total")]
    assert lines, text
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if 'side="operators"' in line)
