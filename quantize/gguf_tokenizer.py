"""A Hugging Face tokenizer (`tokenizer.json` and its settings) as GGUF metadata.

How text is split and merged is recognised in quantize/gguf_merges.py; here are the tokens, their types, the
special ones, and the chat template. What llama.cpp would do otherwise is refused. That both sides make the
same tokens is tried on the converted file (quantize/gguf_tokenizer_check.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

from edgeops.errors import ArtifactError
from quantize.chat_template import default_template
from quantize.gguf_merges import SPACE, Merging, byte_level, byte_name, sentencepiece
from quantize.gguf_weights import read_json

FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
# llama.cpp has this many places for tokens that end an answer.
_END_NAMES = ("eos", "eot", "eom")


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as GGUF has it: `tokens` and `types` by id; `special` maps `bos`, `eos`, `eot`, `eom`,
    `unk` and `pad` to ids, as far as there are; `ends` are the ids that end an answer."""

    merging: Merging
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    special: Mapping[str, int]
    ends: tuple[int, ...]
    add_bos: bool
    add_eos: bool
    chat_template: str | None

    def scores(self) -> list[float] | None:
        """The scores by id, if this kind of tokenizer has any."""
        known = self.merging.scores
        return None if known is None else [known.get(token, 0.0) for token in self.tokens]


def vocabulary_of(folder: Path, config: Mapping[str, Any], size: int) -> Vocabulary:
    """The tokenizer of a Hugging Face folder. `size` is the model's number of tokens: what the tokenizer
    does not fill is padded with unused ones.

    Raises `ArtifactError` (subject: the file) on anything that llama.cpp would do otherwise.
    """
    content = read_json(folder / FILE)
    settings = read_json(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).is_file() else {}
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        refuse(f"has a {model.get('type') if isinstance(model, dict) else model!r} model, not BPE")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            refuse(f"has a BPE with {key} = {model[key]!r}")
    added = _added(content)
    ids = _ids(model["vocab"], added, size)
    if model.get("byte_fallback"):
        merging = sentencepiece(content, ids, frozenset(added), refuse)
    else:
        merging = byte_level(content, refuse)
    tokens, types = _tokens(ids, added, size, merging, model.get("unk_token"))
    add_bos, add_eos = _ends_added(folder, settings, ids)
    special = {
        name: ids[text] for name in ("bos", "eos", "unk", "pad") if (text := _named(settings, name, ids))
    }
    ends = _ends(folder, config, special)
    special |= dict(zip(_END_NAMES, ends, strict=False))
    return Vocabulary(
        merging=merging,
        tokens=tokens,
        types=types,
        special=special,
        ends=ends,
        add_bos=add_bos,
        add_eos=add_eos,
        chat_template=_chat_template(folder, settings),
    )


def original_tokenizer(folder: Path) -> Any:
    """The folder's own `tokenizers.Tokenizer`, which neither cuts texts nor fills them up."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str((folder / FILE).read_text(encoding="utf-8"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def refuse(what: str) -> NoReturn:
    """Raises `ArtifactError` about `tokenizer.json`."""
    raise ArtifactError(
        f"{FILE} {what}.", remedy="Choose a model with another tokenizer, or export it to ONNX.", subject=FILE
    )


def _added(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The added tokens by text."""
    added: dict[str, Mapping[str, Any]] = {}
    for token in content.get("added_tokens") or ():
        text = token.get("content")
        if not isinstance(text, str) or not text or text in added:
            refuse(f"has the added token {text!r}, empty or twice")
        for flag in ("lstrip", "rstrip", "single_word"):
            if token.get(flag):
                refuse(f"has the added token {text!r} with {flag}, which llama.cpp does not do")
        added[text] = token
    return added


def _ids(vocab: Mapping[str, Any], added: Mapping[str, Mapping[str, Any]], size: int) -> dict[str, int]:
    """Every token's id: all different, none left out, and all below `size`."""
    ids = dict(vocab)
    for text, token in added.items():
        if ids.setdefault(text, token.get("id")) != token.get("id"):
            refuse(f"gives the token {text!r} two ids")
    numbers = list(ids.values())
    if not all(isinstance(number, int) for number in numbers) or sorted(numbers) != list(range(len(ids))):
        refuse("does not number its tokens from 0 on without gaps")
    if len(ids) > size:
        refuse(f"has {len(ids)} tokens, and the model has {size}")
    if "" in ids:
        refuse("has an empty token")
    return ids


def _tokens(
    ids: Mapping[str, int],
    added: Mapping[str, Mapping[str, Any]],
    size: int,
    merging: Merging,
    unknown: str | None,
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    tokens = sorted(ids, key=ids.__getitem__)
    types = [int(TokenType.NORMAL)] * len(tokens)
    for value, text in enumerate(merging.bytes):
        tokens[ids[text]] = byte_name(value)
        types[ids[text]] = TokenType.BYTE
    for text, token in added.items():
        types[ids[text]] = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
        if merging.model == "llama":
            # Added tokens are looked for in the text as it comes, before its spaces are replaced.
            tokens[ids[text]] = text.replace(SPACE, " ")
    if merging.model == "llama" and unknown is not None:
        types[ids[unknown]] = TokenType.UNKNOWN
    for number in range(len(tokens), size):
        tokens.append(f"[PAD{number}]")
        types.append(TokenType.UNUSED)
    if len(set(tokens)) != size:
        refuse("has tokens that would be the same text in GGUF")
    return tuple(tokens), tuple(types)


def _ends_added(folder: Path, settings: Mapping[str, Any], ids: Mapping[str, int]) -> tuple[bool, bool]:
    """Whether encoding puts a token before and after the text: asked of the tokenizer itself."""
    tokenizer = original_tokenizer(folder)
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    ends = [ids.get(_named(settings, name, ids) or "") for name in ("bos", "eos")]
    for bos in (False, True):
        for eos in (False, True):
            wanted = [*([ends[0]] if bos else []), *plain, *([ends[1]] if eos else [])]
            if whole == wanted:
                for key, does in (("add_bos_token", bos), ("add_eos_token", eos)):
                    if settings.get(key) is not None and settings[key] != does:
                        refuse(f"does not do what {SETTINGS_FILE} says: {key} = {settings[key]}")
                return bos, eos
    return refuse("adds other tokens to a text than its first and last one")


def _named(settings: Mapping[str, Any], name: str, ids: Mapping[str, int]) -> str | None:
    """The text of a special token that the settings name, or None."""
    given = settings.get(f"{name}_token")
    text = given.get("content") if isinstance(given, dict) else given
    if text is None:
        return None
    if not isinstance(text, str) or text not in ids:
        refuse(f"has no token {text!r}, which {SETTINGS_FILE} names {name}_token")
    return text


def _ends(folder: Path, config: Mapping[str, Any], special: Mapping[str, int]) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's own, then those of the model's generation settings."""
    path = folder / "generation_config.json"
    given = (read_json(path) if path.is_file() else config).get("eos_token_id")
    listed: Sequence[Any] = given if isinstance(given, list) else [] if given is None else [given]
    if not all(isinstance(number, int) and number >= 0 for number in listed):
        refuse(f"goes with the end tokens {given!r}")
    ends = tuple(dict.fromkeys([*([special["eos"]] if "eos" in special else []), *listed]))
    if not ends:
        refuse("goes with a model that names no token to end an answer")
    return ends


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    given = default_template(folder, settings)
    if given is not None and not isinstance(given, str):
        refuse("goes with a chat template that is not text")
    return given
