"""mlx-lm's networks, built from a configuration and weights that were looked at first.

mlx-lm reads from a configuration what it knows and passes over the rest in silence (a sliding window, a kind
of rope scaling, another activation function), so that a model loads and answers wrongly. Here what a network
does not implement is refused.
"""

from __future__ import annotations

import importlib
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeops.engines.language_files import CONFIG_FILE
from edgeops.engines.refusals import one_line
from edgeops.engines.safetensors_file import TensorHead
from edgeops.errors import ArtifactError, ConfigError

BITS = (4, 8)
GROUP_SIZES = (32, 64, 128)
MAX_LAYERS = 512


@dataclass(frozen=True)
class _Network:
    """A module of mlx_lm.models, and what it implements."""

    module: str
    activations: frozenset[str]
    rope_scaling: frozenset[str] = frozenset({"default", "linear", "llama3"})
    free_head_size: bool = True


_SILU = frozenset({"silu"})
ARCHITECTURES: Mapping[str, _Network] = {
    "llama": _Network("llama", _SILU),
    "mistral": _Network("llama", _SILU),
    "qwen2": _Network("qwen2", _SILU, free_head_size=False),
    "qwen3": _Network("qwen3", _SILU),
    "gemma": _Network("gemma", frozenset({"gelu_pytorch_tanh"}), rope_scaling=frozenset({"default"})),
}


def import_mlx() -> tuple[Any, Any]:
    """`mlx.core` and `mlx.nn`, with mlx_lm importable.

    Raises `ConfigError` when they are missing, or this process may not have 4,096 open files: importing
    mlx_lm sets its limits to 2,048 and 4,096, whatever they were. The first is set back here; the second
    stays where only a privileged process may raise it.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        mx = importlib.import_module("mlx.core")
        nn = importlib.import_module("mlx.nn")
        importlib.import_module("mlx_lm.utils")
    except ValueError as error:
        raise ConfigError(
            f"mlx-lm cannot set the limit of open files to 4096, and this process has {limits[1]} ({error}).",
            remedy="Raise the limit (ulimit -Hn, LimitNOFILE=).",
            subject="mlx",
        ) from error
    except ImportError as error:
        raise ConfigError(
            f"MLX cannot be imported ({error}).",
            remedy="Install it: pip install 'edgeops[mlx]'.",
            subject="mlx",
        ) from error
    _restore_open_files(limits)
    return mx, nn


def check_config(config: Mapping[str, Any]) -> None:
    """Raises `ArtifactError` (subject: config.json) unless mlx-lm's network of that `model_type` implements
    all that the configuration asks for."""
    kind = config.get("model_type")
    network = ARCHITECTURES.get(kind) if isinstance(kind, str) else None
    if network is None:
        raise _refused(f"has the model type {kind!r}, and {', '.join(ARCHITECTURES)} are known")
    layers, heads, hidden = (
        config.get(name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size")
    )
    if not all(type(size) is int and 0 < size < 1 << 20 for size in (layers, heads, hidden)):
        raise _refused("lacks num_hidden_layers, num_attention_heads or hidden_size")
    assert isinstance(layers, int) and isinstance(heads, int) and isinstance(hidden, int)
    if layers > MAX_LAYERS:
        raise _refused(f"has {layers} layers, and {MAX_LAYERS} is the most")
    activation = config.get("hidden_activation") or config.get("hidden_act")
    if activation is not None and activation not in network.activations:
        raise _refused(f"asks for the activation {activation!r}, which {kind} does not have in MLX")
    scaling = config.get("rope_scaling")
    rope = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else "default"
    if rope not in network.rope_scaling:
        raise _refused(f"asks for rope scaling {rope!r}, which {kind} does not have in MLX")
    if "rope_parameters" in config or config.get("partial_rotary_factor", 1) != 1:
        raise _refused("describes its rope in a way that mlx-lm 0.29 does not read")
    head_size = config.get("head_dim")
    if not network.free_head_size and head_size not in (None, hidden // heads):
        raise _refused(f"has heads of {head_size}, which {kind} does not have in MLX")
    _check_window(config)
    _check_quantization(config.get("quantization"))


def build(config: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
    """The network of a checked configuration with `weights` (`mlx.core` arrays by name) in it, quantized as
    the configuration says; parameters stay lazy.

    Raises `ArtifactError` when weights are missing, left over or of another shape.
    """
    _, nn = import_mlx()
    module = importlib.import_module(f"mlx_lm.models.{ARCHITECTURES[config['model_type']].module}")
    try:
        model = module.Model(module.ModelArgs.from_dict(dict(config)))
        weights = model.sanitize(dict(weights)) if hasattr(model, "sanitize") else dict(weights)
        quantization = config.get("quantization")
        if quantization is not None:
            nn.quantize(
                model,
                group_size=quantization["group_size"],
                bits=quantization["bits"],
                class_predicate=lambda path, layer: (
                    hasattr(layer, "to_quantized") and f"{path}.scales" in weights
                ),
            )
        model.load_weights(list(weights.items()), strict=True)
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RuntimeError) as error:
        raise ArtifactError(
            f"The weights do not fit {CONFIG_FILE} ({one_line(error)}).",
            remedy="Get the model again, or build the bundle again.",
            subject=CONFIG_FILE,
        ) from error
    model.eval()
    return model


def check_heads(config: Mapping[str, Any], heads: Mapping[str, TensorHead]) -> None:
    """Raises `ArtifactError` when a file's tensors cannot be those of a checked configuration: so few that
    the network would be mostly made up."""
    if config["num_hidden_layers"] > len(heads):
        raise _refused(f"has {config['num_hidden_layers']} layers, and the weights are {len(heads)} tensors")


def _check_window(config: Mapping[str, Any]) -> None:
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    used = config.get("use_sliding_window", config.get("model_type") == "mistral")
    if used and isinstance(window, int) and isinstance(context, int) and window < context:
        raise _refused(
            f"has a sliding window of {window} tokens in a context of {context}, which MLX does not have here"
        )
    types = config.get("layer_types")
    if isinstance(types, list) and set(types) - {"full_attention"}:
        raise _refused(f"has layers of the types {sorted(set(map(str, types)))}")


def _check_quantization(quantization: Any) -> None:
    if quantization is None:
        return
    known = isinstance(quantization, dict) and set(quantization) <= {"group_size", "bits", "mode"}
    if not (
        known
        and quantization.get("bits") in BITS
        and quantization.get("group_size") in GROUP_SIZES
        and quantization.get("mode", "affine") == "affine"
    ):
        raise _refused(f"has the quantization {str(quantization)[:200]}, which is not one of edgeops")


def _restore_open_files(limits: tuple[int, int]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    except ValueError:  # only root may raise the hard limit again
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], hard), hard))


def _refused(why: str) -> ArtifactError:
    return ArtifactError(
        f"{CONFIG_FILE} {why}.",
        remedy="Leave the MLX variants out of the recipe, or choose another variant.",
        subject=CONFIG_FILE,
    )
