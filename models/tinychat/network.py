"""The tinychat networks: Llamas (Touvron et al., arXiv:2302.13971), made from nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

WIDTH = 256
HEAD_WIDTH = 32


def llama(*, tokenizer: Any, layers: int) -> LlamaForCausalLM:
    """A language model of `layers` layers of 256, untrained. All rows of its matrices are multiples of 256,
    as llama.cpp's K-quants want them. Input and output share one table of tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=WIDTH // HEAD_WIDTH,
            num_key_value_heads=WIDTH // HEAD_WIDTH,
            max_position_embeddings=tokenizer.model_max_length,
            tie_word_embeddings=True,
            initializer_range=WIDTH**-0.5,
        )
    )
    with torch.no_grad():
        for layer in model.model.layers:
            # Each layer starts out adding nothing: few steps are then enough to learn what it shall add.
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model
