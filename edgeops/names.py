"""What names may look like. Names end up in topics, paths, certificates and URLs: keep them dull."""

import re

from edgeops.errors import BadRequestError

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
# https://semver.org, without build metadata: two builds of one version must not both exist.
_VERSION = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?", re.ASCII
)
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_name(text: str) -> bool:
    """Whether `text` can name a model, device, variant, site or key."""
    return _NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Whether `text` is a semantic version without build metadata."""
    return len(text) <= 64 and _VERSION.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 in lower-case hex."""
    return _DIGEST.fullmatch(text) is not None


def require_name(text: str, what: str) -> str:
    """`text` itself, or `BadRequestError` naming `what` was wrong."""
    if not is_name(text):
        raise BadRequestError(
            f"{text[:80]!r} cannot name a {what}.",
            remedy="Use 1 to 64 lower-case letters, digits, dots, dashes or underscores.",
            subject=what,
        )
    return text
