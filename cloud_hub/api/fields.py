"""The types of the API's fields: what is checked before any code of the hub sees a value."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

# As in edgeops/names.py.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$", max_length=64)]
Version = Annotated[
    str,
    StringConstraints(
        pattern=r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$",
        max_length=64,
    ),
]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", min_length=64, max_length=64)]
Base64 = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=16 << 20)]


class Body(BaseModel):
    """Base of what callers send: an unknown field is refused, since a misspelt one must not be ignored."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """Base of what the hub answers. Reads its fields from the domain's values."""

    model_config = ConfigDict(from_attributes=True)


class ErrorDetail(BaseModel):
    """An error as data: its kind, one sentence, what to do, and what it is about."""

    kind: str
    message: str
    remedy: str | None
    subject: str | None
    details: dict[str, Any]


class ErrorBody(BaseModel):
    """The body of every answer with a status of 400 or above."""

    error: ErrorDetail


class BundleName(Answer):
    """A bundle by name, version and identity."""

    name: str
    version: str
    digest: str
