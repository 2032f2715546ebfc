"""GGUF in fewer bits, by llama.cpp's own quantizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeops.canonical import sha256_file
from edgeops.engines.gguf_file import GgufFile
from edgeops.engines.gguf_model import check_gguf
from edgeops.errors import ArtifactError, ConfigError
from quantize.gguf_child import MAX_MEMORY_BYTES, run_llama
from quantize.result import Quantized

# By precision: its number in llama.cpp (enum llama_ftype in llama.h), and the tensor types that it is a
# mixture of (src/llama-quant.cpp, `llama_tensor_get_type`).
PRECISIONS: dict[str, tuple[int, frozenset[str]]] = {
    "f16": (1, frozenset({"F16"})),
    "q4_0": (2, frozenset({"Q4_0", "Q4_1", "Q6_K"})),
    "q8_0": (7, frozenset({"Q8_0"})),
    "q4_k_m": (15, frozenset({"Q4_K", "Q5_K", "Q6_K"})),
    "q5_k_m": (17, frozenset({"Q5_K", "Q6_K"})),
    "q6_k": (18, frozenset({"Q6_K", "Q8_0"})),
    "iq4_xs": (30, frozenset({"IQ4_XS", "Q5_K", "Q6_K"})),
}
_SOURCES = {"F32", "F16", "BF16"}


def quantize(
    source: Path,
    target: Path,
    precision: str,
    *,
    imatrix: Path | None = None,
    threads: int = 1,
    memory_bytes: int = MAX_MEMORY_BYTES,
) -> Quantized:
    """Writes `target`: the GGUF file `source`, whose weights are F32, F16 or BF16, in one of `PRECISIONS`.
    `imatrix` is a file of importances (see quantize/gguf_imatrix.py). The bytes do not depend on `threads`.
    Counts are of tensors by type. llama.cpp works in a child process, with `memory_bytes` of memory.

    Rows that the precision's blocks do not divide (256 for the K and IQ types) get another type of about
    the same size; `arguments["fallbacks"]` says how many tensors did. Raises `ArtifactError` (counts in
    `details`) when no matrix changed its type, when one that should did not, or when most fell back;
    `ConfigError` on an unknown precision, or when llama.cpp is not installed.
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"There is no GGUF precision {precision!r}.",
            remedy=f"Choose one of {', '.join(PRECISIONS)}.",
            subject=precision,
        )
    before = check_gguf(source)
    odd = sorted(set(before.tensor_counts()) - _SOURCES)
    if odd:
        before.refuse(f"holds tensors of type {odd[0]}, and only F32, F16 and BF16 can be quantized")
    number, types = PRECISIONS[precision]
    request: dict[str, Any] = {
        "do": "quantize",
        "source": str(source.resolve()),
        "target": str(target.with_name(f".{target.name}.partial").absolute()),
        "file_type": number,
        "threads": threads,
        "imatrix": None if imatrix is None else str(imatrix.resolve()),
    }
    partial = Path(request["target"])
    try:
        run_llama(request, subject=source.name, memory_bytes=memory_bytes)
        after = check_gguf(partial)
        fallbacks = _fallbacks(source.name, precision, types, before, after)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return Quantized(
        arguments={
            "format": "gguf",
            "precision": precision,
            "llama_ftype": number,
            "imatrix_sha256": None if imatrix is None else sha256_file(imatrix),
            "fallbacks": fallbacks,
        },
        before=before.tensor_counts(),
        after=after.tensor_counts(),
    )


def _fallbacks(name: str, precision: str, types: frozenset[str], before: GgufFile, after: GgufFile) -> int:
    """How many matrices became something else than one of the precision's `types`; refuses what is no
    quantized model of that precision."""
    matrices = [tensor for tensor in before.tensors.values() if len(tensor.shape) > 1]
    counts = {"before": before.tensor_counts(), "after": after.tensor_counts()}
    if set(before.tensors) != set(after.tensors):
        raise _failed(name, precision, "tensors came or went", counts)
    now = {tensor.name: after.tensors[tensor.name].type for tensor in matrices}
    same = [each.name for each in matrices if now[each.name] == each.type and each.type not in types]
    if same or all(now[tensor.name] == tensor.type for tensor in matrices):
        what = f"{len(same)} of {len(matrices)} matrices kept their type" if same else "nothing changed"
        raise _failed(name, precision, what, counts)
    fallbacks = sum(1 for kind in now.values() if kind not in types)
    if 2 * fallbacks > len(matrices):
        raise _failed(
            name,
            precision,
            f"{fallbacks} of {len(matrices)} matrices have rows that its blocks do not divide",
            counts,
        )
    return fallbacks


def _failed(name: str, precision: str, why: str, counts: dict[str, dict[str, int]]) -> ArtifactError:
    return ArtifactError(
        f"Quantizing {name} to {precision} did not work: {why}.",
        remedy="Choose another precision, such as q8_0.",
        subject=name,
        details=counts,
    )
