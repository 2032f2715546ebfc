"""What a language model says of itself beside its weights: `config.json`, in Hugging Face's form."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgeops.errors import ArtifactError, ConfigError
from edgeops.manifest import Variant

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class LanguageConfig:
    """`context_tokens` is what the model was trained with; `end_tokens` end an answer; `raw` is the file."""

    model_type: str
    vocabulary_size: int
    context_tokens: int
    end_tokens: frozenset[int]
    raw: dict[str, Any]


def variant_file(variant: Variant, bundle_dir: Path, name: str) -> Path:
    """The file `name` that lies beside the variant's first, if the variant lists it.

    Raises `ArtifactError` (subject: the path) when it does not, or the file is missing or leads outside.
    """
    path = str(PurePosixPath(variant.files[0].path).parent / name)
    if all(entry.path != path for entry in variant.files):
        raise _refused(path, f"is not among the files of variant {variant.id!r}")
    root = bundle_dir.resolve()
    try:
        target = (root / path).resolve(strict=True)
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror})") from error
    if not target.is_relative_to(root) or not target.is_file():
        raise _refused(path, "is not a file inside its bundle")
    return target


def has_file(variant: Variant, name: str) -> bool:
    """Whether the variant lists `name` beside its first file."""
    path = str(PurePosixPath(variant.files[0].path).parent / name)
    return any(entry.path == path for entry in variant.files)


def language_config(variant: Variant, bundle_dir: Path) -> LanguageConfig:
    """The variant's `config.json`. End tokens are those of `generation_config.json`, where the variant has
    that and it names some, since that is what the model's makers generate with.

    Raises `ArtifactError` (subject: the path) when a file is missing, too large or not what it must be.
    """
    raw = read_object(variant_file(variant, bundle_dir, CONFIG_FILE))
    ends = raw.get("eos_token_id")
    if has_file(variant, GENERATION_FILE):
        ends = read_object(variant_file(variant, bundle_dir, GENERATION_FILE)).get("eos_token_id", ends)
    ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
    vocabulary, context = _count(raw, "vocab_size"), _count(raw, "max_position_embeddings")
    if not all(type(token) is int and 0 <= token < vocabulary for token in ids):
        raise _refused(CONFIG_FILE, f"has end tokens {ids!r}, which are not all in the vocabulary")
    return LanguageConfig(
        model_type=str(raw.get("model_type", "")),
        vocabulary_size=vocabulary,
        context_tokens=context,
        end_tokens=frozenset(ids),
        raw=raw,
    )


def bounded_context(config: LanguageConfig, context_tokens: int | None) -> int:
    """The context to use: what the caller allows, and never more than the model was trained with."""
    return config.context_tokens if context_tokens is None else min(context_tokens, config.context_tokens)


def require_version(variant: Variant, installed: str, engine: str, package: str) -> None:
    """Raises `ConfigError` when `installed`, a version of `engine`, is older than the variant needs."""
    wanted = variant.runtime.min_version
    if re.fullmatch(r"\d+(\.\d+)*", wanted) is None:
        raise _refused(variant.id, f"has the minimum runtime version {wanted!r}, which is not a version")
    have = [int(part) for part in re.findall(r"\d+", installed)[:3]]
    need = [int(part) for part in wanted.split(".")]
    length = max(len(have), len(need))
    if have + [0] * (length - len(have)) < need + [0] * (length - len(need)):
        raise ConfigError(
            f"Variant {variant.id!r} needs {engine} {wanted} or later, and {installed} is installed.",
            remedy=f"Update the {package} package, or choose another variant.",
            subject=variant.id,
        )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`, of at most `MAX_CONFIG_BYTES`. Not the strict JSON of manifests:
    transformers writes "no limit" as an integer of 31 digits.

    Raises `ArtifactError` (subject: the file's name) when it is missing, too large or no such object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise _refused(path.name, f"has {size} bytes, and {MAX_CONFIG_BYTES} is the most")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise _refused(path.name, f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise _refused(path.name, f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise _refused(path.name, "is not a JSON object")
    return value


def _count(raw: dict[str, Any], name: str) -> int:
    value = raw.get(name)
    if type(value) is not int or value < 1:
        raise _refused(CONFIG_FILE, f"has {name} = {value!r}, which is no number of at least 1")
    return value


def _refused(subject: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"{subject} {why}.", remedy="Build the bundle again, or choose another variant.", subject=subject
    )
