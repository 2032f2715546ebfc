"""The error tree: every class says whose fault it is, by exit status and by HTTP status."""

import json

import pytest

from edgeops import errors
from edgeops.errors import AccessError, ArtifactError, BadRequestError, EdgeopsError, InferenceError

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, EdgeopsError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_becomes_data(kind: type[EdgeopsError]) -> None:
    error = kind("It broke.", remedy="Mend it.", subject="it", details={"count": 3})
    assert json.loads(json.dumps(error.to_dict())) == {
        "kind": kind.kind,
        "message": "It broke.",
        "remedy": "Mend it.",
        "subject": "it",
        "details": {"count": 3},
    }
    assert str(error) == "It broke. Mend it."


def test_kinds_are_distinct() -> None:
    kinds = [kind.kind for kind in CLASSES]
    assert len(set(kinds)) == len(kinds)


def test_exit_status_tells_the_branches_apart() -> None:
    branches = [kind for kind in CLASSES if EdgeopsError in kind.__bases__]
    statuses = [kind.exit_code for kind in branches]
    assert len(set(statuses)) == len(statuses)
    # 0 is success, 1 a crash, 2 click's usage errors: none of ours may look like those.
    assert all(status > 2 for status in statuses)


def test_a_caller_s_fault_is_never_a_server_error() -> None:
    assert all(400 <= kind.http_status < 500 for kind in (BadRequestError, AccessError, ArtifactError))
    assert InferenceError.http_status == 500
