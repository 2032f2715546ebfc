"""What a language model says of itself beside its weights: `config.json`, in Hugging Face's form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeops.engines.refusals import refused
from edgeops.engines.variant_files import variant_file
from edgeops.manifest import Variant

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class LanguageConfig:
    """`context_tokens` is what the model was trained with; `end_tokens` end an answer; `raw` is the file."""

    vocabulary_size: int
    context_tokens: int
    end_tokens: frozenset[int]
    raw: dict[str, Any]


def language_config(variant: Variant, bundle_dir: Path) -> LanguageConfig:
    """The variant's `config.json`. End tokens are those of `generation_config.json`, where the variant has
    that and it names some, since that is what the model's makers generate with.

    Raises `ArtifactError` (subject: the path) when a file is missing, too large or not what it must be.
    """
    raw = read_object(variant_file(variant, bundle_dir, CONFIG_FILE))
    ends = raw.get("eos_token_id")
    if variant.beside(GENERATION_FILE) is not None:
        ends = read_object(variant_file(variant, bundle_dir, GENERATION_FILE)).get("eos_token_id", ends)
    ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
    vocabulary, context = _count(raw, "vocab_size"), _count(raw, "max_position_embeddings")
    if not all(type(token) is int and 0 <= token < vocabulary for token in ids):
        raise refused(CONFIG_FILE, f"has end tokens {ids!r}, which are not all in the vocabulary")
    return LanguageConfig(
        vocabulary_size=vocabulary,
        context_tokens=context,
        end_tokens=frozenset(ids),
        raw=raw,
    )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`, of at most `MAX_CONFIG_BYTES`. Not the strict JSON of manifests:
    transformers writes "no limit" as an integer of 31 digits.

    Raises `ArtifactError` (subject: the file's name) when it is missing, too large or no such object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise refused(path.name, f"has {size} bytes, and {MAX_CONFIG_BYTES} is the most")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise refused(path.name, f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise refused(path.name, f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise refused(path.name, "is not a JSON object")
    return value


def _count(raw: dict[str, Any], name: str) -> int:
    value = raw.get(name)
    if type(value) is not int or value < 1:
        raise refused(CONFIG_FILE, f"has {name} = {value!r}, which is no number of at least 1")
    return value
