"""GGUF in fewer bits: the right types, the same bytes every time, and no silence when nothing was done."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgeops.canonical import sha256_file
from edgeops.engines.llama_engine import LlamaEngine
from edgeops.errors import ArtifactError, ConfigError
from edgeops_testkit.gguf_files import HandMade, hand_made
from edgeops_testkit.waiting import wait_until
from quantize.gguf_child import run_llama
from quantize.gguf_quantize import PRECISIONS, quantize

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks, with rows that every precision's blocks divide."""
    made = hand_made(layers=2, width=256, forward=512)
    return made.write(tmp_path_factory.mktemp("source") / "model.gguf")


WANTED = {
    "f16": {"F16": 15},
    "q8_0": {"Q8_0": 15},
    "q6_k": {"Q6_K": 15},
    "q5_k_m": {"Q5_K": 12, "Q6_K": 3},
    "q4_k_m": {"Q4_K": 12, "Q6_K": 3},
    "q4_0": {"Q4_0": 14, "Q6_K": 1},
    "iq4_xs": {"IQ4_XS": 14, "Q6_K": 1},
}


def test_there_is_a_row_for_each_precision() -> None:
    assert set(WANTED) == set(PRECISIONS)


@pytest.mark.parametrize("precision", list(WANTED))
def test_the_matrices_get_the_types_of_the_precision(source: Path, tmp_path: Path, precision: str) -> None:
    target = tmp_path / "out.gguf"
    made = quantize(source, target, precision, threads=2)
    assert made.before == {"F32": 20}
    assert made.after == {"F32": 5, **WANTED[precision]}
    assert made.arguments == {
        "format": "gguf",
        "precision": precision,
        "llama_ftype": PRECISIONS[precision][0],
        "imatrix_sha256": None,
        "fallbacks": 0,
    }
    tokens = list(range(2, 60))
    wanted, got = (LlamaEngine.open(path).logits(tokens) for path in (source, target))
    correlation = np.corrcoef(wanted.ravel(), got.ravel())[0, 1]
    assert correlation > {"f16": 0.9999, "q8_0": 0.999}.get(precision, 0.9)
    assert target.stat().st_size < source.stat().st_size * 0.55


@pytest.mark.parametrize("precision", ["q8_0", "q4_k_m"])
def test_the_bytes_do_not_depend_on_run_threads_or_folder(
    source: Path, tmp_path: Path, precision: str
) -> None:
    digests = set()
    for number, threads in enumerate((1, 2, 3, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "in.gguf").write_bytes(source.read_bytes())
        quantize(folder / "in.gguf", folder / "out.gguf", precision, threads=threads)
        digests.add(sha256_file(folder / "out.gguf"))
        assert sorted(path.name for path in folder.iterdir()) == ["in.gguf", "out.gguf"]
    assert len(digests) == 1


def test_what_is_in_that_precision_already_is_an_error(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "f16.gguf", "f16")
    with pytest.raises(ArtifactError, match="nothing changed") as caught:
        quantize(tmp_path / "f16.gguf", tmp_path / "again.gguf", "f16")
    assert caught.value.details["before"] == caught.value.details["after"] == {"F16": 15, "F32": 5}
    assert not (tmp_path / "again.gguf").exists()


def test_what_is_quantized_already_is_refused(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "q8.gguf", "q8_0")
    with pytest.raises(ArtifactError, match="tensors of type Q8_0"):
        quantize(tmp_path / "q8.gguf", tmp_path / "q4.gguf", "q4_k_m")


def test_rows_that_blocks_do_not_divide_are_counted(tmp_path: Path) -> None:
    path = hand_made(layers=2, width=256, forward=96).write(tmp_path / "model.gguf")
    made = quantize(path, tmp_path / "out.gguf", "q4_k_m")
    assert made.arguments["fallbacks"] == 2  # ffn_down of both blocks
    assert sum(made.after.values()) == 20


def test_a_model_that_mostly_falls_back_is_refused(tmp_path: Path) -> None:
    path = hand_made(layers=2, width=96, forward=96).write(tmp_path / "model.gguf")
    with pytest.raises(ArtifactError, match="15 of 15 matrices have rows that its blocks do not divide"):
        quantize(path, tmp_path / "out.gguf", "q4_k_m")
    assert quantize(path, tmp_path / "out.gguf", "q8_0").after == {"F32": 5, "Q8_0": 15}


def test_rows_that_no_block_divides_stay_as_they_are_and_that_is_refused(tmp_path: Path) -> None:
    path = hand_made(layers=1, width=24, forward=40).write(tmp_path / "model.gguf")
    with pytest.raises(ArtifactError, match=r"Quantizing model\.gguf to q8_0 did not work") as caught:
        quantize(path, tmp_path / "out.gguf", "q8_0")
    assert "Q8_0" not in caught.value.details["after"]


def test_an_unknown_precision_is_the_recipes_fault(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no GGUF precision 'q3_x'"):
        quantize(source, tmp_path / "out.gguf", "q3_x")


def test_a_file_that_is_none_is_refused_before_llama_cpp_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + os.urandom(4096))
    with pytest.raises(ArtifactError) as caught:
        quantize(path, tmp_path / "out.gguf", "q8_0")
    assert caught.value.subject == "model.gguf"


def _with(made: HandMade, name: str, value: float) -> HandMade:
    sizes, kind, data = made.tensors[name]
    values = np.frombuffer(data, "<f4").copy()
    values[7] = value
    made.tensors[name] = (sizes, kind, values.tobytes())
    return made


def test_what_llama_cpp_refuses_says_why(tmp_path: Path) -> None:
    bad = _with(hand_made(width=256, forward=256), "blk.0.attn_q.weight", float("nan"))
    with pytest.raises(ArtifactError, match=r"model\.gguf is refused by llama\.cpp \(.*") as caught:
        quantize(bad.write(tmp_path / "model.gguf"), tmp_path / "out.gguf", "q8_0")
    assert "validat" in str(caught.value) or "invalid" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_memory_beyond_the_limit_is_refused_not_taken(tmp_path: Path) -> None:
    path = hand_made(width=2048, forward=4096).write(tmp_path / "model.gguf")
    with pytest.raises(ArtifactError, match=r"model\.gguf (ends llama\.cpp's process|is refused)"):
        quantize(path, tmp_path / "out.gguf", "q8_0", memory_bytes=96 << 20)
    assert not (tmp_path / "out.gguf").exists()


def test_a_native_abort_ends_the_child_only(tmp_path: Path) -> None:
    # A token twice, which only llama.cpp's own assertion finds when nobody looks before.
    made = hand_made()
    made.keys["tokenizer.ggml.tokens"][1][1][5] = "<|im_end|>"
    request: dict[str, Any] = {"do": "tokenize", "source": str(made.write(tmp_path / "m.gguf")), "texts": []}
    with pytest.raises(ArtifactError, match=r"tokens ends llama\.cpp's process \(Aborted") as caught:
        run_llama(request, subject="tokens")
    assert caught.value.subject == "tokens"


def test_the_child_dies_with_its_parent_in_the_middle_of_its_work(tmp_path: Path) -> None:
    path = hand_made(layers=2, width=1024, forward=4096).write(tmp_path / "model.gguf")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from quantize.gguf_quantize import quantize\n"
        "quantize(Path(sys.argv[1]), Path(sys.argv[2]), 'iq4_xs')\n"
    )
    parent = psutil.Popen([sys.executable, "-c", program, str(path), str(tmp_path / "out.gguf")])
    partial = tmp_path / ".out.gguf.partial"
    wait_until(partial.exists, 60, "the quantizer's file")
    (child,) = parent.children()
    parent.kill()
    parent.wait()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    # The header is written last, so a file without one was not finished.
    assert partial.read_bytes()[:4] != b"GGUF"
    assert not (tmp_path / "out.gguf").exists()
