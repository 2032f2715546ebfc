"""The import step of an ONNX file. It runs in a process of its own, with limited memory."""

from __future__ import annotations

from pathlib import Path

from toolchain.handover.arrays import load_part
from toolchain.handover.context import StepContext
from toolchain.importing.limits import bounded_memory
from toolchain.importing.onnx_source import (
    MODEL_FILE,
    answer_rows,
    bring_in,
    bring_tokenizer,
    check_answers,
    parameter_count,
)

TRIED_ROWS = 8


def run(context: StepContext) -> None:
    """Writes `model/` (model.onnx; for text also tokenizer.json and config.json) and `training.json`."""
    config, model = context.config, context.config["model"]
    file, external = context.inputs["file"], context.inputs.get("external_data")
    name = Path(model["file"]).name
    folder = context.out / "model"
    folder.mkdir()
    size_bytes = sum(path.lstat().st_size for path in (file, external) if path is not None)
    with bounded_memory(size_bytes, name):
        bring_in(file, folder / MODEL_FILE, name=name, external=external)
        if "tokenizer" in context.inputs:
            bring_tokenizer(
                context.inputs["tokenizer"],
                folder,
                name=Path(model["tokenizer"]).name,
                input_name=config["input"]["name"],
            )
        rows, _ = load_part(context.inputs["data"], "calibration")
        answers = answer_rows(folder, rows[:TRIED_ROWS], {**config, "variant": name})
    classes = context.read_json("data", "data.json")["classes"]
    check_answers(answers, len(classes), config["task"], name)
    context.write_json(
        "training.json", {"source": "onnx", "parameters": parameter_count(folder / MODEL_FILE)}
    )
