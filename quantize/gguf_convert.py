"""A Hugging Face folder to a GGUF file in half precision, with the `gguf` package.

Matrices become F16, vectors F32 (as llama.cpp's own converter has it). The bytes depend on the folder's
content and the name given, on nothing else: no path, no time, no version of a library.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeops.engines.llama_engine import END_TOKENS_KEY, NORMALIZATION_KEY
from edgeops.errors import ArtifactError
from quantize.gguf_architectures import Architecture, Source, architecture_of
from quantize.gguf_tokenizer import Vocabulary, vocabulary_of
from quantize.gguf_tokenizer_check import check_tokenizer
from quantize.gguf_weights import Weights, open_weights, read_json
from quantize.result import Quantized

_LARGEST_F16 = float(np.finfo(np.float16).max)


def convert(source: Path, target: Path, *, name: str) -> Quantized:
    """Writes the GGUF file `target` from the Hugging Face folder `source` (config.json, safetensors in one
    file or in shards, tokenizer.json). `name` becomes `general.name`.

    Supported are Llama, Mistral, Qwen2, Qwen3 and the first Gemma, with the rope scalings and tokenizers
    that llama.cpp computes as transformers does. A model with a sliding window gets that window as its
    context, within which both compute the same. Counts are of tensors by type. The tokens that the file
    makes of many texts are compared with the folder's own.

    Raises `ArtifactError`, naming the file of the folder, on everything else, and nothing is written then.
    """
    config = read_json(source / "config.json")
    with open_weights(source) as weights:
        architecture = architecture_of(config, frozenset(weights.types))
        _check_complete(architecture, weights)
        vocabulary = vocabulary_of(source, config, architecture.vocabulary)
        partial = target.with_name(f".{target.name}.partial")
        try:
            after = _write(partial, architecture, vocabulary, weights, name)
            check_tokenizer(partial, source, vocabulary)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        before = Counter(weights.types[tensor.name] for tensor in architecture.tensors)
    return Quantized(
        arguments={
            "format": "gguf",
            "precision": "f16",
            "name": name,
            "architecture": architecture.name,
            "context_tokens": architecture.context_tokens,
        },
        before=dict(sorted(before.items())),
        after=dict(sorted(after.items())),
    )


def _check_complete(architecture: Architecture, weights: Weights) -> None:
    wanted = {tensor.name for tensor in architecture.tensors}
    missing = sorted(wanted - set(weights.types))
    surplus = sorted(set(weights.types) - wanted - architecture.ignored)
    if missing or surplus:
        what = f"lacks the tensor {missing[0]}" if missing else f"has a tensor {surplus[0]}"
        raise ArtifactError(
            f"The model {what}, which config.json does not describe.",
            remedy="Save the model again with save_pretrained.",
            subject="config.json",
            details={"missing": missing, "surplus": surplus},
        )


def _write(
    path: Path, architecture: Architecture, vocabulary: Vocabulary, weights: Weights, name: str
) -> Counter[str]:
    import gguf

    writer = gguf.GGUFWriter(path, architecture.name)
    try:
        _add_metadata(writer, architecture, vocabulary, name)
        counts: Counter[str] = Counter()
        divisors = architecture.rope.divisors
        if divisors is not None:
            _announce(writer, "rope_freqs.weight", divisors.shape, np.float32, counts)
        for tensor in architecture.tensors:
            kind = np.float16 if len(tensor.shape) > 1 else np.float32
            _announce(writer, tensor.target, tensor.shape, kind, counts)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        # One tensor at a time, so that memory does not grow with the model.
        if divisors is not None:
            writer.write_tensor_data(divisors)
        for tensor in architecture.tensors:
            writer.write_tensor_data(_converted(tensor, weights))
    finally:
        writer.close()
    return counts


def _announce(writer: Any, name: str, shape: tuple[int, ...], kind: Any, counts: Counter[str]) -> None:
    dtype = np.dtype(kind)
    writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize)
    counts["F16" if dtype == np.float16 else "F32"] += 1


def _converted(tensor: Source, weights: Weights) -> npt.NDArray[Any]:
    values = weights.read(tensor.name, tensor.shape)
    if tensor.plus_one:
        values = values + np.float32(1)
    if tensor.rotary_heads:
        values = _halves_to_pairs(values, tensor.rotary_heads)
    if values.ndim == 1:
        return values
    largest = float(np.abs(values).max(initial=0))
    if largest > _LARGEST_F16:
        raise ArtifactError(
            f"The tensor {tensor.name} holds {largest:g}, which half precision cannot.",
            remedy="Choose another model, or export it to ONNX.",
            subject=tensor.name,
        )
    return np.ascontiguousarray(values.astype(np.float16))


def _halves_to_pairs(values: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Reorders the rows of a query or key projection. transformers rotates row i of a head together with
    row i + half; llama.cpp, for Llama, row 2i with row 2i + 1 (ggml's `GGML_ROPE_TYPE_NORMAL`)."""
    by_half = values.reshape(heads, 2, values.shape[0] // heads // 2, -1)
    return np.ascontiguousarray(by_half.swapaxes(1, 2)).reshape(values.shape)


def _add_metadata(writer: Any, architecture: Architecture, vocabulary: Vocabulary, name: str) -> None:
    from gguf import GGUFValueType, LlamaFileType

    prefix = architecture.name
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(2)
    for key, number in {**architecture.numbers, **_with_prefix("rope", architecture.rope.metadata)}.items():
        if isinstance(number, str):
            writer.add_string(f"{prefix}.{key}", number)
        elif isinstance(number, int):
            writer.add_uint32(f"{prefix}.{key}", number)
        else:
            writer.add_float32(f"{prefix}.{key}", number)
    writer.add_tokenizer_model(vocabulary.merging.model)
    writer.add_tokenizer_pre(vocabulary.merging.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    scores = vocabulary.scores()
    if scores is not None:
        writer.add_key_value("tokenizer.ggml.scores", scores, GGUFValueType.ARRAY, GGUFValueType.FLOAT32)
        writer.add_add_space_prefix(vocabulary.merging.space_prefix)
    if vocabulary.merging.merges is not None:
        # With the types spelled out, an empty list is an array of strings too.
        merges = list(vocabulary.merging.merges)
        writer.add_key_value("tokenizer.ggml.merges", merges, GGUFValueType.ARRAY, GGUFValueType.STRING)
    names = {"unk": "unknown", "pad": "padding"}
    for special, number in sorted(vocabulary.special.items()):
        writer.add_uint32(f"tokenizer.ggml.{names.get(special, special)}_token_id", number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    ends = list(vocabulary.ends)
    writer.add_key_value(END_TOKENS_KEY, ends, GGUFValueType.ARRAY, GGUFValueType.UINT32)
    if vocabulary.merging.nfc:
        writer.add_string(NORMALIZATION_KEY, "NFC")
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def _with_prefix(prefix: str, values: Any) -> dict[str, Any]:
    return {f"{prefix}.{key}": value for key, value in values.items()}
