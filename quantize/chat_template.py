"""Where a Hugging Face folder keeps its chat template:
https://huggingface.co/docs/transformers/chat_templating_writing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATE_FILE = "chat_template.jinja"


def default_template(folder: Path, settings: Mapping[str, Any]) -> Any:
    """The template in the file of its own, or else in `settings`, the content of tokenizer_config.json, where
    several may stand by name. None if there is none. What stands in `settings` may be anything: the caller
    checks that it is text."""
    path = folder / TEMPLATE_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    given = settings.get("chat_template")
    if not isinstance(given, list):
        return given
    return {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, dict)}.get(
        "default"
    )
