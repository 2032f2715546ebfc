"""The import step of a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain.handover.context import StepContext
from toolchain.importing import offline
from toolchain.importing.huggingface import TOKENIZER_FILE, copy_folder, read_json, refused
from toolchain.importing.image_processor import load_processor, preprocessing
from toolchain.importing.limits import bounded_memory
from toolchain.importing.transformer import check_length, load_model, load_tokenizer, max_tokens, pooling


def run(context: StepContext) -> None:
    """Writes `model/`, a checked copy of the folder, and `training.json`."""
    offline.hush()
    config, task = context.config, context.config["task"]
    source = context.inputs["folder"]
    name = Path(config["model"]["folder"]).name
    size_bytes = sum(path.lstat().st_size for path in source.rglob("*.safetensors"))
    target = context.out / "model"
    with bounded_memory(size_bytes, name):
        classes = context.read_json("data", "data.json")["classes"]
        copy_folder(source, target, name=name, task=task, classes=classes)
        model = load_model(target, task)
        if task == "image-classification":
            preprocessing(load_processor(target), config["input"]["shape"])
        else:
            _check_text(target, model, task, name)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    context.write_json("training.json", {"source": "huggingface", "parameters": parameters})


def _check_text(folder: Path, model: Any, task: str, name: str) -> None:
    """Whether tokenizer and model belong together."""
    tokenizer = load_tokenizer(folder)
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise refused(
            TOKENIZER_FILE,
            f"of {name} has the token {highest}, and the model has {rows} rows for tokens",
            "Bring the tokenizer that the model was trained with.",
        )
    if task == "feature-extraction":
        pooling(folder)
    if task != "text-generation":
        check_length(model, max_tokens(folder, read_json(folder, "config.json")), name)
