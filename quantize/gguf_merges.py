"""The two kinds of byte pair encoding that llama.cpp has, recognised in a `tokenizer.json`.

*Byte level* (`gpt2` in GGUF): text is split by a regular expression that llama.cpp knows by name. The name is
taken only when the whole pre-tokenizer is the one behind it, character by character.

*SentencePiece* (`llama`): GGUF has no merges there; llama.cpp joins whichever two neighbours make the piece
with the best score. The scores made here give each piece its place in the order of merges, and it is checked
that the two rules cannot differ (`_scores`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from edgeops.canonical import canonical_json

SPACE = "\u2581"

Refuse = Callable[[str], NoReturn]

_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Merging:
    """How text becomes tokens: GGUF's `tokenizer.ggml.model` and `.pre`, and `merges` (byte level) or
    `scores` by token (SentencePiece). `space_prefix`: a space is put before the text. `nfc`: the text must
    be normalized to NFC first, which llama.cpp leaves to its caller. `bytes` are the tokens that stand for
    one byte each, in the order of bytes."""

    model: str
    pre: str
    merges: tuple[str, ...] | None = None
    scores: Mapping[str, float] | None = None
    space_prefix: bool = False
    nfc: bool = False
    bytes: tuple[str, ...] = ()


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _bytes(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}


def _sequence(*steps: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


_QWEN2 = rf"{_WORD}|\p{{N}}|{_REST}"
_LLAMA3 = rf"{_WORD}|\p{{N}}{{1,3}}|{_REST}"
# llama.cpp's name of a split, the pre-tokenizer behind it, and whether words that are tokens stay whole
# (`ignore_merges`), which belongs to the name there (src/llama-vocab.cpp).
_SPLITS: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("gpt-2", _bytes(use_regex=True), False),
    ("smollm", _sequence({"type": "Digits", "individual_digits": True}, _bytes(use_regex=True)), False),
    ("qwen2", _sequence(_split(_QWEN2), _bytes(use_regex=False)), False),
    ("llama-bpe", _sequence(_split(_LLAMA3), _bytes(use_regex=False)), True),
    ("smaug-bpe", _sequence(_split(_LLAMA3), _bytes(use_regex=False)), False),
    ("tekken", _sequence(_split(_TEKKEN), _bytes(use_regex=False)), True),
)


def byte_level(content: Mapping[str, Any], refuse: Refuse) -> Merging:
    """The split and merges of a byte level tokenizer, from the content of `tokenizer.json`."""
    model = content["model"]
    if model.get("unk_token") is not None and model["unk_token"] not in model["vocab"]:
        refuse(f"has an unknown token {model['unk_token']!r} that is no token")
    if content.get("normalizer") not in (None, {"type": "NFC"}):
        refuse(f"normalizes text by {_kind(content['normalizer'])}, which llama.cpp does not")
    found = canonical_json(_plain(content.get("pre_tokenizer")))
    whole_words = bool(model.get("ignore_merges"))
    for pre, wanted, ignores_merges in _SPLITS:
        if found == canonical_json(wanted) and whole_words == ignores_merges:
            merges = tuple(" ".join(pair) for pair in _pairs(model, refuse))
            return Merging("gpt2", pre, merges=merges, nfc=content.get("normalizer") is not None)
    return refuse(f"splits text by a {_kind(content.get('pre_tokenizer'))} that llama.cpp has no name for")


def sentencepiece(
    content: Mapping[str, Any], tokens: Mapping[str, int], kept: frozenset[str], refuse: Refuse
) -> Merging:
    """The scores of a BPE with byte fallback over text whose spaces became U+2581. `kept` are the added
    tokens, which are cut out of the text before anything is merged."""
    model = content["model"]
    if model.get("ignore_merges"):
        refuse("keeps words that are tokens whole (ignore_merges), which llama.cpp does not here")
    return Merging(
        "llama",
        "default",
        scores=_scores(_pairs(model, refuse), tokens, kept, refuse),
        space_prefix=_space_prefix(content, refuse),
        bytes=tuple(_byte_token(value, model["vocab"], refuse) for value in range(256)),
    )


def byte_name(value: int) -> str:
    """The name of a byte's token, in Hugging Face's files and in GGUF."""
    return f"<0x{value:02X}>"


def _byte_token(value: int, vocab: Mapping[str, int], refuse: Refuse) -> str:
    """The token that stands for a byte. Gemma's file has a tab itself in the place of its byte, which is the
    same: what is no other token falls back to it."""
    for token in (byte_name(value), chr(value)):
        if token in vocab and (token == byte_name(value) or value < 128):
            return token
    return refuse(f"falls back to bytes, and has no token {byte_name(value)}")


def _space_prefix(content: Mapping[str, Any], refuse: Refuse) -> bool:
    """Whether every piece of text gets a space in front: Llama's own way, and not Gemma's."""
    normalizer, split = content.get("normalizer"), content.get("pre_tokenizer")
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    # Spaces are gone by then, so this split never does anything (Gemma).
    idle = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    if split in (None, idle) and normalizer == spaces:
        return False
    if split is None and normalizer == {"type": "Sequence", "normalizers": [prepend, spaces]}:
        return True
    never = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}
    if normalizer is None and split == never:
        return False
    return refuse(
        f"prepares text by {_kind(normalizer)} and {_kind(split)}, which llama.cpp does not do in that way"
    )


def _scores(
    pairs: Sequence[tuple[str, str]], tokens: Mapping[str, int], kept: frozenset[str], refuse: Refuse
) -> dict[str, float]:
    """A score for each token, the earlier its merge the higher.

    tokenizers takes the first applicable merge of its list; llama.cpp takes the neighbours whose joint text
    is the token with the best score, the leftmost of equals. That is the same choice if each token's merges
    stand together in the list, and if every way to join two tokens into a third is a merge. Both are checked.
    """
    scores: dict[str, float] = {}
    listed = set(pairs)
    last = None
    for left, right in pairs:
        piece = left + right
        if piece in kept:
            continue
        if piece != last and piece in scores:
            refuse(f"makes the token {piece!r} by merges of different rank")
        scores.setdefault(piece, -float(len(scores)))
        last = piece
    for token in tokens:
        if token in kept:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            could_join = (left in tokens or cut == 1) and (right in tokens or len(right) == 1)
            if could_join and (left, right) not in listed:
                refuse(f"does not merge {left!r} and {right!r} into {token!r}, and llama.cpp would")
    return scores


def _pairs(model: Mapping[str, Any], refuse: Refuse) -> list[tuple[str, str]]:
    """The merges in order: `["a", "b"]`, or `"a b"` in files from before 2024."""
    pairs = []
    for merge in model.get("merges") or ():
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(x, str) and x for x in pair):
            refuse(f"has the merge {merge!r}")
        if pair[0] + pair[1] not in model["vocab"]:
            refuse(f"merges {pair[0]!r} and {pair[1]!r} into what is no token")
        pairs.append((pair[0], pair[1]))
    return pairs


def _plain(value: Any) -> Any:
    """A pre-tokenizer without what does not change tokens, and with what old files leave out."""
    if isinstance(value, dict):
        plain = {key: _plain(item) for key, item in value.items() if key != "trim_offsets"}
        return {"use_regex": True, **plain} if plain.get("type") == "ByteLevel" else plain
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _kind(value: Any) -> str:
    return str(value.get("type")) if isinstance(value, dict) else "nothing"
