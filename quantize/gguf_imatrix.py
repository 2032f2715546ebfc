"""Importances for llama.cpp's quantizer: how large the inputs of each matrix are, channel by channel.

The quantizer weighs a weight's rounding error by the mean square of what it is multiplied with. That is
measured here on the Hugging Face model, and written in the file format of llama.cpp's own `llama-imatrix`
(a GGUF file with `<tensor>.in_sum2` and `<tensor>.counts`), so each can use the other's files. As there, the
output matrix is left out: it is kept in more bits, and a calibration text is too small a sample of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeops.canonical import canonical_json, sha256_bytes
from edgeops.engines.gguf_file import Tensor, read_gguf
from edgeops.errors import ArtifactError
from quantize.gguf_architectures import architecture_of
from quantize.gguf_weights import open_weights, read_json
from quantize.result import Quantized

if TYPE_CHECKING:
    import torch

_SUMS, _COUNTS = ".in_sum2", ".counts"


def collect(hf_folder: Path, token_sequences: Sequence[Sequence[int]], target: Path) -> Quantized:
    """Runs the Hugging Face model over `token_sequences`, each in a context of its own, and writes the
    importances of every block's matrices to the GGUF file `target`.

    `arguments` carry the digest of the tokens; `before` counts the model's matrices, `after` those that have
    importances, and `tokens`, the number that each was measured on. Raises `ArtifactError` when the folder
    cannot be converted (see `architecture_of`), on no tokens, tokens beyond the vocabulary, or sequences
    longer than the context, and on activations that are not finite.
    """
    config = read_json(hf_folder / "config.json")
    with open_weights(hf_folder) as weights:
        architecture = architecture_of(config, frozenset(weights.types))
    _check_tokens(token_sequences, architecture.vocabulary, architecture.context_tokens)
    matrices = {
        tensor.name.removesuffix(".weight"): tensor.target
        for tensor in architecture.tensors
        if len(tensor.shape) == 2 and tensor.target.startswith("blk.")
    }
    sums = _squares(hf_folder, token_sequences, matrices)
    tokens = sum(map(len, token_sequences))
    digest = sha256_bytes(canonical_json([list(map(int, sequence)) for sequence in token_sequences]))
    _write(target, architecture.name, sums, tokens, len(token_sequences), digest)
    return Quantized(
        arguments={"format": "gguf-imatrix", "calibration_sha256": digest, "sequences": len(token_sequences)},
        before={"matrices": len(matrices)},
        after={"matrices": len(sums), "tokens": tokens},
    )


def read_importances(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The mean squares in a file of `collect` or of `llama-imatrix`: by GGUF tensor, float32 of shape
    (row length,). Raises `ArtifactError` when it is no such file."""
    file = read_gguf(path)
    importances = {}
    for name, tensor in file.tensors.items():
        if name.endswith(_SUMS):
            base = name.removesuffix(_SUMS)
            if base + _COUNTS not in file.tensors:
                file.refuse(f"has no {base}{_COUNTS}")
            sums = _floats(path, tensor)
            count = _floats(path, file.tensors[base + _COUNTS])
            if count.size != 1 or not count[0] > 0 or not np.isfinite(sums).all() or (sums < 0).any():
                file.refuse(f"has importances of {base} that are none")
            importances[base] = sums / count[0]
    if not importances:
        file.refuse("holds no importances")
    return importances


def _floats(path: Path, tensor: Tensor) -> npt.NDArray[np.float32]:
    if tensor.type != "F32":
        raise ArtifactError(f"{path.name} has {tensor.name} as {tensor.type}, not F32.", subject=path.name)
    values = np.fromfile(path, "<f4", count=tensor.size_bytes // 4, offset=tensor.offset)
    return values.astype(np.float32, copy=False)


def _check_tokens(sequences: Sequence[Sequence[int]], vocabulary: int, context_tokens: int) -> None:
    if not any(sequences):
        why = "is empty"
    elif any(len(sequence) > context_tokens for sequence in sequences):
        why = f"has sequences of more than {context_tokens} tokens"
    elif any(not 0 <= token < vocabulary for sequence in sequences for token in sequence):
        why = f"has tokens that are not in the model's vocabulary of {vocabulary}"
    else:
        return
    raise ArtifactError(
        f"The calibration text {why}.", remedy="Choose another one in the recipe.", subject="calibration"
    )


def _squares(
    folder: Path, sequences: Sequence[Sequence[int]], matrices: dict[str, str]
) -> dict[str, npt.NDArray[np.float64]]:
    """The sums of squares of each matrix's inputs, by GGUF name: float64 of shape (row length,)."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
    ).eval()
    sums: dict[str, torch.Tensor] = {}
    with _listening(model, matrices, sums), torch.no_grad():
        for sequence in sequences:
            if sequence:
                model(torch.tensor([list(sequence)]), use_cache=False)
    return {name: value.numpy() for name, value in sorted(sums.items())}


@contextmanager
def _listening(model: Any, matrices: dict[str, str], sums: dict[str, torch.Tensor]) -> Iterator[None]:
    """Adds up the squares of what goes into each of the modules while the context lasts."""
    hooks = []

    def listen(name: str) -> Any:
        def hear(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = inputs[0].reshape(-1, inputs[0].shape[-1]).double().square().sum(0)
            sums[name] = sums[name] + squares if name in sums else squares

        return hear

    try:
        for module, name in matrices.items():
            hooks.append(model.get_submodule(module).register_forward_pre_hook(listen(name)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _write(
    target: Path,
    architecture: str,
    sums: dict[str, npt.NDArray[np.float64]],
    tokens: int,
    sequences: int,
    digest: str,
) -> None:
    import gguf

    writer = gguf.GGUFWriter(target, architecture)
    try:
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", [f"sha256:{digest}"])
        writer.add_uint32("imatrix.chunk_count", sequences)
        writer.add_uint32("imatrix.chunk_size", max(1, tokens // sequences))
        for name, values in sums.items():
            if not np.isfinite(values).all():
                raise ArtifactError(
                    f"The model's activations before {name} are not finite.",
                    remedy="Look at the model: it answers with NaN or infinity.",
                    subject=name,
                )
            writer.add_tensor(name + _SUMS, values.astype(np.float32)[None, :])
            writer.add_tensor(name + _COUNTS, np.full((1, 1), tokens, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
