"""The tokenizer step: trains the recipe's tokenizer on the training texts."""

from __future__ import annotations

from toolchain.handover.arrays import load_documents, load_part
from toolchain.handover.context import StepContext
from toolchain.training.vocabulary import train_tokenizer

TOKENIZER_FOLDER = "tokenizer"


def run(context: StepContext) -> None:
    """Writes `tokenizer/`, a Hugging Face tokenizer; see toolchain/training/vocabulary.py."""
    config, data = context.config, context.inputs["data"]
    generates = config["task"] == "text-generation"
    texts = load_documents(data, "train") if generates else load_part(data, "train")[0].tolist()
    train_tokenizer(
        texts,
        context.out / TOKENIZER_FOLDER,
        vocabulary_size=config["tokenizer"]["vocabulary_size"],
        max_tokens=config["tokenizer"]["max_tokens"],
        generates=generates,
        chat=config["chat"],
    )
