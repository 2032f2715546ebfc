"""The import step of a GGUF file. It runs in a process of its own, with limited memory."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from edgeops.engines.gguf_model import check_gguf
from edgeops.engines.llama_engine import LlamaEngine
from edgeops.errors import ArtifactError, InferenceError
from toolchain.handover.context import StepContext
from toolchain.importing.limits import bounded_memory
from toolchain.importing.pickles import refuse_pickle

MODEL_FILE = "model.gguf"
UNQUANTIZED = frozenset({"F32", "F16", "BF16"})
# Enough for one token through every layer; a file may promise a context of any length.
TRIED_CONTEXT_TOKENS = 64


def run(context: StepContext) -> None:
    """Writes `model/model.gguf` and `training.json`."""
    file, name = context.inputs["file"], Path(context.config["model"]["file"]).name
    refuse_pickle(file, name, "Convert the model to GGUF.")
    with bounded_memory(file.lstat().st_size, name):
        header = check_gguf(file, allow_links=False)
        quantized = sorted(set(header.tensor_counts()) - UNQUANTIZED)
        if quantized:
            raise ArtifactError(
                f"{name} holds tensors of type {quantized[0]}: it is quantized, and cannot be well again.",
                remedy="Bring the file in F32, F16 or BF16.",
                subject=name,
            )
        folder = context.out / "model"
        folder.mkdir()
        shutil.copyfile(file, folder / MODEL_FILE)
        _try(folder / MODEL_FILE, name)
    parameters = sum(math.prod(tensor.shape) for tensor in header.tensors.values())
    context.write_json("training.json", {"source": "gguf", "parameters": parameters})


def _try(path: Path, name: str) -> None:
    """Whether llama.cpp loads the file and gives finite scores."""
    engine = LlamaEngine.open(path, context_tokens=TRIED_CONTEXT_TOKENS)
    try:
        scores = engine.logits([0])
        if not math.isfinite(float(scores.sum())):
            raise ArtifactError(
                f"{name} gives scores that are not finite.",
                remedy="Convert the model again.",
                subject=name,
            )
    except InferenceError as error:
        raise ArtifactError(
            f"{name} cannot be run: {error.message}", remedy="Convert the model again.", subject=name
        ) from error
    finally:
        engine.close()
