"""The tokenizer that is trained in a build: byte-level BPE (Radford et al., 2019, "Language Models are
Unsupervised Multitask Learners", section 2.2).

It splits text as GPT-2 does, normalizes nothing and knows every byte, so llama.cpp reads it too (as the
pre-tokenizer `gpt-2`), and no text is unknown. Its trainer gives the same file for the same texts on any
number of cores; WordPiece's does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgeops.errors import ArtifactError
from toolchain.importing.huggingface import read_json
from toolchain.importing.prompts import SETTINGS_FILE, special_token

PAD, FIRST, LAST = "[PAD]", "[CLS]", "[SEP]"
BEGIN, END = "<|endoftext|>", "<|end|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"

# One turn after another, each ended by END, which also ends a document and an answer.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('a role is system, user or assistant') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def special_tokens(*, generates: bool, chat: bool) -> dict[str, Any]:
    """The special tokens by the names that Hugging Face's tokenizers give them, in the order of their ids."""
    if not generates:
        return {"pad_token": PAD, "cls_token": FIRST, "sep_token": LAST}
    if not chat:
        return {"bos_token": BEGIN, "eos_token": BEGIN, "pad_token": BEGIN}
    turns = [SYSTEM, USER, ASSISTANT]
    return {
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": BEGIN,
        "additional_special_tokens": turns,
    }


def train_tokenizer(
    texts: Iterable[str],
    folder: Path,
    *,
    vocabulary_size: int,
    max_tokens: int,
    generates: bool,
    chat: bool,
) -> int:
    """Trains a tokenizer on `texts` and writes it to `folder` as Hugging Face has it (tokenizer.json,
    tokenizer_config.json, …). Returns the size of its vocabulary, at most `vocabulary_size`.

    A classifier's tokenizer puts its special tokens around a text and cuts it at `max_tokens`. A language
    model's does neither, since the end of a prompt must not be lost; with `chat` it has a chat template.
    Raises `ArtifactError` if the texts hold nothing to learn from.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    named = special_tokens(generates=generates, chat=chat)
    listed = _listed(named)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=listed,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_plain_parts(texts, listed), trainer)
    size: int = tokenizer.get_vocab_size()
    if size <= len(listed) + 256:
        raise ArtifactError(
            "The training texts are too few to train a tokenizer on.",
            remedy="Bring more text.",
            subject="tokenizer",
        )
    if not generates:
        ids = [(name, tokenizer.token_to_id(name)) for name in (FIRST, LAST)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{FIRST} $A {LAST}", pair=f"{FIRST} $A {LAST} $B {LAST}", special_tokens=ids
        )
        tokenizer.enable_truncation(max_length=max_tokens)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **({"add_bos_token": False, "add_eos_token": False} if generates else {}),
        **named,
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return size


def end_of_document(folder: Path) -> str:
    """The token that ends a document for the tokenizer in `folder`.

    Raises `ArtifactError` (subject: the file's name) if it names none.
    """
    token = special_token(read_json(folder, SETTINGS_FILE), "eos_token")
    if not token:
        raise ArtifactError(
            f"{SETTINGS_FILE} names no eos_token, so documents cannot be told apart.",
            remedy="Add one to the tokenizer.",
            subject=SETTINGS_FILE,
        )
    return token


def _listed(named: dict[str, Any]) -> list[str]:
    every: list[str] = []
    for value in named.values():
        every += value if isinstance(value, list) else [value]
    return list(dict.fromkeys(every))


def _plain_parts(texts: Iterable[str], special: list[str]) -> Iterator[str]:
    """The texts without the special tokens in them, which are no words to learn."""
    pattern = re.compile("|".join(map(re.escape, special)))
    for text in texts:
        yield from (part for part in pattern.split(text) if part)
