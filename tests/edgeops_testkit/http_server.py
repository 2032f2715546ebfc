"""A real uvicorn server on a free port, in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from edgeops_testkit.waiting import wait_until


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[int]:
    """Serves an ASGI application on 127.0.0.1 and yields the port. `options` go to `uvicorn.Config`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="warning", lifespan="off", **options)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started, 20, "the HTTP server to start")
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(timeout=20)
        if thread.is_alive():
            raise RuntimeError("the HTTP server did not stop")
