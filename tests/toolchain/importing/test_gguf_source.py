"""GGUF files from outside: what is brought in, and hostile ones, in a step worker with limited memory."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeops.errors import ArtifactError
from edgeops_testkit.sources import (
    GGUF,
    HUGGINGFACE,
    StepWorker,
    huggingface_folder,
    model_config,
    step_context,
)
from toolchain.handover.arrays import load_arrays

pytestmark = pytest.mark.slow

TASK = "text-generation"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> dict[str, Path]:
    """A tiny Llama as a Hugging Face folder, imported; its answers; and the GGUF file it becomes."""
    folder = tmp_path_factory.mktemp("gguf")
    config = model_config(TASK, HUGGINGFACE)
    source = huggingface_folder(folder / "tiny", TASK, intermediate_size=64)  # rows of 32
    with StepWorker() as worker:
        made = worker.run(
            "import_huggingface", step_context(folder / "m", config, data=corpus, folder=source)
        )
    with StepWorker() as worker:  # without the import's memory limit, as in a build
        out = {
            step: worker.run(step, step_context(folder / step, config, data=corpus, model=made))
            for step in ("export_gguf", "export_mlx", "answers")
        }
    return {**out, "file": out["export_gguf"] / "variant" / "model.gguf"}


def test_a_file_is_brought_in_and_answers_as_its_source(
    tmp_path: Path, tiny: dict[str, Path], corpus: Path, worker: StepWorker
) -> None:
    config = model_config(TASK, GGUF)
    context = step_context(tmp_path / "m", config, data=corpus, file=tiny["file"])
    made = worker.run("import_gguf", context)
    assert (made / "model" / "model.gguf").read_bytes() == tiny["file"].read_bytes()
    exported = worker.run("export_gguf", step_context(tmp_path / "e", config, data=corpus, model=made))
    assert (exported / "variant" / "model.gguf").read_bytes() == tiny["file"].read_bytes()
    told = worker.run("answers", step_context(tmp_path / "a", config, data=corpus, model=made))
    mine, source = (load_arrays(folder / "answers.npz") for folder in (told, tiny["answers"]))
    assert mine["tokens"].shape == source["tokens"].shape
    assert np.array_equal(mine["tokens"], source["tokens"])
    assert np.abs(mine["held_out"] - source["held_out"]).max() < 0.01  # half precision


def test_an_mlx_folder_is_exported(tiny: dict[str, Path]) -> None:
    names = {path.name for path in (tiny["export_mlx"] / "variant").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"} <= names


def cut(data: bytes) -> bytes:
    return data[:-100]


def cut_in_the_header(data: bytes) -> bytes:
    return data[:200]


def nothing(data: bytes) -> bytes:
    return b""


def another_magic(data: bytes) -> bytes:
    return b"GGML" + data[4:]


def countless_tensors(data: bytes) -> bytes:
    return data[:8] + struct.pack("<Q", 1 << 60) + data[16:]


def countless_keys(data: bytes) -> bytes:
    return data[:16] + struct.pack("<Q", 1 << 60) + data[24:]


def a_pickle(data: bytes) -> bytes:
    return pickle.dumps({"weights": 1})


def number_of(key: bytes, value: int) -> Callable[[bytes], bytes]:
    """Another value for a 32 bit number of the header."""

    def changed(data: bytes) -> bytes:
        at = data.index(key) + len(key) + 4  # the key, then the type of its value
        return data[:at] + struct.pack("<I", value) + data[at + 4 :]

    return changed


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (cut, "net.gguf"),
        (cut_in_the_header, "net.gguf"),
        (nothing, "net.gguf"),
        (another_magic, "net.gguf"),
        (countless_tensors, "net.gguf"),
        (countless_keys, "net.gguf"),
        (a_pickle, "is a pickle"),
        (number_of(b"llama.block_count", 4_000_000_000), "block_count"),
        (number_of(b"llama.embedding_length", 1 << 31), "embedding_length"),
        (number_of(b"llama.context_length", 0), "context_length"),
    ],
)
def test_hostile_files_are_refused_in_a_sentence(
    tmp_path: Path, tiny: dict[str, Path], corpus: Path, worker: StepWorker, spoil: Any, what: str
) -> None:
    file = tmp_path / "net.gguf"
    file.write_bytes(spoil(tiny["file"].read_bytes()))
    context = step_context(tmp_path / "m", model_config(TASK, GGUF), data=corpus, file=file)
    with pytest.raises(ArtifactError, match=what) as caught:
        worker.run("import_gguf", context)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_links_are_refused(
    tmp_path: Path, tiny: dict[str, Path], corpus: Path, worker: StepWorker, link: str
) -> None:
    (tmp_path / "elsewhere.gguf").write_bytes(tiny["file"].read_bytes())
    getattr(tmp_path / "net.gguf", link)(tmp_path / "elsewhere.gguf")
    given = {"data": corpus, "file": tmp_path / "net.gguf"}
    with pytest.raises(ArtifactError, match="link"):
        worker.run("import_gguf", step_context(tmp_path / "m", model_config(TASK, GGUF), **given))


def test_a_quantized_file_is_refused(
    tmp_path: Path, tiny: dict[str, Path], corpus: Path, worker: StepWorker
) -> None:
    from quantize.gguf_quantize import quantize

    quantize(tiny["file"], tmp_path / "net.gguf", "q8_0")
    given = {"data": corpus, "file": tmp_path / "net.gguf"}
    with pytest.raises(ArtifactError, match="Q8_0: it is quantized"):
        worker.run("import_gguf", step_context(tmp_path / "m", model_config(TASK, GGUF), **given))
