"""Hugging Face models that are trained here: made by a recipe's factory, written to a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeops.errors import ConfigError
from toolchain.training.modules import build


def make_model(source: Mapping[str, Any], *, tokenizer: Any, task: str, classes: list[str], seed: int) -> Any:
    """The untrained model that `source`'s factory makes, with weights drawn from `seed`. It is told how to
    name its classes, and for a language model which tokens begin, end and fill up a text.

    Raises `ConfigError` if the factory makes something else, or a model with too few tokens or classes.
    """
    from transformers import PreTrainedModel

    given = {"tokenizer": tokenizer} | ({"classes": tuple(classes)} if classes else {})
    model = build(source, seed=seed, **given)
    if not isinstance(model, PreTrainedModel):
        raise _misfit(source, f"is a {type(model).__name__}, and no transformers.PreTrainedModel")
    if model.get_input_embeddings().weight.shape[0] < len(tokenizer):
        raise _misfit(source, f"knows fewer tokens than the tokenizer's {len(tokenizer)}")
    config = model.config
    if classes:
        if config.num_labels != len(classes):
            raise _misfit(source, f"has {config.num_labels} classes, and the data has {len(classes)}")
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: number for number, name in enumerate(classes)}
    config.pad_token_id = tokenizer.pad_token_id
    if task == "text-generation":
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        settings = model.generation_config
        settings.bos_token_id, settings.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        settings.pad_token_id = tokenizer.pad_token_id
    return model


def save_folder(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a Hugging Face folder: config.json, model.safetensors, the tokenizer's files. Nothing in it
    tells of places or times."""
    # Where a model was read from is no property of it.
    model.config._name_or_path = ""
    tokenizer.init_kwargs.pop("name_or_path", None)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _misfit(source: Mapping[str, Any], what: str) -> ConfigError:
    return ConfigError(
        f"What {source['factory']} returns {what}.",
        remedy="Correct the factory, or its options in the recipe.",
        subject=source["factory"],
    )
