"""Hugging Face folders from outside: what is copied, and what is refused."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeops.errors import ArtifactError
from edgeops_testkit.sources import (
    HUGGINGFACE,
    TEXT_INPUT,
    StepWorker,
    data_folder,
    huggingface_folder,
    model_config,
    step_context,
)
from toolchain.importing.huggingface import copy_folder

pytestmark = pytest.mark.slow

TASK = "text-classification"
CLASSES = ("bad", "good")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return huggingface_folder(tmp_path_factory.mktemp("hf") / "tiny", TASK)


def test_transformers_comes_without_scikit_learn() -> None:
    """As long as it does, it takes a third less time to import."""
    code = (
        "import sys\nfrom toolchain.running.warming import import_ahead\n"
        "import_ahead({'torch', 'transformers'})\n"
        "print('transformers.models.auto.modeling_auto' in sys.modules, 'sklearn' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "True False\n"


def edit(folder: Path, file: str, **fields: Any) -> None:
    path = folder / file
    value = {**json.loads(path.read_bytes()), **fields}
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))


def sharded(folder: Path) -> None:
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")


def test_what_is_needed_is_copied_and_no_place_is_told(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny, source)
    edit(source, "config.json", _name_or_path="/home/somebody/net")
    edit(source, "tokenizer_config.json", name_or_path="/home/somebody/net")
    (source / "train.py").write_text("print('hello')")
    (source / "optimizer.bin").write_bytes(b"\x80\x04N.")
    copy_folder(source, tmp_path / "copy", name="tiny", task=TASK, classes=CLASSES)
    files = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    assert set(files) == {
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert all(b"somebody" not in content for content in files.values())
    assert files["model.safetensors"] == (tiny / "model.safetensors").read_bytes()


def test_shards_come_together_with_their_index(tiny: Path, tmp_path: Path, worker: StepWorker) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny, source)
    sharded(source)
    assert not (source / "model.safetensors").exists()
    copy_folder(source, tmp_path / "copy", name="tiny", task=TASK, classes=CLASSES)
    shards = {path.name for path in source.glob("*.safetensors")}
    assert len(shards) > 1
    assert shards <= {path.name for path in (tmp_path / "copy").iterdir()}
    next(iter(sorted(source.glob("*.safetensors")))).unlink()
    with pytest.raises(ArtifactError, match=r"model-00001.* is missing in tiny"):
        copy_folder(source, tmp_path / "again", name="tiny", task=TASK, classes=CLASSES)


def only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")


def a_link(folder: Path) -> None:
    (folder / "vocab.txt").symlink_to("/etc/passwd")


def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "vocab.txt")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def deep_config(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def escaping_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../a.safetensors"}})
    )


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (only_pickled, "pytorch_model.bin of tiny is a pickle"),
        (no_weights, "model.safetensors is missing"),
        (cut_weights, "no whole safetensors file"),
        (huge_header, "no whole safetensors file"),
        (a_link, "vocab.txt is a symbolic link"),
        (a_pipe, "vocab.txt is a symbolic link or a special file"),
        (no_config, "config.json is missing"),
        (broken_config, "config.json is not JSON"),
        (deep_config, "config.json is not JSON"),
        (no_tokenizer, "tokenizer.json is missing"),
        (escaping_index, "names the file '../a.safetensors'"),
        (lambda f: edit(f, "config.json", auto_map={"AutoModel": "net.Net"}), "code of the model's own"),
        (
            lambda f: edit(f, "tokenizer_config.json", auto_map={"AutoTokenizer": "t.T"}),
            "tokenizer_config.json",
        ),
        (
            lambda f: edit(f, "config.json", architectures=["BertModel"]),
            "needs BertForSequenceClassification",
        ),
        (lambda f: edit(f, "config.json", architectures=None), "does not name one model_type"),
        (
            lambda f: edit(f, "config.json", model_type="frobnicator"),
            "which has no text-classification model",
        ),
        (lambda f: edit(f, "config.json", quantization_config={"bits": 4}), "weights are quantized"),
        (lambda f: edit(f, "config.json", problem_type="regression"), "says 'regression'"),
        (
            lambda f: edit(f, "config.json", id2label={"0": "good", "1": "bad"}),
            r"has the classes \['good', 'bad'\], and the data has \['bad', 'good'\]",
        ),
        (lambda f: edit(f, "config.json", id2label={"0": "bad", "2": "good"}), "id2label with gaps"),
    ],
)
def test_folders_that_are_not_what_they_must_be(
    tiny: Path, tmp_path: Path, spoil: Callable[[Path], None], what: str
) -> None:
    source = tmp_path / "tiny"
    shutil.copytree(tiny, source)
    spoil(source)
    with pytest.raises(ArtifactError, match=what) as caught:
        copy_folder(source, tmp_path / "copy", name="tiny", task=TASK, classes=CLASSES)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"hidden_size": 4096}, "model (cannot be loaded|has no fitting weights)"),
        ({"num_hidden_layers": 3}, "no fitting weights for 'bert.encoder.layer.2"),
        ({"hidden_size": 1 << 40}, "model|asks for more"),
        ({"vocab_size": 3}, "model|token"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_the_step(
    tiny: Path, tmp_path: Path, worker: StepWorker, fields: dict[str, Any], what: str
) -> None:
    source = tmp_path / "tiny"
    shutil.copytree(tiny, source)
    edit(source, "config.json", **fields)
    data = data_folder(tmp_path, "two_moods", TASK, TEXT_INPUT)
    context = step_context(tmp_path / "m", model_config(TASK, HUGGINGFACE), data=data, folder=source)
    with pytest.raises(ArtifactError, match=what) as caught:
        worker.run("import_huggingface", context)
    assert "\n" not in caught.value.message
