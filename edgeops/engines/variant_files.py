"""What every engine asks of a variant before it loads it: that its files lie in the bundle, and that the
engine is new enough."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from edgeops.engines.refusals import refused
from edgeops.errors import ConfigError
from edgeops.manifest import Variant


def variant_file(variant: Variant, bundle_dir: Path, name: str) -> Path:
    """The file `name` that lies beside the variant's first, if the variant lists it.

    Raises `ArtifactError` (subject: the path) when it does not, or the file is missing or leads outside.
    """
    entry = variant.beside(name)
    if entry is None:
        path = PurePosixPath(variant.files[0].path).with_name(name)
        raise refused(str(path), f"is not among the files of variant {variant.id!r}")
    return bundle_file(bundle_dir, entry.path)


def bundle_file(bundle_dir: Path, path: str) -> Path:
    """The file at `path` in the bundle, resolved. Raises `ArtifactError` (subject: `path`) when it is missing
    or leads outside."""
    root = bundle_dir.resolve()
    try:
        target = (root / path).resolve(strict=True)
    except OSError as error:
        raise refused(path, f"cannot be read ({error.strerror})") from error
    if not target.is_relative_to(root) or not target.is_file():
        raise refused(path, "is not a file inside its bundle")
    return target


def require_version(variant: Variant, installed: str, engine: str, package: str) -> None:
    """Raises `ConfigError` when `installed`, a version of `engine`, is older than the variant needs, and
    `ArtifactError` when what the variant names is no version."""
    wanted = variant.runtime.min_version
    if re.fullmatch(r"\d+(\.\d+)*", wanted, re.ASCII) is None:
        raise refused(variant.id, f"has the minimum runtime version {wanted!r}, which is not a version")
    have = [int(part) for part in re.findall(r"\d+", installed)[:3]]
    need = [int(part) for part in wanted.split(".")]
    length = max(len(have), len(need))
    if have + [0] * (length - len(have)) < need + [0] * (length - len(need)):
        raise ConfigError(
            f"Variant {variant.id!r} needs {engine} {wanted} or later, and {installed} is installed.",
            remedy=f"Update the {package} package, or choose another variant.",
            subject=variant.id,
        )
