"""The GGUF export step: a Hugging Face model converted, or a GGUF source as it is, in half precision."""

from __future__ import annotations

import shutil

from edgeops.engines.gguf_model import check_gguf
from quantize import gguf_convert, gguf_quantize
from toolchain.handover.context import StepContext

MODEL_FILE = "model.gguf"


def run(context: StepContext) -> None:
    """Writes `variant/model.gguf` and `export.json`: what made it, and its tensors by type. Matrices are F16:
    of a GGUF source those that were not are converted."""
    folder, variant = context.inputs["model"] / "model", context.out / "variant"
    variant.mkdir()
    target = variant / MODEL_FILE
    if context.config["model"]["source"] == "huggingface":
        done = gguf_convert.convert(folder, target, name=context.config["name"])
        context.write_json("export.json", {"arguments": done.arguments, "tensors": done.after})
        return
    source = folder / MODEL_FILE
    header = check_gguf(source)
    if all(len(tensor.shape) == 1 or tensor.type == "F16" for tensor in header.tensors.values()):
        shutil.copyfile(source, target)
        context.write_json("export.json", {"arguments": {}, "tensors": header.tensor_counts()})
        return
    done = gguf_quantize.quantize(source, target, "f16")
    context.write_json("export.json", {"arguments": done.arguments, "tensors": done.after})
