"""Torch modules that a recipe's factory makes, and their weights on disk: safetensors, no pickles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from edgeops.engines.refusals import one_line
from edgeops.errors import ArtifactError, ConfigError
from toolchain.handover.context import load_factory

WEIGHTS_FILE = "weights.safetensors"


def make_deterministic() -> None:
    """One thread: sums in one order. Torch refuses what has no deterministic kernel (`RuntimeError`)."""
    # Without it cuBLAS has none (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def build(source: Mapping[str, Any], *, seed: int, **given: object) -> nn.Module:
    """The network that `source` (`factory`, `options`) describes, with weights drawn from `seed`. `given`
    are arguments that do not come from the recipe, such as a tokenizer.

    Raises `ConfigError` if the factory does not exist or returns something else.
    """
    torch.manual_seed(seed)
    module = load_factory(source["factory"])(**source["options"], **given)
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"{source['factory']} does not return a torch module.",
            remedy="Correct the factory in the recipe.",
            subject=source["factory"],
        )
    return module


def count_parameters(module: nn.Module) -> int:
    """How many numbers the module learns; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes the weights by name. Equal weights are equal bytes."""
    tensors = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
    path.write_bytes(save(tensors))


def load_weights(module: nn.Module, path: Path) -> None:
    """Reads weights into `module`, in place, and sets it to evaluation.

    Raises `ArtifactError` (subject: the file's name) if the file is no safetensors file, or its names or
    shapes are not the module's.
    """
    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(
            f"{path.name} does not hold the weights of this network ({one_line(error)}).",
            remedy="Check the network's factory and options against those that the weights were made with.",
            subject=path.name,
        ) from error
    module.eval()
