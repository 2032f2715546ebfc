"""ONNX files from outside: looked at with bounds before any library is, made whole and canonical, and held
against the recipe in the engine that will run them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeops.canonical import canonical_json
from edgeops.engines.base import load_engine
from edgeops.engines.onnx_file import check_onnx_file
from edgeops.engines.tokenizer import TOKENIZER_FILE, TextTokenizer
from edgeops.errors import ArtifactError, InferenceError
from quantize.onnx_files import read_model, write_model
from toolchain.evaluation.rows import Asker, as_inputs
from toolchain.evaluation.variant import read_variant
from toolchain.handover.arrays import Array
from toolchain.importing.pickles import refuse_pickle

MODEL_FILE = "model.onnx"
CONFIG_FILE = "config.json"
# How far the sum of a row's probabilities may be from 1.
SUM_TOLERANCE = 1e-3


def bring_in(file: Path, target: Path, *, name: str, external: Path | None) -> None:
    """Writes `target` from the ONNX file, with the weights of the file `external` beside it inside.

    Raises `ArtifactError` (subject: `name`, or the file at fault) with what is wrong.
    """
    refuse_pickle(file, name, "Export the model to ONNX.")
    summary = check_onnx_file(file, allow_links=False)
    named = set() if external is None else {external.resolve()}
    for path in summary.external:
        if path.resolve() not in named:
            raise ArtifactError(
                f"{name} keeps weights in {path.name}, which the recipe does not name.",
                remedy=f"Name it in the model's external_data: {path.name}.",
                subject=name,
            )
    model = read_model(file)
    try:
        write_model(target, model)
    except ArtifactError as error:
        raise ArtifactError(error.message, remedy="Export the model again.", subject=name) from error


def bring_tokenizer(file: Path, target: Path, *, name: str, input_name: str) -> None:
    """Writes `tokenizer.json`, without padding, and `config.json` to the folder `target`.

    Raises `ArtifactError` when the file is no tokenizer, or does not say where it cuts texts.
    """
    most = TextTokenizer.load(file).max_tokens
    if most is None:
        raise ArtifactError(
            f"{name} does not cut texts, and the model takes a limited number of tokens.",
            remedy="Set its truncation (tokenizers.Tokenizer.enable_truncation) and save it again.",
            subject=name,
        )
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.save(str(target / TOKENIZER_FILE), pretty=False)
    (target / CONFIG_FILE).write_bytes(canonical_json({"input": input_name, "max_tokens": most}))


def answer_rows(folder: Path, rows: Array, config: Mapping[str, Any]) -> Array:
    """What the model in `folder` gives on rows, one at a time, in ONNX Runtime. `config` has the recipe's
    `task`, `input` and `output`, and its `variant` is the model's name in errors.

    Raises `ArtifactError` when its interface is not the recipe's, or it fails on the rows.
    """
    variant = read_variant(folder, variant_id=config["variant"], format="onnx", precision="fp32")
    engine = load_engine(variant, folder)
    try:
        return Asker(engine, config).ask_rows(as_inputs(rows))
    except InferenceError as error:
        raise ArtifactError(
            f"{config['variant']} fails on rows of the data: {error.message}",
            remedy="Correct the model, or the recipe's input.",
            subject=config["variant"],
        ) from error
    finally:
        engine.close()


def check_answers(answers: Array, classes: int, task: str, name: str) -> None:
    """Whether answers are what the task needs: a probability for each class, or finite vectors.
    Raises `ArtifactError` (subject: `name`)."""
    given = answers[~np.isnan(answers).any(axis=-1)] if answers.ndim == 3 else answers
    if not np.all(np.isfinite(given)):
        raise _unfit(name, "gives numbers that are not finite")
    if task == "feature-extraction":
        return
    if answers.shape[-1] != classes:
        raise _unfit(name, f"gives {answers.shape[-1]} numbers a row, and the data has {classes} classes")
    sums = given.sum(axis=-1)
    if np.any(given < -SUM_TOLERANCE) or np.any(np.abs(sums - 1) > SUM_TOLERANCE):
        raise _unfit(name, f"gives no probabilities: the first row adds up to {sums.ravel()[0]:.6g}")


def parameter_count(path: Path) -> int:
    """How many numbers the floating-point weights of the graph are."""
    model = onnx.load(path)
    kinds = (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.BFLOAT16,
    )
    return sum(
        int(np.prod(tensor.dims, dtype=np.int64))
        for tensor in model.graph.initializer
        if tensor.data_type in kinds
    )


def _unfit(name: str, what: str) -> ArtifactError:
    return ArtifactError(
        f"{name} {what}.",
        remedy="Let the graph end in Softmax over the data's classes, in their order.",
        subject=name,
    )
