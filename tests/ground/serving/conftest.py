"""A client of the protocol's routes over a small host with a real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from edgeops.engines.onnx_engine import OnnxEngine
from edgeops.serving.tensor_routes import tensor_routes
from edgeops_testkit.graphs import (
    variant_for,
    write_identity,
    write_linear,
    write_two_in_two_out,
)
from edgeops_testkit.small_host import SmallHost

LIMIT_BYTES = 64 << 10
Serve = Callable[[str], tuple[TestClient, SmallHost]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serves the graph of a kind: `linear`, `pair`, or a dtype of the protocol (its identity)."""
    clients: list[TestClient] = []

    def start(kind: str) -> tuple[TestClient, SmallHost]:
        path = tmp_path / f"{kind}.onnx"
        if kind == "linear":
            write_linear(path)
        elif kind == "pair":
            write_two_in_two_out(path)
        else:
            write_identity(path, kind)
        host = SmallHost(OnnxEngine.load(variant_for(path, tmp_path), tmp_path))
        app = Starlette(routes=tensor_routes(host, request_size_bytes=LIMIT_BYTES))
        client = TestClient(app)
        clients.append(client)
        return client, host

    yield start
    for client in clients:
        client.close()
