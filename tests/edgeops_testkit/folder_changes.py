"""Changes to a Hugging Face folder of a language model: its configuration, its tokenizer, its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Change = Callable[[Path], None]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def config_changed(**changes: Any) -> Change:
    """`config.json` with these fields; one that is "gone" is taken out."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))

    return change


def tokenizer_changed(edit: Callable[[dict[str, Any]], object], file: str = "tokenizer.json") -> Change:
    """The tokenizer's file as `edit` leaves its content."""

    def change(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return change


def weights_changed(edit: Callable[[dict[str, np.ndarray]], object]) -> Change:
    """`model.safetensors` as `edit` leaves its tensors."""

    def change(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def rope_scaled(**scaling: Any) -> Change:
    """`config.json` with this scaling of the rotary positions."""
    return config_changed(rope_scaling=scaling)
