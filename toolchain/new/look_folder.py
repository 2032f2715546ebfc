"""A Hugging Face folder, from its configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from toolchain.importing.huggingface import CONFIG_FILE, PREPROCESSOR_FILE, check_config, read_json
from toolchain.new.found import Found, model_name, unknown
from toolchain.recipe.base import Task
from toolchain.recipe.variants import Format

# What a class's name ends in tells its head; a bare `…Model` gives vectors.
_HEADS: tuple[tuple[str, Task], ...] = (
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForImageClassification", "image-classification"),
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
    ("Model", "feature-extraction"),
)
# What quantize/gguf_convert.py converts.
_GGUF_ARCHITECTURES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma")
_CHARACTERS_A_TOKEN = 6


def look_at_folder(folder: Path, task: Task | None) -> Found:
    """The model in the folder. Raises `ConfigError` if it says no task, and `ArtifactError` on a folder that
    a build would refuse for what its config.json says."""
    if not (folder / CONFIG_FILE).is_file():
        raise unknown(
            str(folder), f"there is no {CONFIG_FILE} in it", "Save the model there (save_pretrained)."
        )
    config = read_json(folder, CONFIG_FILE)
    task = task or _task(config, folder)
    classes = _classes(config) if task.endswith("-classification") else ()
    check_config(config, name=folder.name, task=task, classes=classes)
    size_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return Found(
        source="huggingface",
        name=model_name(folder.resolve().name),
        task=task,
        place=folder,
        role="folder",
        fields={},
        variants=_variants(config, task),
        optional=(("mlx", "4bit"),) if task == "text-generation" else (),
        input=_image(folder, config) if task == "image-classification" else _text(config, task),
        classes=classes,
        size_bytes=size_bytes,
        license=_license(folder),
        has_template=_has_template(folder),
    )


def _task(config: Mapping[str, Any], folder: Path) -> Task:
    heads = config.get("architectures")
    head = heads[0] if isinstance(heads, list) and heads and isinstance(heads[0], str) else ""
    for ending, task in _HEADS:
        if head.endswith(ending):
            return task
    raise unknown(
        str(folder),
        f"the architecture {head!r} in its {CONFIG_FILE} tells no task",
        f"Give --task, one of {', '.join(get_args(Task))}.",
    )


def _classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label")
    if not isinstance(names, dict):
        return ("LABEL_0", "LABEL_1")  # transformers' own default
    return tuple(str(names[key]) for key in sorted(names, key=lambda key: int(key) if key.isdecimal() else 0))


def _variants(config: Mapping[str, Any], task: Task) -> tuple[tuple[Format, str], ...]:
    if task != "text-generation":
        return (("onnx", "int8"), ("onnx", "fp32"))
    head = config["architectures"][0]
    variants: list[tuple[Format, str]] = []
    if head.removesuffix("ForCausalLM") in _GGUF_ARCHITECTURES:
        # K-quants come in blocks of 256 weights of a row.
        rows = [config.get("hidden_size"), config.get("intermediate_size")]
        whole = all(isinstance(row, int) and row % 256 == 0 for row in rows)
        variants += [("gguf", "q4_k_m" if whole else "q8_0"), ("gguf", "f16")]
    return (*variants, ("onnx", "int8"))


def _image(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    size = config.get("image_size")
    if size is None and (folder / PREPROCESSOR_FILE).is_file():
        size = read_json(folder, PREPROCESSOR_FILE).get("size")
    if isinstance(size, dict):
        size = [size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))]
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    known = isinstance(height, int) and isinstance(width, int)
    channels = config.get("num_channels", 3)
    shape = [channels, height, width] if known else [channels, 224, 224]
    return {"name": "image", "shape": shape, "minimum": 0, "maximum": 255}


def _text(config: Mapping[str, Any], task: Task) -> dict[str, Any]:
    if task == "text-generation":
        return {}
    tokens = config.get("max_position_embeddings", config.get("n_positions", 512))
    characters = tokens * _CHARACTERS_A_TOKEN if isinstance(tokens, int) and tokens > 0 else 2000
    return {"name": "text", "dtype": "BYTES", "max_characters": min(characters, 100_000)}


def _license(folder: Path) -> str | None:
    """The license in a model card's front matter (https://huggingface.co/docs/hub/model-cards)."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open(encoding="utf-8", errors="replace") as file:
        head = file.read(4096)
    found = re.search(r"\A---\n(?:.*\n)*?license:[ \t]*([A-Za-z0-9.+-]+)[ \t]*\n", head)
    return found[1] if found else None


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and "chat_template" in read_json(folder, file.name)
