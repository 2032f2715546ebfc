"""Tiny causal language models with random weights, saved as Hugging Face folders, and their tokenizers.

Nothing is fetched: the tokenizers are trained on the text of Python's own help (`pydoc_data.topics`), the
weights are drawn from a seed. Weights are drawn wide, and norms and biases too, so that a converter that
forgets one of them, or turns the wrong way in a rotation, gives other answers.
"""

from __future__ import annotations

import copy
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma")
TOKENIZERS = ("gpt2", "smollm", "qwen2", "llama3", "smaug", "tekken", "llama-spm", "gemma-spm")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# How the tokenizers of these families split text before merging: the regular expressions of their
# published tokenizer.json files, or None for GPT-2's, which the tokenizers library has built in (`smollm`
# takes digits apart before that). `smaug` is Llama 3's without whole words.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS: dict[str, str | None] = {
    "gpt2": None,
    "smollm": None,
    "llama3": _LLAMA3,
    "smaug": _LLAMA3,
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
# Gemma has runs of white space as symbols of their own.
_GEMMA_SYMBOLS = (
    *("\n" * count for count in range(1, 6)),
    *("\u2581" * count for count in range(2, 12)),
    "\t\t",
    "<table>",
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tiny_model(
    folder: Path,
    architecture: str = "llama",
    *,
    hidden: int = 256,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vocabulary: int = 512,
    context_tokens: int = 256,
    tokenizer: str | None = None,
    chat_template: str | None = CHAT_TEMPLATE,
    seed: int = 0,
    dtype: str = "float32",
    shard_size: str = "5GB",
    **config: Any,
) -> Path:
    """Saves a model with random weights and its tokenizer to `folder`, and returns that.

    `tokenizer` is one of `TOKENIZERS`; by default `gemma-spm` for Gemma and `gpt2` for the others. `config`
    goes to the architecture's configuration class as it is (`tie_word_embeddings`, `rope_scaling`, …).
    """
    import torch

    torch.manual_seed(seed)
    model = tiny_network(
        architecture,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        vocabulary=vocabulary,
        context_tokens=context_tokens,
        seed=seed,
        **config,
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.to(getattr(torch, dtype)).save_pretrained(
        folder, safe_serialization=True, max_shard_size=shard_size
    )
    style = tokenizer or ("gemma-spm" if architecture == "gemma" else "gpt2")
    saved = fast_tokenizer(style, vocabulary)
    saved.chat_template = chat_template
    saved.save_pretrained(folder)
    return folder


def tiny_network(
    architecture: str,
    *,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    context_tokens: int,
    seed: int,
    **config: Any,
) -> Any:
    """The transformers model alone, in float32."""
    import torch
    import transformers

    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma": "Gemma"}[
        architecture
    ]
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": context_tokens,
        "initializer_range": 0.08,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": None,
        **({"sliding_window": None} if architecture == "mistral" else {}),
        **config,
    }
    made = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, f"{name}ForCausalLM")(made)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if tensor.ndim == 1:
                spread = 0.2 if "norm" in key else 0.5
                tensor.add_(torch.randn(tensor.shape, generator=generator) * spread)
    return model.eval()


def fast_tokenizer(style: str, vocabulary: int) -> Any:
    """A trained tokenizer of one of the `TOKENIZERS`, as transformers has it."""
    return copy.deepcopy(
        _sentencepiece(style, vocabulary) if style.endswith("-spm") else _byte_level(style, vocabulary)
    )


@cache
def corpus() -> tuple[str, ...]:
    """Lines of English and Python, some with digits and other scripts, to train tokenizers on."""
    from pydoc_data.topics import topics

    lines = [line.strip() for text in topics.values() for line in text.splitlines() if line.strip()]
    # Numbers often enough to be merged, so that it shows where a tokenizer cuts them.
    numbers = [f"{number} {number * 37 % 10000} 1000 2024 12345" for number in range(1000)]
    others = ["Größe naïve café 北京 こんにちは привет 🙂 e\u0301", "x = [1, 2, 3]\t# tabs"]
    return (*lines[:4000], *numbers, *others)


@cache
def _byte_level(style: str, vocabulary: int) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # Words that are tokens stay whole in these, whatever the merges.
    tokenizer = Tokenizer(models.BPE(ignore_merges=style in ("llama3", "tekken")))
    pattern = PATTERNS[style]
    if pattern is None:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = (
            pre_tokenizers.Sequence([digits, byte_level]) if style == "smollm" else byte_level
        )
    else:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        additional_special_tokens=[SPECIAL[1]],
        clean_up_tokenization_spaces=False,
    )


@cache
def _sentencepiece(style: str, vocabulary: int) -> Any:
    """A SentencePiece BPE model with byte fallback, trained here and converted by transformers."""
    import sentencepiece
    from transformers import GemmaTokenizerFast, LlamaTokenizerFast

    with tempfile.TemporaryDirectory() as scratch:
        prefix = str(Path(scratch) / "tokenizer")
        gemma = style == "gemma-spm"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus()),
            model_prefix=prefix,
            model_type="bpe",
            vocab_size=vocabulary,
            byte_fallback=True,
            character_coverage=0.995,
            num_threads=1,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            add_dummy_prefix=not gemma,
            pad_piece="<pad>",
            eos_piece="<eos>" if gemma else "</s>",
            bos_piece="<bos>" if gemma else "<s>",
            pad_id=0 if gemma else -1,
            eos_id=1 if gemma else 2,
            bos_id=2 if gemma else 1,
            unk_id=3 if gemma else 0,
            unk_surface=" \u2047 ",
            user_defined_symbols=["<|im_start|>", "<|im_end|>", *(_GEMMA_SYMBOLS if gemma else ())],
            minloglevel=2,
        )
        if gemma:
            return GemmaTokenizerFast(vocab_file=f"{prefix}.model")
        return LlamaTokenizerFast(vocab_file=f"{prefix}.model", legacy=False)
