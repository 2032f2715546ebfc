"""Open Inference Protocol v2 over HTTP, for any host of models: the agent's and the hub's are the same.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md,
with two of Triton's extensions: binary tensor data, and the model repository's index.

Every answer that is not 200 has a JSON body `{"error": "…"}`. Hostile input gets a 4xx, never a 5xx.
The infer path is plain ASGI: Starlette's request and response objects cost as much as a small model.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from edgeops import __version__
from edgeops.errors import (
    BadRequestError,
    EdgeopsError,
    NotFoundError,
    RateLimitedError,
    UnauthenticatedError,
)
from edgeops.manifest import TensorSpec
from edgeops.serving.body import DisconnectedError, read_body
from edgeops.serving.host import ModelHost, ModelInfo
from edgeops.serving.tensor_codec import decode_request, encode_response

_log = logging.getLogger(__name__)

# What the application knows of a client, from the ASGI scope. May raise `AccessError`.
Caller = Callable[[Scope], Mapping[str, Any]]
Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_GENERIC = "The server failed on this request; its log says why."


class MethodError(BadRequestError):
    """The path does not have that method. `details["allow"]` names those it has."""

    http_status = 405
    kind = "method"


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes
    headers: Headers


def tensor_routes(host: ModelHost, *, request_size_bytes: int, caller: Caller | None = None) -> list[Route]:
    """The protocol's routes under `/v2`, to be put into a Starlette or FastAPI application.

    Bodies above `request_size_bytes` get 413, also when they only reach it by decompression. `caller`
    tells `host.infer` who asks; if it raises `AccessError`, that is the answer. `host.rejected` is told
    the error's kind for each inference request that is refused before `host.infer`. An exception of the
    host that is not an `EdgeopsError` is logged and answered by 500 with a general sentence.
    """
    routes = _Routes(host, request_size_bytes, caller or _anyone)
    one, versioned = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    table: list[tuple[str, str, _Handler]] = [
        (f"{one}/infer", "POST", routes.infer),
        (f"{versioned}/infer", "POST", routes.infer),
        ("/v2/health/live", "GET", routes.live),
        ("/v2/health/ready", "GET", routes.ready),
        (f"{one}/ready", "GET", routes.model_ready),
        (f"{versioned}/ready", "GET", routes.model_ready),
        (one, "GET", routes.model),
        (versioned, "GET", routes.model),
        ("/v2", "GET", routes.server),
        ("/v2/repository/index", "POST", routes.index),
        ("/v2/{rest:path}", "", routes.unknown),
    ]
    return [Route(path, _Endpoint(method, handler)) for path, method, handler in table]


def error_response(error: EdgeopsError) -> Response:
    """An error in the protocol's form, for whatever stands before the routes."""
    reply = _error_reply(error)
    response = Response(reply.body, status_code=reply.status)
    for name, value in reply.headers:
        response.headers[name.decode()] = value.decode()
    return response


class _Routes:
    """The handlers: scope and receive in, reply out, `EdgeopsError`s for everything else."""

    def __init__(self, host: ModelHost, request_size_bytes: int, caller: Caller) -> None:
        self._host = host
        self._limit = request_size_bytes
        self._caller = caller

    async def infer(self, scope: Scope, receive: Receive) -> _Reply:
        try:
            caller = self._caller(scope)
            path: Mapping[str, str] = scope["path_params"]
            body, header_size = await read_body(scope, receive, self._limit)
            request, plan = decode_request(body, header_size, path["model"], path.get("version"))
            if request.outputs:
                self._check_outputs(request.model, request.version, request.outputs)
        except EdgeopsError as error:
            self._host.rejected(error.kind)
            raise
        response = await self._host.infer(request, caller)
        body, json_size = encode_response(response, request.outputs, plan)
        if json_size is None:
            return _Reply(200, body, [_JSON])
        size = (b"inference-header-content-length", b"%d" % json_size)
        return _Reply(200, body, [(b"content-type", b"application/octet-stream"), size])

    async def live(self, scope: Scope, receive: Receive) -> _Reply:
        live = self._host.live()
        return _json(200 if live else 503, {"live": live})

    async def ready(self, scope: Scope, receive: Receive) -> _Reply:
        ready = self._host.ready()
        return _json(200 if ready else 503, {"ready": ready})

    async def model_ready(self, scope: Scope, receive: Receive) -> _Reply:
        path: Mapping[str, str] = scope["path_params"]
        self._host.model(path["model"], path.get("version"))
        ready = self._host.ready(path["model"], path.get("version"))
        return _json(200 if ready else 503, {"name": path["model"], "ready": ready})

    async def model(self, scope: Scope, receive: Receive) -> _Reply:
        path: Mapping[str, str] = scope["path_params"]
        return _json(200, _metadata(self._host.model(path["model"], path.get("version"))))

    async def server(self, scope: Scope, receive: Receive) -> _Reply:
        extensions = ["binary_tensor_data", "model_repository"]
        return _json(200, {"name": "edgeops", "version": __version__, "extensions": extensions})

    async def index(self, scope: Scope, receive: Receive) -> _Reply:
        entries = [
            {
                "name": model.name,
                "version": version,
                "state": "READY" if self._host.ready(model.name, version) else "UNAVAILABLE",
                "reason": "",
            }
            for model in self._host.models()
            for version in model.versions
        ]
        return _json(200, entries)

    async def unknown(self, scope: Scope, receive: Receive) -> _Reply:
        raise NotFoundError(f"There is nothing at {scope['path'][:200]}.")

    def _check_outputs(self, model: str, version: str | None, names: Sequence[str]) -> None:
        known = {spec.name for spec in self._host.model(model, version).outputs}
        for name in names:
            if name not in known:
                raise BadRequestError(f"The model has no output {name!r}.", subject=name)


_Handler = Callable[[Scope, Receive], Awaitable[_Reply]]


class _Endpoint:
    """An ASGI application for one path: checks the method, maps errors, sends the reply."""

    def __init__(self, method: str, handler: _Handler) -> None:
        self._methods = {method, "HEAD"} if method == "GET" else {method}
        self._any_method = not method
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] not in self._methods and not self._any_method:
                allow = ", ".join(sorted(self._methods))
                raise MethodError(f"This path takes {allow} only.", details={"allow": allow})
            reply = await self._handler(scope, receive)
        except EdgeopsError as error:
            reply = _error_reply(error)
        except DisconnectedError:
            return
        except Exception:  # noqa: BLE001 (a bug in a host must cost one request, not the connection)
            _log.exception("A request to %s failed.", scope["path"])
            reply = _Reply(500, msgspec.json.encode({"error": _GENERIC}), [_JSON])
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})


def _anyone(_scope: Scope) -> Mapping[str, Any]:
    return {}


def _error_reply(error: EdgeopsError) -> _Reply:
    headers: Headers = [_JSON]
    if isinstance(error, UnauthenticatedError):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, RateLimitedError) and "retry_after_s" in error.details:
        headers.append((b"retry-after", str(error.details["retry_after_s"]).encode()))
    if isinstance(error, MethodError):
        headers.append((b"allow", str(error.details["allow"]).encode()))
    # A message may quote what a caller sent; lone surrogates in it have no UTF-8.
    text = str(error).encode("utf-8", "replace").decode()
    return _Reply(error.http_status, msgspec.json.encode({"error": text}), headers)


def _json(status: int, value: object) -> _Reply:
    return _Reply(status, msgspec.json.encode(value), [_JSON])


def _metadata(model: ModelInfo) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": list(model.versions),
        "platform": model.platform,
        "inputs": [_tensor(spec) for spec in model.inputs],
        "outputs": [_tensor(spec) for spec in model.outputs],
        "parameters": dict(model.parameters),
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.dtype, "shape": list(spec.shape)}
