"""Hugging Face models to ONNX by optimum, with their preprocessing and last steps in the graph."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from edgeops.engines.refusals import one_line
from edgeops.errors import ArtifactError
from toolchain.exporting.onnx_heads import end_in_embedding, end_in_probabilities
from toolchain.exporting.onnx_pixels import begin_with_pixels
from toolchain.importing import offline
from toolchain.importing.huggingface import CONFIG_FILE, TOKENIZER_FILE, read_json, write_json
from toolchain.importing.image_processor import load_processor, preprocessing
from toolchain.importing.transformer import load_model, load_tokenizer, max_tokens, pooling
from toolchain.training.modules import make_deterministic

# What a language model's engine reads beside the graph (edgeops/engines/language_files.py).
_LANGUAGE_FILES = (CONFIG_FILE, "generation_config.json")


def export_transformer(
    folder: Path, target: Path, *, task: str, contract: Mapping[str, Any], output: str
) -> onnx.ModelProto:
    """The model in the Hugging Face `folder` as a graph; what the engine reads beside it is written to
    `target`. A classifier ends in probabilities named `output`, feature extraction in vectors of length 1."""
    offline.hush()
    make_deterministic()
    if task == "text-generation":
        model = _by_optimum(folder, "text-generation", "text-generation-with-past")
        for file in _LANGUAGE_FILES:
            if (folder / file).is_file():
                write_json(target / file, read_json(folder, file))
        tokenizer = load_tokenizer(folder).backend_tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.save(str(target / TOKENIZER_FILE), pretty=False)
        return model
    if task == "image-classification":
        steps = preprocessing(load_processor(folder), contract["shape"])
        model = _by_optimum(folder, task, task)
        end_in_probabilities(model, output)
        begin_with_pixels(model, steps, contract["name"], contract["shape"])
        return model
    model = _by_optimum(folder, task, task)
    if task == "feature-extraction":
        end_in_embedding(model, output, pooling(folder))
    else:
        end_in_probabilities(model, output)
    most = max_tokens(folder, read_json(folder, CONFIG_FILE))
    tokenizer = load_tokenizer(folder).backend_tokenizer
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    tokenizer.save(str(target / TOKENIZER_FILE), pretty=False)
    write_json(target / CONFIG_FILE, {"max_tokens": most, "input": contract["name"]})
    return model


def _by_optimum(folder: Path, task: str, export_task: str) -> onnx.ModelProto:
    """optimum's own export, without its comparison of outputs: the build has a gate for that, and reads
    its figures in the target engine."""
    from optimum.exporters.onnx import onnx_export_from_model
    from torch.onnx.errors import OnnxExporterError

    source = load_model(folder, task)
    scratch = Path(tempfile.mkdtemp())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            onnx_export_from_model(
                source, output=scratch, task=export_task, do_validation=False, device="cpu"
            )
        return onnx.load(scratch / "model.onnx")
    # optimum: ValueError for an architecture that it does not know, KeyError and NotImplementedError for a
    # task that it has not for this one. torch: OnnxExporterError for an operator that ONNX lacks, IndexError
    # where the exporter's made-up input lies outside the model's tables.
    except (ValueError, KeyError, NotImplementedError, OnnxExporterError, IndexError) as error:
        kind = source.config.model_type
        raise ArtifactError(
            f"optimum cannot export the model of type {kind!r} for {export_task} ({one_line(error)}).",
            remedy="Use an architecture that optimum exports, or another format.",
            subject=kind,
        ) from error
    finally:
        shutil.rmtree(scratch)
