"""What a language model's own files say of its prompts: chat template, tokens that templates write,
context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeops.engines.gguf_file import read_gguf
from quantize.chat_template import default_template
from toolchain.importing.huggingface import CONFIG_FILE, read_json, refused

GGUF_FILE = "model.gguf"
SETTINGS_FILE = "tokenizer_config.json"
_TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True)
class OwnPrompts:
    """`template` is None if the model has none; tokens it does not have are "". `context_tokens` is what the
    model can hold."""

    template: str | None
    bos_token: str
    eos_token: str
    context_tokens: int


def own_prompts(folder: Path) -> OwnPrompts:
    """What the model in `folder` says: a GGUF file, or a Hugging Face folder.

    Raises `ArtifactError` (subject: the file) when a file is missing or not what it must be.
    """
    if (folder / GGUF_FILE).exists():
        return _of_gguf(folder / GGUF_FILE)
    config = read_json(folder, CONFIG_FILE)
    settings = read_json(folder, SETTINGS_FILE) if (folder / SETTINGS_FILE).exists() else {}
    context = config.get("max_position_embeddings")
    if not isinstance(context, int) or context < 1:
        raise refused(CONFIG_FILE, f"has max_position_embeddings {context!r}, which is no context")
    return OwnPrompts(
        template=_template(folder, settings),
        bos_token=special_token(settings, "bos_token"),
        eos_token=special_token(settings, "eos_token"),
        context_tokens=context,
    )


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    given = default_template(folder, settings)
    if given is not None and not isinstance(given, str):
        raise refused(SETTINGS_FILE, "has a chat_template that is not text")
    return given


def special_token(settings: Mapping[str, Any], name: str) -> str:
    """The text of a special token, such as `eos_token`, in a tokenizer_config.json; "" if it has none. Raises
    `ArtifactError` if it is not text."""
    token = settings.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    if text is None:
        return ""
    if not isinstance(text, str):
        raise refused(SETTINGS_FILE, f"has a {name} that is not text")
    return text


def _of_gguf(path: Path) -> OwnPrompts:
    file = read_gguf(path, keep={_TOKENS})
    tokens, template = file.metadata.get(_TOKENS), file.metadata.get("tokenizer.chat_template")
    context = file.metadata.get(f"{file.metadata.get('general.architecture')}.context_length")
    if not isinstance(tokens, list) or not isinstance(context, int):
        file.refuse("tells neither its tokens nor its context")
    if template is not None and not isinstance(template, str):
        file.refuse("has a chat template that is not text")

    def named(key: str) -> str:
        number = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if not isinstance(number, int) or not 0 <= number < len(tokens):
            return ""
        return tokens[number].decode(errors="replace")

    return OwnPrompts(template, named("bos"), named("eos"), context)
