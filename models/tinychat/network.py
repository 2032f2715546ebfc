"""The tinychat networks: Llamas (Touvron et al., arXiv:2302.13971), made from nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

WIDTH = 256
HEAD_WIDTH = 32
# Tokens start out larger than what the first layers add to them, so that few steps do.
EMBEDDING_SCALE = 4.0


def llama(*, tokenizer: Any, layers: int) -> LlamaForCausalLM:
    """A language model of `layers` layers of 256, untrained. All rows of its matrices are multiples of 256,
    as llama.cpp's K-quants want them. Input and output share one table of tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=WIDTH // HEAD_WIDTH,
            num_key_value_heads=WIDTH // HEAD_WIDTH,
            max_position_embeddings=tokenizer.model_max_length,
            tie_word_embeddings=True,
        )
    )
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(EMBEDDING_SCALE)
        for layer in model.model.layers:
            # What goes into the residual stream starts small (Radford et al., 2019, section 2.3).
            for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj):
                matrix.weight.mul_((2 * layers) ** -0.5)
    return model
