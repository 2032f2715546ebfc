"""How engines word what they refuse."""

from __future__ import annotations

from edgeops.errors import ArtifactError

_MAX_CHARACTERS = 300


def refused(subject: str, why: str) -> ArtifactError:
    """The error that a variant, or a file of one, cannot be used."""
    return ArtifactError(
        f"{subject} {why}.", remedy="Build the bundle again, or choose another variant.", subject=subject
    )


def one_line(error: BaseException) -> str:
    """The first 300 characters of an error's text on one line, without its full stop; the name of its class
    if it has no text. Libraries put whole listings into theirs."""
    return " ".join(str(error).split())[:_MAX_CHARACTERS].rstrip(".") or type(error).__name__
