"""GGUF headers: agreement with the stock reader on good files, and a refusal for everything else."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeops.engines.gguf_file import MAX_ARRAY_ITEMS, TENSOR_TYPES, read_gguf
from edgeops.engines.gguf_model import check_gguf
from edgeops.errors import ArtifactError
from edgeops_testkit.gguf_files import (
    ARRAY,
    BOOL,
    F32,
    STRING,
    U32,
    HandMade,
    Loader,
    damaged,
    hand_made,
    header_size,
)

Change = Callable[[HandMade], object]


def test_every_type_of_weight_has_the_size_that_ggml_gives_it() -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    for number, (name, block, size_bytes) in TENSOR_TYPES.items():
        assert GGMLQuantizationType(number).name == name
        assert GGML_QUANT_SIZES[GGMLQuantizationType(number)] == (block, size_bytes)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
NUMBERS = {
    0: st.integers(0, 255),
    1: st.integers(-128, 127),
    2: st.integers(0, 2**16 - 1),
    3: st.integers(-(2**15), 2**15 - 1),
    U32: st.integers(0, 2**32 - 1),
    5: st.integers(-(2**31), 2**31 - 1),
    F32: st.floats(width=32, allow_nan=False),
    BOOL: st.booleans(),
    10: st.integers(0, 2**64 - 1),
    11: st.integers(-(2**63), 2**63 - 1),
    12: st.floats(allow_nan=False),
}
SCALARS = st.one_of(
    *(st.tuples(st.just(kind), values) for kind, values in NUMBERS.items()), st.tuples(st.just(STRING), TEXT)
)
ARRAYS = st.one_of(
    *(
        st.tuples(st.just(ARRAY), st.tuples(st.just(kind), st.lists(values, min_size=1, max_size=9)))
        for kind, values in {**NUMBERS, STRING: TEXT}.items()
    )
)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz._0123456789", min_size=1, max_size=40).filter(
    lambda name: name not in ("general.alignment", "split.count") and not name.startswith("GGUF")
)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    keys=st.dictionaries(NAMES, st.one_of(SCALARS, ARRAYS), max_size=8),
    shapes=st.dictionaries(NAMES, SHAPES, min_size=1, max_size=6),
    version=st.sampled_from([2, 3]),
    alignment=st.sampled_from([8, 32, 64]),
)
def test_it_reads_what_the_stock_reader_reads(
    tmp_path_factory: pytest.TempPathFactory,
    keys: dict[str, tuple[int, object]],
    shapes: dict[str, list[int]],
    version: int,
    alignment: int,
) -> None:
    from gguf import GGUFReader

    tensors = {}
    for number, (name, shape) in enumerate(shapes.items()):
        count = 1
        for size in shape:
            count *= size
        tensors[name] = (shape, 0, struct.pack("<f", number) * count)
    made = HandMade({"general.alignment": (U32, alignment), **keys}, tensors, version, alignment=alignment)
    path = made.write(tmp_path_factory.mktemp("gguf") / "model.gguf")
    ours, theirs = read_gguf(path, keep=keys), GGUFReader(path)
    assert ours.version == version
    for key, (kind, _) in keys.items():
        wanted = theirs.fields[key].contents()
        got = ours.metadata[key]
        if kind == ARRAY:
            assert ours.counts[key] == len(wanted)
            assert [each.decode() if isinstance(each, bytes) else each for each in got] == list(wanted)
        else:
            assert got == wanted
            assert isinstance(got, bool) == (kind == BOOL)
    assert [
        (each.name, list(each.shape), each.type, each.offset, each.size_bytes)
        for each in ours.tensors.values()
    ] == [
        (each.name, each.shape.tolist(), each.tensor_type.name, each.data_offset, each.n_bytes)
        for each in theirs.tensors
    ]


def test_strings_are_kept_only_when_asked_for(tmp_path: Path) -> None:
    path = hand_made().write(tmp_path / "model.gguf")
    tokens = "tokenizer.ggml.tokens"
    assert read_gguf(path).metadata[tokens] is None
    kept = read_gguf(path, keep={tokens}).metadata[tokens]
    assert isinstance(kept, list) and kept[1] == b"<|im_end|>"
    assert read_gguf(path).counts[tokens] == len(kept)


@pytest.mark.parametrize("tokenizer", ["gpt2", "llama"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma"])
def test_a_whole_model_passes(tmp_path: Path, architecture: str, tokenizer: str) -> None:
    file = check_gguf(hand_made(architecture, tokenizer=tokenizer).write(tmp_path / "model.gguf"))
    assert file.tensor_counts() == {"F32": 11}


def _key(name: str, kind: int, value: object) -> Change:
    return lambda made: made.keys.__setitem__(name, (kind, value))


def _without(name: str) -> Change:
    return lambda made: made.keys.pop(name, None) or made.tensors.pop(name, None)


def _shape(name: str, *sizes: int, kind: int = 0) -> Change:
    return lambda made: made.tensors.__setitem__(name, (sizes, kind, made.tensors[name][2]))


def _token(number: int, text: str | bytes) -> Change:
    def change(made: HandMade) -> None:
        made.keys["tokenizer.ggml.tokens"][1][1][number] = text

    return change


def _first_offset(offset: int) -> Change:
    return lambda made: setattr(made, "offsets", {"token_embd.weight": offset})


REFUSED: dict[str, tuple[Change, str]] = {
    "version 1": (lambda made: setattr(made, "version", 1), "version 1"),
    "version 4": (lambda made: setattr(made, "version", 4), "version 4"),
    "big endian": (lambda made: setattr(made, "version", 3 << 24), "version 50331648"),
    "alignment of no power": (_key("general.alignment", U32, 24), "alignment 24"),
    "alignment of zero": (_key("general.alignment", U32, 0), "alignment 0"),
    "alignment as text": (_key("general.alignment", STRING, "32"), "alignment '32'"),
    "nested array": (_key("x", ARRAY, (ARRAY, [])), "an array 'x' of type 9"),
    "empty key": (_key("", U32, 1), "empty"),
    "zero in a key": (_key("a\0b", U32, 1), "zero in it"),
    "zero in a text": (_key("general.name", STRING, "a\0b"), "zero in it"),
    "text that is not UTF-8": (_key("general.name", STRING, b"\xff\xfe"), "not UTF-8"),
    "unknown tensor type": (_shape("output_norm.weight", 32, kind=99), "unknown type 99"),
    "integers as weights": (_shape("output_norm.weight", 32, kind=26), "unknown type 26"),
    "row of no whole blocks": (_shape("blk.0.attn_q.weight", 32, 32, kind=12), "cannot have"),
    "size of zero": (_shape("output_norm.weight", 0), "cannot have"),
    "size beyond everything": (_shape("output_norm.weight", 2**63), "cannot have"),
    "sizes that overflow": (_shape("token_embd.weight", 2**32, 2**32), "cannot have"),
    "five dimensions": (_shape("output_norm.weight", 32, 1, 1, 1, 1), "5 dimensions"),
    "no dimension": (_shape("output_norm.weight"), "0 dimensions"),
    "larger than the file": (_shape("output_norm.weight", 3200), "ends before the tensor"),
    "offset beyond the file": (_first_offset(1 << 40), "at 1099511627776"),
    "offset unaligned": (_first_offset(1), "at 1,"),
    "offset that overlaps": (
        lambda made: setattr(made, "offsets", {"output_norm.weight": 0}),
        "'output_norm.weight' at 0",
    ),
    "long tensor name": (
        lambda made: made.tensors.__setitem__("x" * 64, ((1,), 0, b"\0" * 4)),
        "64 bytes in a tensor's name",
    ),
    "no architecture": (_without("general.architecture"), "architecture None"),
    "strange architecture": (_key("general.architecture", STRING, "../llama"), "architecture '../llama'"),
    "one of several files": (_key("split.count", 2, 2), "several files"),
    "unknown tokenizer": (_key("tokenizer.ggml.model", STRING, "bert"), "kind 'bert'"),
    "no tokens": (_without("tokenizer.ggml.tokens"), "no list of"),
    "tokens as numbers": (_key("tokenizer.ggml.tokens", ARRAY, (U32, [1, 2])), "no list of"),
    "token twice": (_token(5, "<|im_end|>"), "a token twice"),
    "empty token": (_token(5, ""), "a token twice, or an empty one"),
    "token with a zero": (_token(5, "a\0b"), "with a zero"),
    "token that is not UTF-8": (_token(5, b"\xc3"), "not UTF-8"),
    "fewer types than tokens": (_key("tokenizer.ggml.token_type", ARRAY, (5, [1])), "262 tokens and 1 items"),
    "no merges": (_without("tokenizer.ggml.merges"), "no merges"),
    "special token beyond the last": (_key("tokenizer.ggml.bos_token_id", U32, 262), "= 262, and 262 tokens"),
    "special token as text": (_key("tokenizer.ggml.eos_token_id", STRING, "1"), "= '1'"),
    "no blocks": (_key("llama.block_count", U32, 0), "block_count = 0"),
    "too many blocks": (_key("llama.block_count", U32, 513), "block_count = 513"),
    "more blocks than tensors": (_key("llama.block_count", U32, 2), "2 blocks"),
    "block_count of another type": (_key("llama.block_count", F32, 1.0), "block_count = 1.0"),
    "block_count as a truth": (_key("llama.block_count", BOOL, True), "block_count = True"),
    "no context": (_key("llama.context_length", U32, 0), "context_length = 0"),
    "endless context": (_key("llama.context_length", U32, 2**32 - 1), "context_length = 4294967295"),
    "other width": (_key("llama.embedding_length", U32, 64), "tokens of width 64"),
    "no heads": (_key("llama.attention.head_count", U32, 0), "head_count = 0"),
    "heads that key-value heads do not divide": (
        _key("llama.attention.head_count_kv", U32, 3),
        "3 key-value",
    ),
    "no key-value heads": (_key("llama.attention.head_count_kv", U32, 0), "0 key-value heads"),
    "more heads than fit": (_key("llama.attention.head_count", U32, 4), "attn_k.weight of shape"),
    "odd heads": (_key("llama.rope.dimension_count", U32, 15), "parts are"),
    "values wider than keys": (_key("llama.attention.value_length", U32, 18), "parts are"),
    "other feed forward": (_key("llama.feed_forward_length", U32, 47), "ffn_gate.weight of shape"),
    "epsilon below zero": (_key("llama.attention.layer_norm_rms_epsilon", F32, -1.0), "not a number above 0"),
    "epsilon that is none": (_key("llama.attention.layer_norm_rms_epsilon", F32, float("nan")), "above 0"),
    "frequencies of zero": (_key("llama.rope.freq_base", F32, 0.0), "freq_base = 0.0"),
    "unknown rope scaling": (_key("llama.rope.scaling.type", STRING, "twisted"), "'twisted'"),
    "no causal model": (_key("llama.attention.causal", BOOL, False), "no plain causal model"),
    "tensor missing": (_without("blk.0.ffn_up.weight"), "lacks the tensor blk.0.ffn_up.weight"),
    "tensor too many": (
        lambda made: made.tensors.__setitem__("surplus", ((1,), 0, b"\0" * 4)),
        "a tensor surplus",
    ),
    "tensor of a block that is not": (
        lambda made: made.tensors.__setitem__("blk.7.x", ((1,), 0, b"\0" * 4)),
        "tensors of 2",
    ),
    "transposed tensor": (_shape("blk.0.ffn_up.weight", 48, 32), r"shape \[48, 32\], not \[32, 48\]"),
    "norm in half precision": (
        lambda made: made.tensors.__setitem__("output_norm.weight", ((32,), 1, b"\0" * 64)),
        "as F16, not as F32",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_llama_cpp_could_trip_over_is_refused_by_name(tmp_path: Path, name: str) -> None:
    change, says = REFUSED[name]
    made = hand_made()
    change(made)
    path = made.write(tmp_path / "model.gguf")
    with pytest.raises(ArtifactError, match=says) as caught:
        check_gguf(path)
    assert caught.value.subject == "model.gguf"
    assert str(caught.value).startswith("model.gguf ")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_token(2 + 65, "<0x4>"), "no token for the byte 0x41"),
        (_token(262, "<0x4g>"), "calls the token b'<0x4g>' a byte"),
        (_key("tokenizer.ggml.scores", ARRAY, (F32, [0.0])), "1 items in tokenizer.ggml.scores"),
        (_key("tokenizer.ggml.scores", ARRAY, (F32, [float("nan")] * 267)), "not finite"),
    ],
)
def test_a_vocabulary_of_pieces_must_fall_back_to_bytes(tmp_path: Path, change: Change, says: str) -> None:
    made = hand_made(tokenizer="llama")
    made.keys["tokenizer.ggml.token_type"][1][1][262] = 6
    change(made)
    with pytest.raises(ArtifactError, match=says):
        check_gguf(made.write(tmp_path / "model.gguf"))


def _patched(good: bytes, at: int, number: int) -> bytes:
    return good[:at] + struct.pack("<Q", number) + good[at + 8 :]


def test_counts_and_lengths_beyond_the_file_are_refused_without_being_allocated(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    good = hand_made().to_bytes()
    array = good.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    first_key = 24
    for at in (8, 16, first_key, array, array + 8):
        for number in (MAX_ARRAY_ITEMS, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1):
            path.write_bytes(_patched(good, at, number))
            with pytest.raises(ArtifactError):
                check_gguf(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = hand_made().write(tmp_path / "model.gguf")
    good = path.read_bytes()
    for size in [*range(64), *range(64, len(good), 499), len(good) - 33]:
        path.write_bytes(good[:size])
        with pytest.raises(ArtifactError):
            check_gguf(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")
    for name, says in (
        ("missing.gguf", "cannot be opened"),
        ("folder.gguf", "is not a regular file"),
        ("pipe.gguf", "is not a regular file"),
    ):
        with pytest.raises(ArtifactError, match=says):
            read_gguf(tmp_path / name)


def test_links_are_refused_when_they_are_not_wanted(tmp_path: Path) -> None:
    path = hand_made().write(tmp_path / "model.gguf")
    (tmp_path / "soft.gguf").symlink_to(path)
    assert check_gguf(path, allow_links=False).tensors
    assert check_gguf(tmp_path / "soft.gguf").tensors
    with pytest.raises(ArtifactError, match="cannot be opened"):
        check_gguf(tmp_path / "soft.gguf", allow_links=False)
    (tmp_path / "hard.gguf").hardlink_to(path)
    assert check_gguf(path).tensors
    for name in ("model.gguf", "hard.gguf"):
        with pytest.raises(ArtifactError, match="hard link"):
            check_gguf(tmp_path / name, allow_links=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "tokenizer"), [("llama", "gpt2"), ("qwen2", "gpt2"), ("gemma", "llama")]
)
def test_a_damaged_file_is_refused_or_answers_and_never_kills(
    tmp_path: Path, architecture: str, tokenizer: str
) -> None:
    path = hand_made(architecture, tokenizer=tokenizer).write(tmp_path / "model.gguf")
    good, header = path.read_bytes(), header_size(path)
    tokens = range(good.index(b"tokenizer.ggml.tokens") + 33, good.index(b"tokenizer.ggml.token_type"))
    seen = dict.fromkeys(("answers", "refused"), 0)
    with Loader() as loader:
        assert loader.load(path) == "answers"
        for what, data in itertools.islice(damaged(good, header, 7, vocabulary=tokens), 200):
            path.write_bytes(data)
            outcome = loader.load(path)
            assert outcome in seen, what
            seen[outcome] += 1
    assert min(seen.values()) > 20
