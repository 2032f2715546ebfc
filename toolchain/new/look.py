"""What kind of model something is: a folder, a file, or code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeops.errors import ConfigError
from toolchain.new.found import Found, model_name, unknown
from toolchain.new.look_files import look_at_gguf, look_at_onnx, look_at_skops
from toolchain.new.look_folder import look_at_folder
from toolchain.recipe.base import Task
from toolchain.recipe.flow import is_factory

_KINDS = "a Hugging Face folder, a .onnx, .gguf or .skops file, or a Python module:function"
_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt")


def look(model: str, *, task: Task | None, trained: bool) -> Found:
    """What `model` names. `task` overrides what is found. `trained`: what the function returns is trained.

    Raises `ConfigError` on what is none of these, and `ArtifactError` on a file that is not what it says.
    """
    path = Path(model)
    if path.is_dir():
        return look_at_folder(path, task)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".onnx":
            return look_at_onnx(path, task)
        if suffix == ".gguf":
            return look_at_gguf(path)
        if suffix == ".skops":
            return look_at_skops(path)
        remedy = "Save weights as safetensors, scikit-learn pipelines by skops." if suffix in _PICKLES else ""
        raise unknown(model, f"it is not {_KINDS}", remedy or "Name one of these.")
    if is_factory(model):
        return _look_at_code(model, task, trained=trained)
    raise ConfigError(f"There is no {model}.", remedy=f"Name {_KINDS}.", subject=model)


def _look_at_code(reference: str, task: Task | None, *, trained: bool) -> Found:
    made = _call(reference)
    kinds = {kind.__module__.partition(".")[0] for kind in type(made).__mro__}
    name = model_name(reference.partition(":")[0].rpartition(".")[2])
    if "transformers" in kinds:
        raise unknown(
            reference,
            "it returns a transformers model, which needs the recipe's tokenizer and training",
            "Save the trained model with its tokenizer (save_pretrained) and name the folder, or begin with "
            "models/intents/recipe.yaml.",
        )
    if "torch" in kinds:
        size_bytes = sum(p.numel() * p.element_size() for p in made.parameters())
        training = {} if trained else {"training": {"epochs": 20, "batch_size": 64, "learning_rate": 0.003}}
        return Found(
            source="python",
            name=name,
            task=task or "tabular-classification",
            fields={"factory": reference, **training},
            variants=(("onnx", "int8"), ("onnx", "fp32")),
            input={"name": "image" if task == "image-classification" else "input"},
            size_bytes=size_bytes,
            notes=() if task is not None else ("The task is a guess: a torch module does not tell.",),
        )
    if "sklearn" in kinds and hasattr(made, "fit"):
        return Found(
            source="sklearn",
            name=name,
            task="tabular-classification",
            fields={"factory": reference},
            variants=(("onnx", "fp32"),),
            input={"name": "row"},
        )
    raise unknown(
        reference,
        f"it returns a {type(made).__name__}",
        "Return a torch.nn.Module, or a scikit-learn pipeline that ends in a classifier.",
    )


def _call(reference: str) -> Any:
    from toolchain.handover.context import load_factory

    factory = load_factory(reference)
    try:
        return factory()
    except Exception as error:  # the user's own code may raise anything
        raise unknown(
            reference,
            f"calling it without arguments raised {type(error).__name__}: {error}",
            "Give its parameters defaults; in the recipe others can be set by options.",
        ) from error
