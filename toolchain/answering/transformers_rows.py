"""What a Hugging Face model answers to rows of text or images."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.handover.arrays import Array
from toolchain.importing.huggingface import CONFIG_FILE, read_json
from toolchain.importing.image_processor import load_processor
from toolchain.importing.transformer import load_model, load_tokenizer, max_tokens, pooling
from toolchain.training.modules import make_deterministic

# Enough that the work is in the products and not in the calls; memory grows with it.
BATCH = 32


def answer_texts(folder: Path, texts: Sequence[str], task: str) -> Array:
    """float32: probabilities of shape (rows, classes); vectors of length 1 for feature extraction; for token
    classification (rows, words, classes), each word's first token, zeros for words that were cut off, NaN
    past a text's end. Only texts of as many tokens go through the model together, so that nothing is padded
    and no answer depends on its neighbours."""
    import torch

    make_deterministic()
    model, tokenizer = load_model(folder, task), load_tokenizer(folder)
    accepted = frozenset(inspect.signature(model.forward).parameters)
    most = max_tokens(folder, read_json(folder, CONFIG_FILE))
    encodings = tokenizer(list(texts), truncation=True, max_length=most, return_offsets_mapping=True)
    offsets = encodings.pop("offset_mapping")
    columns = {name: values for name, values in encodings.items() if name in accepted}
    how = pooling(folder) if task == "feature-extraction" else ""
    rows: list[Array] = [np.empty(0)] * len(texts)
    with torch.no_grad():
        for part in _of_one_length(encodings["input_ids"]):
            output = model(
                **{name: torch.tensor([values[row] for row in part]) for name, values in columns.items()}
            )
            for position, row in enumerate(part):
                if task == "feature-extraction":
                    rows[row] = _vector(output.last_hidden_state[position], how)
                    continue
                answer = torch.softmax(output.logits[position], dim=-1).numpy()
                words = task == "token-classification"
                rows[row] = _by_words(answer, texts[row], offsets[row]) if words else answer
    return _stacked(rows) if task == "token-classification" else np.stack(rows).astype(np.float32)


def _of_one_length(encoded: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The numbers of the texts, those of one length together, at most BATCH at once."""
    by_length: dict[int, list[int]] = {}
    for row, tokens in enumerate(encoded):
        by_length.setdefault(len(tokens), []).append(row)
    for same in by_length.values():
        for begin in range(0, len(same), BATCH):
            yield same[begin : begin + BATCH]


def answer_images(folder: Path, images: Array) -> Array:
    """Probabilities, float32 of shape (rows, classes), for images of shape (rows, 3, height, width) from
    0 to 255, through the model's own image processor, which works on whole numbers."""
    import torch

    make_deterministic()
    model, processor = load_model(folder, "image-classification"), load_processor(folder)
    rows = []
    with torch.no_grad():
        for image in images:
            pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
            given = processor(pixels, input_data_format="channels_first", return_tensors="pt")
            rows.append(torch.softmax(model(**given).logits[0], dim=-1).numpy())
    return np.stack(rows).astype(np.float32)


def _vector(tokens: Any, how: str) -> Array:
    import torch

    pooled = tokens[0] if how == "cls" else tokens.mean(dim=0)
    vector: Array = torch.nn.functional.normalize(pooled, dim=0).numpy()
    return vector


def _by_words(rows: Array, text: str, offsets: Sequence[Sequence[int]]) -> Array:
    """From one row a token to one a word, that of the word's first token; zeros for a word that has none. A
    byte-level token may begin with the space before its word; special tokens span nothing."""
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    result, found, word = np.zeros((len(spans), rows.shape[-1]), np.float32), set[int](), 0
    for position, (start, end) in enumerate(offsets):
        while word < len(spans) and spans[word][1] <= start:
            word += 1
        if start < end and word < len(spans) and end > spans[word][0] and word not in found:
            found.add(word)
            result[word] = rows[position]
    return result


def _stacked(rows: Sequence[Array]) -> Array:
    result = np.full((len(rows), max(len(row) for row in rows), rows[0].shape[-1]), np.nan, np.float32)
    for number, row in enumerate(rows):
        result[number, : len(row)] = row
    return result
