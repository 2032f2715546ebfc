"""Importances: what is measured, and what the quantizer makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeops.canonical import sha256_file
from edgeops.engines.llama_engine import LlamaEngine
from edgeops.errors import ArtifactError
from edgeops_testkit.language_models import tiny_model
from quantize.gguf_convert import convert
from quantize.gguf_imatrix import collect, read_importances
from quantize.gguf_quantize import quantize

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imatrix")
    tiny_model(root / "hf", "qwen2", kv_heads=1)
    convert(root / "hf", root / "f16.gguf", name="tiny")
    return root


SEQUENCES = tuple(np.random.default_rng(5).integers(3, 500, (3, 40)).tolist())


def test_it_is_the_mean_square_of_what_each_matrix_gets(folder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    made = collect(folder / "hf", SEQUENCES, tmp_path / "imatrix.gguf")
    importances = read_importances(tmp_path / "imatrix.gguf")
    assert made.before == {"matrices": 14}
    assert made.after == {"matrices": 14, "tokens": 120}
    assert made.arguments["sequences"] == 3
    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    squares = torch.zeros(256)
    with torch.no_grad():
        for sequence in SEQUENCES:
            hidden = model.model.embed_tokens(torch.tensor(sequence))
            squares += model.model.layers[0].input_layernorm(hidden).square().sum(0)
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(
            importances[f"blk.0.{name}.weight"], squares.numpy() / 120, rtol=1e-4, atol=1e-6
        )
    assert importances["blk.1.ffn_down.weight"].shape == (512,)
    assert "output.weight" not in importances


def test_its_bytes_depend_on_model_and_tokens_alone(folder: Path, tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf"))
    digests = {
        collect(folder / "hf", sequences, target).arguments["calibration_sha256"]
        for sequences, target in (
            (SEQUENCES, first),
            (SEQUENCES, again),
            (SEQUENCES[:2], other),
        )
    }
    assert len(digests) == 2
    assert sha256_file(first) == sha256_file(again) != sha256_file(other)


def test_the_quantizer_uses_it(folder: Path, tmp_path: Path) -> None:
    collect(folder / "hf", SEQUENCES, tmp_path / "imatrix.gguf")
    plain = quantize(folder / "f16.gguf", tmp_path / "plain.gguf", "q4_k_m")
    weighed = quantize(
        folder / "f16.gguf", tmp_path / "weighed.gguf", "q4_k_m", imatrix=tmp_path / "imatrix.gguf"
    )
    assert weighed.arguments["imatrix_sha256"] == sha256_file(tmp_path / "imatrix.gguf")
    assert plain.after == weighed.after
    assert sha256_file(tmp_path / "plain.gguf") != sha256_file(tmp_path / "weighed.gguf")
    # Weighed by what comes in, the outputs of a matrix are nearer to the original's.
    tokens = SEQUENCES[0]
    wanted = LlamaEngine.open(folder / "f16.gguf").logits(tokens)
    errors = [
        float(np.square(LlamaEngine.open(tmp_path / name).logits(tokens) - wanted).mean())
        for name in ("plain.gguf", "weighed.gguf")
    ]
    assert errors[1] < errors[0] * 1.05


@pytest.mark.parametrize(
    ("sequences", "says"),
    [
        ([], "is empty"),
        ([[]], "is empty"),
        ([[1, 512]], "not in the model's vocabulary"),
        ([[-1]], "not in the model's vocabulary"),
        ([[1] * 257], "more than 256 tokens"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(
    folder: Path, tmp_path: Path, sequences: list[list[int]], says: str
) -> None:
    with pytest.raises(ArtifactError, match=says) as caught:
        collect(folder / "hf", sequences, tmp_path / "imatrix.gguf")
    assert caught.value.subject == "calibration"


def test_a_file_that_holds_none_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"f16\.gguf holds no importances"):
        read_importances(folder / "f16.gguf")
    with pytest.raises(ArtifactError, match="holds no importances"):
        quantize(folder / "f16.gguf", tmp_path / "out.gguf", "q4_k_m", imatrix=folder / "f16.gguf")
