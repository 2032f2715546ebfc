"""An ONNX, GGUF or skops file, from its header: checked first, so that a hostile one does no harm."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from edgeops.errors import ArtifactError
from toolchain.new.found import Found, model_name, unknown
from toolchain.recipe.base import Task
from toolchain.recipe.flow import one_line

_TOKENIZER = "tokenizer.json"
_FLOAT = 1  # TensorProto.DataType
_UNQUANTIZED = ("F32", "F16", "BF16")


def look_at_onnx(path: Path, task: Task | None) -> Found:
    """The model in an ONNX file: what goes in and what comes out."""
    from edgeops.engines.onnx_file import check_onnx_file

    summary = check_onnx_file(path, allow_links=True)
    inputs, outputs = _interface(path, set(summary.inputs))
    if len(outputs) != 1:
        raise unknown(
            str(path), f"it has {len(outputs)} outputs", "Export it with one: probabilities, or a vector."
        )
    ((output, (_, output_shape)),) = outputs.items()
    if len(summary.external) > 1:
        raise unknown(
            str(path),
            f"its weights lie in {len(summary.external)} other files",
            "Save it with one file of external data (onnx.save_model, all_tensors_to_one_file), or none.",
        )
    external: dict[str, Any] = {"external_data": summary.external[0]} if summary.external else {}
    text = "input_ids" in inputs
    name = model_name(path.stem)
    common: dict[str, Any] = {
        "source": "onnx",
        "place": path,
        "variants": (("onnx", "int8"), ("onnx", "fp32")),
        "output": output,
        "size_bytes": summary.size_bytes,
        "notes": ("The output must be a probability for each class, so the graph ends in Softmax.",),
    }
    if text:
        if not path.with_name(_TOKENIZER).is_file():
            raise unknown(
                str(path),
                f"it takes tokens, and no {_TOKENIZER} lies beside it",
                "Put the tokenizer's file there.",
            )
        guess: Task = "token-classification" if len(output_shape) == 3 else "text-classification"
        return Found(
            name=name,
            task=task or guess,
            fields={**external, "tokenizer": path.with_name(_TOKENIZER)},
            input={"name": "text", "dtype": "BYTES", "max_characters": 2000},
            **common,
        )
    if len(inputs) != 1:
        raise unknown(str(path), f"it has {len(inputs)} inputs", "Export it with one input, or one for text.")
    ((input_name, (kind, shape)),) = inputs.items()
    if kind != _FLOAT:
        raise unknown(
            str(path), f"its input {input_name} is not FLOAT", "Export it with an input of float32."
        )
    row = shape[1:]
    guess = "image-classification" if len(row) == 3 else "tabular-classification"
    known = {"shape": row} if row and all(row) else {}
    return Found(
        name=name, task=task or guess, fields=external, input={"name": input_name, **known}, **common
    )


def _interface(
    path: Path, names: set[str]
) -> tuple[dict[str, tuple[int, list[int]]], dict[str, tuple[int, list[int]]]]:
    """Element type and shape (0: free) of each input among `names`, and of each output."""
    import onnx

    graph = onnx.load_model(path, load_external_data=False).graph

    def told(values: Any) -> dict[str, tuple[int, list[int]]]:
        return {
            value.name: (
                value.type.tensor_type.elem_type,
                [dimension.dim_value for dimension in value.type.tensor_type.shape.dim],
            )
            for value in values
        }

    return told(value for value in graph.input if value.name in names), told(graph.output)


def look_at_gguf(path: Path) -> Found:
    """The language model in a GGUF file."""
    from edgeops.engines.gguf_file import read_gguf

    header = read_gguf(path)
    quantized = sorted(set(header.tensor_counts()) - set(_UNQUANTIZED))
    if quantized:
        raise unknown(
            str(path),
            f"its weights are quantized already ({', '.join(quantized)})",
            "Name a file in F16, BF16 or F32: what is quantized twice loses twice.",
        )
    architecture = header.metadata.get("general.architecture")
    widths = [
        header.metadata.get(f"{architecture}.{key}") for key in ("embedding_length", "feed_forward_length")
    ]
    # K-quants come in blocks of 256 weights of a row.
    whole = all(isinstance(width, int) and width % 256 == 0 for width in widths)
    license = header.metadata.get("general.license")
    return Found(
        source="gguf",
        name=model_name(path.stem),
        task="text-generation",
        place=path,
        fields={},
        variants=(("gguf", "q4_k_m" if whole else "q8_0"), ("gguf", "f16")),
        size_bytes=header.size_bytes,
        license=license if isinstance(license, str) else None,
        has_template="tokenizer.chat_template" in header.metadata,
    )


def look_at_skops(path: Path) -> Found:
    """The pipeline in a skops file; nothing that skops does not trust is made of it."""
    from toolchain.importing.sklearn_pipeline import load_pipeline

    found = Found(
        source="sklearn",
        name=model_name(path.stem),
        task="tabular-classification",
        fields={},
        variants=(("onnx", "fp32"),),
        place=path,
        input={"name": "row"},
        size_bytes=path.stat().st_size,
    )
    try:
        estimator = load_pipeline(path, path.name, trusted=())
    except ArtifactError as error:
        if "types" not in error.details:
            raise
        trust = f"trusted_types: {one_line(error.details['types'])}"
        note = "FILL IN, if you trust them, since loading runs their code: types that skops does not know."
        return dataclasses.replace(found, notes=(note, trust))
    width = getattr(estimator, "n_features_in_", None)
    if width is None:
        return found
    names = getattr(estimator, "feature_names_in_", [f"column_{i}" for i in range(width)])
    columns = [{"name": str(name)} for name in names]
    return dataclasses.replace(
        found,
        input={"name": "row", "shape": [int(width)], "columns": columns},
        classes=tuple(str(one) for one in getattr(estimator, "classes_", ())),
    )
