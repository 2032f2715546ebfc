"""MLX folders from Hugging Face folders: what is in them, that stock tools take them, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeops.canonical import sha256_file
from edgeops.engines.safetensors_file import safetensors_heads
from edgeops.errors import ArtifactError, ConfigError
from edgeops_testkit.language_models import tiny_model
from quantize.mlx_group import convert

pytest.importorskip("mlx.core")
pytestmark = pytest.mark.slow  # importing transformers and mlx-lm takes seconds

FILES = {
    "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "generation_config.json", "chat_template.jinja",
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("somebody") / "my-model", hidden=64)


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "copy"))


def _edit(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def test_a_folder_holds_what_is_needed_and_tells_nothing_of_its_making(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "mlx"
    result = convert(source, target, bits=4, group_size=32)
    assert {path.name for path in target.iterdir()} == FILES
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in target.iterdir())
    text = b"".join(path.read_bytes() for path in target.iterdir())
    assert str(source.parent).encode() not in text
    assert b"transformers_version" not in text
    config = json.loads((target / "config.json").read_text())
    assert config["quantization"] == {"bits": 4, "group_size": 32, "mode": "affine"}
    assert config["torch_dtype"] == "float16"
    assert config["tie_word_embeddings"] is False
    # 2 layers of 7 products, the embedding table and the last layer.
    assert result.arguments["quantized_layers"] == 16
    assert result.before == {"F32": 21}
    assert result.after == {"F16": 21 - 16 + 2 * 16, "U32": 16}


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"bits": None}, {"F16": 21}),
        ({"bits": None, "dtype": "float32"}, {"F32": 21}),
        ({"bits": None, "dtype": "bfloat16"}, {"BF16": 21}),
        ({"bits": 8, "group_size": 64, "dtype": "float32"}, {"F32": 37, "U32": 16}),
    ],
)
def test_types_are_what_was_asked_for(
    source: Path, tmp_path: Path, options: dict[str, Any], kinds: dict[str, int]
) -> None:
    result = convert(source, tmp_path / "mlx", **options)
    assert result.after == kinds
    assert result.arguments["bits"] == options["bits"]
    config = json.loads((tmp_path / "mlx" / "config.json").read_text())
    assert ("quantization" in config) == (options["bits"] is not None)


def test_fewer_bits_are_fewer_bytes(source: Path, tmp_path: Path) -> None:
    sizes = []
    for name, bits in (("plain", None), ("8", 8), ("4", 4)):
        convert(source, tmp_path / name, bits=bits, group_size=64)
        sizes.append((tmp_path / name / "model.safetensors").stat().st_size)
    assert sizes[0] > 1.6 * sizes[1] > 1.6 * 1.6 * sizes[2]


def test_shards_become_one_file(source: Path, tmp_path: Path) -> None:
    sharded = tiny_model(tmp_path / "sharded", hidden=64, shard_size="100KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    for name, folder in (("a", source), ("b", sharded)):
        convert(folder, tmp_path / name, bits=8)
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")


def test_bytes_do_not_depend_on_process_folder_or_hash_seed(source: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from quantize.mlx_group import convert\n"
        "convert(Path(sys.argv[1]), Path(sys.argv[2]), bits=4, group_size=32)\n"
    )
    moved = Path(shutil.copytree(source, tmp_path / "another name"))
    convert(source, tmp_path / "here", bits=4, group_size=32)
    subprocess.run(
        [sys.executable, "-c", program, moved, tmp_path / "there"],
        env={
            **os.environ,
            "PYTHONHASHSEED": "7",
            "OMP_NUM_THREADS": "1",
            "LC_ALL": "C",
            "HF_HUB_OFFLINE": "1",
        },
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert _digests(tmp_path / "here") == _digests(tmp_path / "there")


@pytest.mark.parametrize("bits", [None, 4])
def test_the_stock_command_generates_from_it(source: Path, tmp_path: Path, bits: Any) -> None:
    folder = tmp_path / "mlx"
    # float32: others are slow on a CPU.
    convert(source, folder, bits=bits, group_size=32, dtype="float32")
    done = subprocess.run(
        [sys.executable, "-m", "mlx_lm", "generate", "--model", folder, "--prompt", "The names", "-m", "5"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Generation: 5 tokens" in done.stdout


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gpt2"}, "model type 'gpt2'"),
        ({"model_type": "../os"}, "model type"),
        ({"model_type": ["llama"]}, "model type"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope scaling 'dynamic'"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope"),
        ({"model_type": "mistral", "sliding_window": 16}, "sliding window"),
        ({"num_hidden_layers": 400}, "400 layers"),
        ({"num_hidden_layers": 10**6}, "layers"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"hidden_size": 128}, "do not fit"),
        ({"num_hidden_layers": 3}, "do not fit"),
        ({"num_hidden_layers": 1}, "do not fit"),
        ({"quantization": {"bits": 2, "group_size": 64}}, "quantization"),
    ],
)
def test_what_mlx_lm_would_get_wrong_is_refused(
    copy: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ArtifactError, match=reason):
        convert(_edit(copy, **changes), tmp_path / "mlx", bits=4)


def test_a_layer_that_groups_do_not_fit_is_an_error(tmp_path: Path) -> None:
    odd = tiny_model(tmp_path / "odd", hidden=96)
    with pytest.raises(ArtifactError, match="no multiple of 64") as caught:
        convert(odd, tmp_path / "mlx", bits=4, group_size=64)
    assert "model.embed_tokens" in caught.value.details["layers"]  # type: ignore[operator]
    assert convert(odd, tmp_path / "mlx", bits=4, group_size=32).arguments["quantized_layers"] == 16


def test_weights_that_float16_cannot_hold_are_refused(copy: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][3] = 70_000
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="float16 cannot hold"):
        convert(copy, tmp_path / "mlx", bits=None)
    assert convert(copy, tmp_path / "mlx", bits=None, dtype="bfloat16").after == {"BF16": 21}
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="nan"):
        convert(copy, tmp_path / "mlx", bits=None, dtype="float32")


def test_pickles_are_not_looked_at(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"no model\.safetensors"):
        convert(copy, tmp_path / "mlx", bits=None)


def test_code_that_comes_with_a_model_is_left_behind(copy: Path, tmp_path: Path) -> None:
    (copy / "modeling_evil.py").write_text("raise SystemExit(1)\n")
    _edit(copy, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    _edit(copy, "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_evil.Evil", None]})
    convert(copy, tmp_path / "mlx", bits=None)
    assert {path.name for path in (tmp_path / "mlx").iterdir()} == FILES
    assert not any(b"evil" in path.read_bytes() for path in (tmp_path / "mlx").iterdir())


def test_a_tokenizer_of_a_class_of_later_versions_can_be_loaded(copy: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _edit(copy, "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    convert(copy, tmp_path / "mlx", bits=None)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "mlx")
    assert loaded.decode(loaded("The names")["input_ids"]) == "The names"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_without_its_files_is_refused(copy: Path, tmp_path: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ArtifactError) as caught:
        convert(copy, tmp_path / "mlx", bits=None)
    assert caught.value.subject == name


def test_arguments_that_there_are_not_are_refused(source: Path, tmp_path: Path) -> None:
    for options in ({"bits": 3}, {"bits": 4, "group_size": 48}, {"bits": None, "dtype": "int8"}):
        with pytest.raises(ConfigError, match="not supported"):
            convert(source, tmp_path / "mlx", **options)


def test_weights_keep_their_names(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "mlx", bits=None, dtype="float32")
    assert safetensors_heads(tmp_path / "mlx" / "model.safetensors") == safetensors_heads(
        source / "model.safetensors"
    )
