"""The error tree: one class for each combination of whose fault it is and what to do about it.

    EdgeopsError
    ├── ArtifactError            a file or bundle is not what it must be: refuse it, never retry
    │   └── GateError            a build's quality gate failed: nothing is signed
    ├── TransportError           a peer did not answer or a link broke: retry with backoff
    ├── InferenceError           the engine could not answer: fall back or report
    │   └── BadRequestError      the caller's input is at fault: tell the caller
    ├── AccessError              the caller may not do this: refuse
    ├── ConflictError            the request contradicts what is stored already
    ├── ConfigError              a setting or the machine is at fault: stop at start
    └── IllegalTransitionError   a bug: the state stays as it was

What failed stands in attributes (`subject`, `remedy`, `details`), not only in the text.
"""

from collections.abc import Mapping


class EdgeopsError(Exception):
    """Base of every error that edgeops raises on purpose.

    `message` is one sentence that says what is wrong; `remedy`, if any, one that says what to do;
    `subject` names the offending thing (a file, a topic, a field); `details` carries data.
    """

    exit_code = 1
    http_status = 500
    kind = "internal"

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        subject: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.subject = subject
        self.details: dict[str, object] = dict(details or {})

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message

    def to_dict(self) -> dict[str, object]:
        """The error as data, for `--json` output, HTTP bodies and messages."""
        return {
            "kind": self.kind,
            "message": self.message,
            "remedy": self.remedy,
            "subject": self.subject,
            "details": self.details,
        }


class ArtifactError(EdgeopsError):
    """A file or bundle is not what it must be. Refuse it and never retry; `subject` names the file."""

    exit_code = 3
    http_status = 422
    kind = "artifact"


class GateError(ArtifactError):
    """A quality gate failed. Nothing was signed; `details["gates"]` holds each gate's outcome."""

    exit_code = 4
    kind = "gate"


class TransportError(EdgeopsError):
    """A peer did not answer, or a link broke. Retry with backoff."""

    exit_code = 5
    http_status = 503
    kind = "transport"


class ConfigError(EdgeopsError):
    """A setting or the machine is at fault. Stop at start and say what to change."""

    exit_code = 6
    http_status = 500
    kind = "config"


class InferenceError(EdgeopsError):
    """The engine could not answer. Fall back, or report."""

    exit_code = 7
    http_status = 500
    kind = "inference"


class BadRequestError(InferenceError):
    """The caller's input does not fit the model or the protocol."""

    http_status = 400
    kind = "bad_request"


class AccessError(EdgeopsError):
    """The caller may not do this: unknown, revoked, expired, or over its rate."""

    exit_code = 8
    http_status = 403
    kind = "access"


class UnauthenticatedError(AccessError):
    """The caller did not say who it is, or could not prove it."""

    http_status = 401
    kind = "unauthenticated"


class RateLimitedError(AccessError):
    """The caller asks too often. `details["retry_after_s"]` says when to come back."""

    http_status = 429
    kind = "rate_limited"


class NotFoundError(EdgeopsError):
    """What was asked for does not exist."""

    exit_code = 9
    http_status = 404
    kind = "not_found"


class ConflictError(EdgeopsError):
    """The request contradicts what is stored already, such as a published version."""

    exit_code = 10
    http_status = 409
    kind = "conflict"


class IllegalTransitionError(EdgeopsError):
    """An event arrived that the machine has no row for. The state stays as it was."""

    exit_code = 11
    http_status = 409
    kind = "illegal_transition"


def machine_error(error: OSError) -> ConfigError:
    """The operating system's refusal of a file as an error of ours, for where nobody knows more of it."""
    return ConfigError(
        f"{error.filename} cannot be used ({error.strerror}).",
        remedy="Check the path, the disk behind it, and that this user may use it.",
        subject=str(error.filename),
    )
