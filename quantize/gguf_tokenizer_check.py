"""Tries a converted tokenizer: llama.cpp's tokens for many texts against those of the original."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from edgeops.errors import ArtifactError
from quantize.gguf_child import run_llama
from quantize.gguf_tokenizer import TokenType, Vocabulary, original_tokenizer

# Words of the vocabulary that are tried, spread evenly over it.
_WORDS = 2000

# U+2581 is not among them: it stands for a space in SentencePiece's vocabularies, and when it is in the text
# itself, Hugging Face's files and llama.cpp disagree about it.
_TEXTS = (
    "",
    " ",
    "a",
    "Hello, world!",
    " Hello  World   three    four     five",
    "It's we'll THEY'RE I'd 'tis can't\u2019t",
    "1 12 123 1234 12345 1234567890 3.14159 1,000,000 \u0663\u0664\u0665 \u2167",
    "tabs\tand\nnewlines\n\nand\r\nboth \n \n\n  trailing  ",
    "\n\n\n   \t \n x",
    "def f(x):\n    return [x**2 for x in range(10)]  # 100%\n",
    "https://example.org/a_b?c=d&e=%20f#g <a href='x'>y</a> {\"k\": [1, null]}",
    "café naïve Größe Łódź ¿qué? ©®™ €£¥",
    "e\u0301 n\u0303 a\u0308 \u1100\u1161\u11a8",
    "привет αβγ שלום مرحبا नमस्ते",
    "你好世界。 こんにちは 안녕 สวัสดี",
    "\U0001f642\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "\u00a0nbsp\u2003em\u3000ideographic\u200bzero\ufeffbom\u00adsoft",
    "a\u0000b\u0001\u007f\u0085",
    "ALL CAPS camelCase snake_case kebab-case CamelHTTPServer2Go",
    "!?.,;:...---___***###$$$%%%^^^&&&(((()))) \u2026 \u2014 \u201cq\u201d \u00ab\u00bb",
    "x" * 300 + " " * 70 + "9" * 50,
)


def check_tokenizer(gguf: Path, folder: Path, vocabulary: Vocabulary) -> None:
    """Compares tokens of texts in many scripts, of the vocabulary's own words, and of special tokens among
    text; which tokens end an answer; and what is put around a text.

    Raises `ArtifactError` with the first difference in `details`. llama.cpp runs in a child process.
    """
    original = original_tokenizer(folder)
    texts = [*_TEXTS, *_special_texts(vocabulary), *_words(original, vocabulary)]
    made = run_llama(
        {
            "do": "tokenize",
            "source": str(gguf),
            "texts": [
                unicodedata.normalize("NFC", text) if vocabulary.merging.nfc else text for text in texts
            ],
        },
        subject="tokenizer.json",
    )
    for text, tokens in zip(texts, made["tokens"], strict=True):
        wanted = original.encode(text, add_special_tokens=False).ids
        if tokens != wanted:
            raise _different("makes other tokens in llama.cpp", text=text, wanted=wanted, made=tokens)
    missing = sorted(set(vocabulary.ends) - set(made["ends"]))
    if missing:
        raise _different(
            f"has the end token {vocabulary.tokens[missing[0]]!r}, which ends nothing in llama.cpp"
        )
    if (made["add_bos"], made["add_eos"]) != (vocabulary.add_bos, vocabulary.add_eos):
        raise _different("puts other tokens around a text in llama.cpp")


def _special_texts(vocabulary: Vocabulary) -> list[str]:
    kinds = {TokenType.CONTROL, TokenType.USER_DEFINED}
    names = [text for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind in kinds]
    return [
        made
        for name in names[:64]
        for made in (name, f"{name}a b{name}", f" {name} \n{name}{name} c", f"x {name}\n")
    ]


def _words(original: Any, vocabulary: Vocabulary) -> list[str]:
    count = original.get_vocab_size()
    words = [original.decode([number]) for number in range(0, count, max(1, count // _WORDS))]
    words = [word for word in words if "\ufffd" not in word]
    return [*words, *(f"{a} {b}{c}" for a, b, c in zip(words, words[7:], words[3:], strict=False))]


def _different(what: str, **details: object) -> ArtifactError:
    return ArtifactError(
        f"tokenizer.json {what}.",
        remedy="Choose a model with another tokenizer, or export it to ONNX.",
        subject="tokenizer.json",
        details=details,
    )
