"""Labels from the application: which class was right for a request answered a while ago.

They judge the device's own answer, also where the cloud answered in its place: a canary is compared by what
the device's model says.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from device_agent.serving.predictor import Predictor
from edgeops.errors import BadRequestError, EdgeopsError, NotFoundError
from edgeops.serving.body import DisconnectedError, read_body
from edgeops.serving.tensor_routes import error_response

LABELS_PATH = "/edgeops/v1/labels"
_BODY_BYTES = 1 << 20


class Label(msgspec.Struct, frozen=True):
    """The right class of the request with that id."""

    id: str
    label: str


_decoder = msgspec.json.Decoder(Label | list[Label])


class LabelBook:
    """The device's own predicted class of the last `capacity` requests that had an id and one item."""

    def __init__(self, classes: Sequence[str], capacity: int = 65_536) -> None:
        self._classes = {name: number for number, name in enumerate(classes)}
        self._capacity = capacity
        self._predicted: OrderedDict[str, int] = OrderedDict()

    def remember(self, request_id: str, predicted: int) -> None:
        """Notes an answer. Of two requests with one id the later counts."""
        self._predicted[request_id] = predicted
        self._predicted.move_to_end(request_id)
        if len(self._predicted) > self._capacity:
            self._predicted.popitem(last=False)

    def class_of(self, label: str) -> int:
        """The number of a class, or `BadRequestError`."""
        number = self._classes.get(label)
        if number is None:
            raise BadRequestError(f"The model has no class {label[:80]!r}.", subject="label")
        return number

    def judge(self, label: Label) -> bool | None:
        """Whether the device was right, None if it does not know that id (any more). Each answer is judged
        once: a label sent twice counts once."""
        wanted = self.class_of(label.label)
        predicted = self._predicted.pop(label.id, None)
        return None if predicted is None else predicted == wanted


def labels_route(book: LabelBook, predictor: Predictor) -> Route:
    """`POST /edgeops/v1/labels` with `{"id": …, "label": …}` or a list of them.

    Answers `{"recorded": n, "unknown": [ids]}`; 400 when the body does not fit or any class is unknown (then
    none is recorded), 404 when every id is.
    """

    async def post(request: Request) -> Response:
        try:
            body, _ = await read_body(request.scope, request.receive, _BODY_BYTES)
            recorded, unknown = _record(body, book, predictor)
        except EdgeopsError as error:
            return error_response(error)
        except DisconnectedError:
            return Response(status_code=400)
        answer = msgspec.json.encode({"recorded": recorded, "unknown": unknown})
        return Response(answer, media_type="application/json")

    return Route(LABELS_PATH, post, methods=["POST"])


def _record(body: bytes, book: LabelBook, predictor: Predictor) -> tuple[int, list[str]]:
    try:
        decoded = _decoder.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadRequestError(
            f"The labels do not fit: {error}.",
            remedy='Send {"id": "…", "label": "…"} or a list of them.',
            subject="body",
        ) from error
    labels: list[Label] = decoded if isinstance(decoded, list) else [decoded]
    for label in labels:
        book.class_of(label.label)
    unknown: list[str] = []
    for label in labels:
        right = book.judge(label)
        if right is None:
            unknown.append(label.id)
        else:
            predictor.label(right)
    if labels and len(unknown) == len(labels):
        raise NotFoundError(
            "This process has answered no request with that id lately, or has its label already.",
            remedy="Send a label soon after its answer, once, with the id that the request had.",
            subject="id",
        )
    return len(labels) - len(unknown), unknown
