"""The intents networks: small BERTs (Devlin et al., arXiv:1810.04805), made from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification


def bert(
    *, tokenizer: Any, classes: Sequence[str], layers: int, width: int, heads: int, dropout: float = 0.1
) -> BertForSequenceClassification:
    """A classifier of `layers` layers of `width`, with feed-forward layers twice as wide, untrained."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=2 * width,
            max_position_embeddings=tokenizer.model_max_length,
            # Two, though one is used: exporters try both.
            type_vocab_size=2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            num_labels=len(classes),
        )
    )
