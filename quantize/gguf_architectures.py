"""What a Hugging Face `config.json` means in GGUF: metadata, and where each tensor goes.

Llama, Mistral, Qwen2, Qwen3 and the first Gemma, as transformers computes them and as llama.cpp does. A
setting that one of the two sides would compute otherwise is refused, never guessed; so is a tensor too many
or one too few. Metadata keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from edgeops.errors import ArtifactError
from quantize.gguf_rope import Rope, positive, rope_of

# The transformers class that a folder asks for, and its name in GGUF. Mistral is a Llama there.
_GGUF_NAMES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GemmaForCausalLM": "gemma",
}
# What each class computes when `config.json` does not say, where all of its versions agree.
_TIED_BY_DEFAULT = {"GemmaForCausalLM"}
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu"}


@dataclass(frozen=True)
class Source:
    """One tensor to be: its name and shape in the Hugging Face folder, its name in GGUF, and what happens
    to it on the way. `rotary_heads`, if not 0, is the number of heads whose rows change from halves to
    pairs; `plus_one` adds 1 (Gemma's norms multiply by 1 + weight). Matrices become F16, vectors F32."""

    name: str
    shape: tuple[int, ...]
    target: str
    rotary_heads: int = 0
    plus_one: bool = False


@dataclass(frozen=True)
class Architecture:
    """A model as GGUF has it: `name` and metadata (`numbers`: whole numbers and floats by key, without the
    architecture's prefix), and the tensors to read. `ignored` are names that may be in the folder and
    carry nothing. `context_tokens` is the longest context that both sides compute alike."""

    name: str
    numbers: Mapping[str, int | float]
    rope: Rope
    tensors: tuple[Source, ...]
    ignored: frozenset[str]
    vocabulary: int
    context_tokens: int


def architecture_of(config: Mapping[str, Any], tensor_names: frozenset[str]) -> Architecture:
    """The architecture that `config.json` describes. `tensor_names` are those in the folder.

    Raises `ArtifactError` (subject `config.json`) on anything that is not known to be computed alike.
    """
    hf_class = _hf_class(config)
    if config.get("quantization_config") is not None:
        refuse("describes weights that are quantized already", "Convert the folder they were made from.")
    hidden = _whole(config, "hidden_size")
    layers = _whole(config, "num_hidden_layers")
    heads = _whole(config, "num_attention_heads")
    kv_heads = _kv_heads(config, hf_class, heads)
    head_size = _head_size(config, hf_class, hidden, heads)
    _check_activation(config, hf_class)
    attention_bias = hf_class == "Qwen2ForCausalLM" or _bias(config, "attention_bias", hf_class)
    mlp_bias = _bias(config, "mlp_bias", hf_class)
    vocabulary = _whole(config, "vocab_size")
    name = _GGUF_NAMES[hf_class]
    context = _context(config, hf_class)
    rope = rope_of(config, head_size, frequencies=name == "llama", refuse=refuse)
    sizes = _Sizes(
        hidden, layers, heads, kv_heads, head_size, _whole(config, "intermediate_size"), vocabulary
    )
    tied = _tied(config, hf_class, tensor_names)
    return Architecture(
        name=name,
        numbers={
            "context_length": context,
            "embedding_length": hidden,
            "block_count": layers,
            "feed_forward_length": sizes.feed_forward,
            "attention.head_count": heads,
            "attention.head_count_kv": kv_heads,
            "attention.key_length": head_size,
            "attention.value_length": head_size,
            "attention.layer_norm_rms_epsilon": positive(config, "rms_norm_eps", refuse),
            "rope.dimension_count": head_size,
            "vocab_size": vocabulary,
        },
        rope=rope,
        tensors=_tensors(hf_class, name, sizes, attention_bias, mlp_bias, tied),
        ignored=frozenset(
            {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in range(layers)}
            | ({"lm_head.weight"} if tied else set())
        ),
        vocabulary=vocabulary,
        context_tokens=context,
    )


def refuse(what: str, remedy: str = "Choose another model, or export it to ONNX.") -> NoReturn:
    """Raises `ArtifactError` about `config.json`."""
    raise ArtifactError(f"config.json {what}.", remedy=remedy, subject="config.json")


@dataclass(frozen=True)
class _Sizes:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int


def _hf_class(config: Mapping[str, Any]) -> str:
    classes = config.get("architectures")
    if not isinstance(classes, list) or len(classes) != 1 or classes[0] not in _GGUF_NAMES:
        known = ", ".join(_GGUF_NAMES)
        refuse(f"has the architectures {classes!r}, and GGUF is made of one of {known}")
    hf_class: str = classes[0]
    model_type = hf_class.removesuffix("ForCausalLM").lower()
    if config.get("model_type") != model_type:
        refuse(f"has the model_type {config.get('model_type')!r} beside {hf_class}")
    if config.get("auto_map"):
        refuse("asks for code of its own (auto_map)")
    return hf_class


def _whole(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        refuse(f"has {key} = {value!r}, which is not a whole number above 0")
    return value


def _kv_heads(config: Mapping[str, Any], hf_class: str, heads: int) -> int:
    if config.get("num_key_value_heads") is None and hf_class == "LlamaForCausalLM":
        return heads  # files from before there were groups
    kv_heads = _whole(config, "num_key_value_heads")
    if heads % kv_heads:
        refuse(f"has {heads} heads, which {kv_heads} key-value heads do not divide")
    return kv_heads


def _head_size(config: Mapping[str, Any], hf_class: str, hidden: int, heads: int) -> int:
    if config.get("head_dim") is None:
        if hf_class in ("Qwen3ForCausalLM", "GemmaForCausalLM"):
            refuse("has no head_dim")
        if hidden % heads:
            refuse(f"has a hidden_size of {hidden}, which {heads} heads do not divide")
        size = hidden // heads
    else:
        size = _whole(config, "head_dim")
    if size % 2:
        refuse(f"has an odd head_dim, {size}")
    if hf_class == "Qwen2ForCausalLM" and size * heads != hidden:
        refuse(f"has {heads} heads of {size}, which llama.cpp cannot load with hidden_size {hidden}")
    return size


def _check_activation(config: Mapping[str, Any], hf_class: str) -> None:
    given = config.get("hidden_act", "gelu_pytorch_tanh" if hf_class == "GemmaForCausalLM" else "silu")
    wanted = "gelu" if hf_class == "GemmaForCausalLM" else "silu"
    if _ACTIVATIONS.get(given) != wanted:
        refuse(f"has the activation {given!r}, and llama.cpp computes {wanted} for {hf_class}")
    other = config.get("hidden_activation")  # Gemma's second name for it
    if other is not None and _ACTIVATIONS.get(other) != wanted:
        refuse(f"has the activation {other!r}, and llama.cpp computes {wanted} for {hf_class}")


def _bias(config: Mapping[str, Any], key: str, hf_class: str) -> bool:
    given = config.get(key)
    if given not in (None, False, True):
        refuse(f"has {key} = {given!r}")
    if given and hf_class != "LlamaForCausalLM":
        refuse(f"has {key}, which llama.cpp does not compute for {hf_class}")
    return bool(given)


def _context(config: Mapping[str, Any], hf_class: str) -> int:
    """The longest context. llama.cpp attends to all of it in these architectures, so one with a sliding
    window is cut to that window, within which both compute the same."""
    context = _whole(config, "max_position_embeddings")
    if hf_class == "MistralForCausalLM":
        slides = True
    elif hf_class.startswith("Qwen"):
        kinds = config.get("layer_types")
        if kinds is not None and not set(kinds) <= {"full_attention", "sliding_attention"}:
            refuse(f"has layers of the kinds {sorted(set(kinds))}")
        slides = bool(config.get("use_sliding_window"))
    else:
        slides = False
    if slides and config.get("sliding_window") is not None:
        return min(context, _whole(config, "sliding_window"))
    if hf_class == "MistralForCausalLM" and "sliding_window" not in config:
        refuse("does not say whether there is a sliding_window")
    return context


def _tied(config: Mapping[str, Any], hf_class: str, tensor_names: frozenset[str]) -> bool:
    tied = config.get("tie_word_embeddings", hf_class in _TIED_BY_DEFAULT)
    if not isinstance(tied, bool):
        refuse(f"has tie_word_embeddings = {tied!r}")
    if not tied and "lm_head.weight" not in tensor_names:
        refuse("does not tie the embeddings, and there is no lm_head.weight")
    if not tied and hf_class == "GemmaForCausalLM":
        refuse("does not tie the embeddings, and llama.cpp always does for GemmaForCausalLM")
    return tied


def _tensors(
    hf_class: str, name: str, sizes: _Sizes, attention_bias: bool, mlp_bias: bool, tied: bool
) -> tuple[Source, ...]:
    """The tensors in the order in which they are written: embeddings, blocks, end."""
    plus_one = hf_class == "GemmaForCausalLM"
    rotary = name == "llama"
    hidden, forward = sizes.hidden, sizes.feed_forward
    queries, keys = sizes.heads * sizes.head_size, sizes.kv_heads * sizes.head_size
    # Hugging Face's name in a block, GGUF's, rows, columns, heads to rotate, and whether it has a bias.
    matrices = (
        ("self_attn.q_proj", "attn_q", queries, hidden, sizes.heads, attention_bias),
        ("self_attn.k_proj", "attn_k", keys, hidden, sizes.kv_heads, attention_bias),
        ("self_attn.v_proj", "attn_v", keys, hidden, 0, attention_bias),
        (
            "self_attn.o_proj",
            "attn_output",
            hidden,
            queries,
            0,
            attention_bias and hf_class == "LlamaForCausalLM",
        ),
        ("mlp.gate_proj", "ffn_gate", forward, hidden, 0, mlp_bias),
        ("mlp.up_proj", "ffn_up", forward, hidden, 0, mlp_bias),
        ("mlp.down_proj", "ffn_down", hidden, forward, 0, mlp_bias),
    )
    norms = [
        ("input_layernorm", "attn_norm", hidden),
        ("post_attention_layernorm", "ffn_norm", hidden),
    ]
    if hf_class == "Qwen3ForCausalLM":
        norms += [
            ("self_attn.q_norm", "attn_q_norm", sizes.head_size),
            ("self_attn.k_norm", "attn_k_norm", sizes.head_size),
        ]
    embedding = (sizes.vocabulary, hidden)
    tensors = [Source("model.embed_tokens.weight", embedding, "token_embd.weight")]
    for layer in range(sizes.layers):
        theirs, ours = f"model.layers.{layer}", f"blk.{layer}"
        for source, target, rows, columns, heads, bias in matrices:
            rotated = heads if rotary else 0
            shape = (rows, columns)
            tensors.append(
                Source(f"{theirs}.{source}.weight", shape, f"{ours}.{target}.weight", rotary_heads=rotated)
            )
            if bias:
                tensors.append(
                    Source(f"{theirs}.{source}.bias", (rows,), f"{ours}.{target}.bias", rotary_heads=rotated)
                )
        tensors += [
            Source(f"{theirs}.{source}.weight", (size,), f"{ours}.{target}.weight", plus_one=plus_one)
            for source, target, size in norms
        ]
    tensors.append(Source("model.norm.weight", (hidden,), "output_norm.weight", plus_one=plus_one))
    if not tied:
        tensors.append(Source("lm_head.weight", embedding, "output.weight"))
    return tuple(tensors)
