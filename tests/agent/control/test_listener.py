"""The listening socket: refusing while nothing serves, queueing while something will."""

from __future__ import annotations

import socket
import threading

import pytest

from device_agent.processes.listener import Listener
from edgeops.errors import ConfigError
from edgeops_testkit.waiting import free_port


def bound() -> tuple[Listener, int]:
    """A listener and its port. (One that the system chose would be lost whenever the listener is shut.)"""
    port = free_port()
    return Listener("127.0.0.1", port), port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 5)


def test_connections_are_refused_until_it_is_opened_and_again_once_it_is_shut() -> None:
    listener, port = bound()
    for _ in range(2):
        listener.shut()
        with pytest.raises(ConnectionRefusedError):
            connect(port)
        listener.open()
        listener.open()
        connect(port).close()
    listener.close()


def test_a_connection_after_shutting_and_opening_does_not_read_its_end_before_it_comes() -> None:
    listener, port = bound()
    for _ in range(3):
        listener.shut()
    listener.open()
    listener.socket.setblocking(True)
    with connect(port) as client, listener.socket.accept()[0] as accepted:
        accepted.settimeout(0.2)
        with pytest.raises(TimeoutError):
            accepted.recv(1)
        client.sendall(b"x")
        assert accepted.recv(1) == b"x"
    listener.close()


def test_connections_wait_in_the_queue_until_somebody_accepts() -> None:
    listener, port = bound()
    listener.open()
    with connect(port) as client:
        client.sendall(b"early")
        listener.socket.setblocking(True)
        accepted, _ = listener.socket.accept()
        with accepted:
            assert accepted.recv(10) == b"early"
    listener.close()


@pytest.mark.parametrize(
    ("host", "message"),
    [("203.0.113.7", "cannot listen on 203.0.113.7"), ("no such host", "cannot listen on no such host")],
)
def test_an_address_that_is_not_ours_is_one_sentence(host: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Listener(host, 0)


def test_a_taken_port_is_one_sentence_with_the_remedy() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} on 127.0.0.1 is taken already. Stop the program"):
            Listener("127.0.0.1", port)


def test_it_waits_for_a_port_that_is_about_to_be_free() -> None:
    other = socket.socket()
    other.bind(("127.0.0.1", 0))
    other.listen()
    port = other.getsockname()[1]
    timer = threading.Timer(0.2, other.close)
    timer.start()
    listener = Listener("127.0.0.1", port, wait_s=10)
    listener.open()
    connect(port).close()
    listener.close()
    timer.join()
    assert other.fileno() == -1
