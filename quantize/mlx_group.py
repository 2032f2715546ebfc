"""MLX: a Hugging Face folder as a folder that mlx-lm and `MlxEngine` load, with weights in groups of 4 or 8
bits, or as they are.

Affine quantization (https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html):
each group of `group_size` weights along the input axis has one scale and one bias. Linear layers and the
embedding table are quantized, norms are not. What mlx-lm would pass over in silence, a layer whose rows are
no multiple of the group size, is an error here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeops.durable import write_atomic
from edgeops.engines.language_files import CONFIG_FILE, GENERATION_FILE, MAX_CONFIG_BYTES, read_object
from edgeops.engines.mlx_model import build, check_config, check_heads, import_mlx
from edgeops.engines.safetensors_file import TensorHead, safetensors_heads
from edgeops.engines.tokenizer import MAX_TOKENIZER_BYTES, TOKENIZER_FILE
from edgeops.errors import ArtifactError, ConfigError
from quantize.chat_template import TEMPLATE_FILE
from quantize.result import Quantized

MODEL_FILE = "model.safetensors"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
BITS = (4, 8)
GROUP_SIZES = (32, 64)
DTYPES = ("float16", "bfloat16", "float32")
_FILE_MODE = 0o644
_MAX_FLOAT16 = 65504.0
# Who made a file, and where; and what says how to run code that came with it.
_CONFIG_NOISE = ("_name_or_path", "transformers_version", "dtype", "auto_map", "quantization_config")
_TOKENIZER_NOISE = ("name_or_path", "auto_map", "tokenizer_file", "processor_class", "local_files_only")
# Configuration that mlx-lm fills with defaults of its own, which are not always those of transformers.
_DEFAULTED = (
    "tie_word_embeddings", "head_dim", "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling",
    "max_position_embeddings", "attention_bias", "mlp_bias",
)  # fmt: skip


def convert(
    source: Path,
    target: Path,
    *,
    bits: int | None,
    group_size: int = 64,
    dtype: str = "float16",
) -> Quantized:
    """Writes the folder `target` from `source`, a Hugging Face folder with safetensors and tokenizer.json:
    `model.safetensors`, `config.json`, `tokenizer.json`, `tokenizer_config.json`, and what else of the
    tokenizer and of generation the source has. `bits` None means no quantization.

    What is not quantized (and the scales of what is) has `dtype`. float16 is exact enough for weights trained
    in float32 and the fastest type on every Apple chip; models trained in bfloat16 with values beyond 65,504
    need bfloat16, which the first two generations emulate. Bytes depend on the source's content, the
    arguments and the versions of mlx and mlx-lm alone. Counts are of tensors by type.

    Raises `ConfigError` on unknown arguments or when MLX is missing, `ArtifactError` when `source` is no such
    folder, has an architecture or option that mlx-lm does not implement, has weights that `dtype` cannot
    hold, or has a layer that cannot be quantized (`details`: counts before and after).
    """
    if bits not in (None, *BITS) or group_size not in GROUP_SIZES or dtype not in DTYPES:
        raise ConfigError(
            f"MLX with {bits} bits in groups of {group_size} and {dtype} is not supported.",
            remedy=f"Choose bits from {BITS} or none, a group size from {GROUP_SIZES}, and one of {DTYPES}.",
            subject="mlx",
        )
    mx, nn = import_mlx()
    config = _config(source)
    check_config(config)
    tokenizer = _tokenizer_files(source)
    heads, files = _weight_files(source)
    check_heads(config, heads)
    before = Counter(head.dtype for head in heads.values())
    # Always the CPU, so that the machine with the GPU gives the same bytes.
    with mx.stream(mx.cpu):
        weights = {name: value for path in files for name, value in mx.load(str(path)).items()}
        model = build(config, weights)
        _check_range(mx, model, dtype)
        model.set_dtype(getattr(mx, dtype))
        layers = 0 if bits is None else _quantize(nn, model, bits, group_size)
        target.mkdir(parents=True, exist_ok=True)
        _save(mx, model, target / MODEL_FILE)
    written = safetensors_heads(target / MODEL_FILE)
    after = Counter(head.dtype for head in written.values())
    made = sum(1 for name in written if name.endswith(".scales"))
    if made != layers or (bits is not None and made == 0):
        raise ArtifactError(
            f"Quantizing {source.name} did not work: {made} of {layers} layers were quantized.",
            remedy="Leave this variant out of the recipe.",
            subject=source.name,
            details={"before": dict(before), "after": dict(after)},
        )
    if bits is not None:
        config["quantization"] = {"bits": bits, "group_size": group_size, "mode": "affine"}
    config["torch_dtype"] = dtype
    write_atomic(target / CONFIG_FILE, _json(config))
    for name, data in tokenizer.items():
        write_atomic(target / name, data)
    arguments = {
        "scheme": "mlx-group" if bits is not None else "mlx",
        "bits": bits,
        "group_size": group_size if bits is not None else None,
        "mode": "affine" if bits is not None else None,
        "dtype": dtype,
        "quantized_layers": made,
    }
    return Quantized(arguments, dict(sorted(before.items())), dict(sorted(after.items())))


def _quantize(nn: Any, model: Any, bits: int, group_size: int) -> int:
    """Quantizes every layer that can be, and returns how many there are."""
    layers = [(path, layer) for path, layer in model.named_modules() if hasattr(layer, "to_quantized")]
    uneven = sorted(path for path, layer in layers if layer.weight.shape[-1] % group_size)
    if uneven:
        raise ArtifactError(
            f"The rows of {uneven[0]} (and {len(uneven) - 1} more layers) are no multiple of {group_size}.",
            remedy="Choose a smaller group size, or leave this variant out of the recipe.",
            subject=uneven[0],
            details={"layers": uneven},
        )
    nn.quantize(model, group_size=group_size, bits=bits)
    return len(layers)


def _check_range(mx: Any, model: Any, dtype: str) -> None:
    from mlx.utils import tree_flatten

    limit = _MAX_FLOAT16 if dtype == "float16" else float("inf")
    for name, value in tree_flatten(model.parameters()):
        largest = float(mx.max(mx.abs(value.astype(mx.float32))))
        if not largest <= limit or largest == float("inf"):
            raise ArtifactError(
                f"The weight {name} has the value {largest}, which {dtype} cannot hold.",
                remedy="Choose bfloat16 or float32." if dtype == "float16" else "Train the model again.",
                subject=name,
            )


def _save(mx: Any, model: Any, path: Path) -> None:
    from mlx.utils import tree_flatten

    weights = dict(sorted(tree_flatten(model.parameters())))
    mx.eval(list(weights.values()))
    mx.save_safetensors(str(path), weights, metadata={"format": "mlx"})
    path.chmod(_FILE_MODE)


def _config(source: Path) -> dict[str, Any]:
    from transformers import CONFIG_MAPPING

    raw = read_object(source / CONFIG_FILE)
    kind = raw.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        # What the file leaves to its class is written out, so that no other default applies.
        full = CONFIG_MAPPING[kind].from_dict(raw).to_dict()
        raw |= {name: full[name] for name in _DEFAULTED if name not in raw and full.get(name) is not None}
    return {name: value for name, value in raw.items() if name not in _CONFIG_NOISE}


def _tokenizer_files(source: Path) -> dict[str, bytes]:
    path = source / TOKENIZER_FILE
    if not path.is_file() or path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise _refused(TOKENIZER_FILE, f"is missing from {source.name}, or too large")
    settings = (
        read_object(source / TOKENIZER_CONFIG_FILE) if (source / TOKENIZER_CONFIG_FILE).is_file() else {}
    )
    settings = {name: value for name, value in settings.items() if name not in _TOKENIZER_NOISE}
    # tokenizer.json says all; other classes change what it says, and some are of other versions.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    files = {TOKENIZER_FILE: path.read_bytes(), TOKENIZER_CONFIG_FILE: _json(settings)}
    for name in (SPECIAL_TOKENS_FILE, GENERATION_FILE):
        if (source / name).is_file():
            content = read_object(source / name)
            content.pop("transformers_version", None)
            files[name] = _json(content)
    template = source / TEMPLATE_FILE
    if template.is_file():
        if template.stat().st_size > MAX_CONFIG_BYTES:
            raise _refused(TEMPLATE_FILE, "is too large")
        files[TEMPLATE_FILE] = template.read_bytes()
    return files


def _weight_files(source: Path) -> tuple[dict[str, TensorHead], list[Path]]:
    """The tensors of all `model*.safetensors`, and these files. Pickles are not looked at."""
    files = sorted(source.glob("model*.safetensors"))
    if not files:
        raise ArtifactError(
            f"{source.name} has no model.safetensors.",
            remedy="Save the model with safe_serialization=True; pickles are not read.",
            subject=source.name,
        )
    heads: dict[str, TensorHead] = {}
    for path in files:
        found = safetensors_heads(path)
        if heads.keys() & found.keys():
            raise _refused(path.name, "has tensors that another file has too")
        heads |= found
    return heads, files


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _refused(subject: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"{subject} {why}.", remedy="Save the model and its tokenizer again.", subject=subject
    )
