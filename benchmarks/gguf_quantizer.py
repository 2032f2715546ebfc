"""GGUF in fewer bits: `quantize.gguf_quantize` against llama.cpp's own `llama-quantize`, bytes and wall time.

The tool does not come with llama-cpp-python. Build it from the sources of the same version (its sdist has
them in vendor/llama.cpp; `cmake --build … --target llama-quantize`), and name it in LLAMA_QUANTIZE.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import Table, paired
from edgeops.canonical import sha256_file
from quantize.gguf_quantize import quantize

THREADS = 2
PRECISIONS = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs")


def run(quick: bool) -> Table:
    """Quantizes a model of random weights to each precision, by the one and by the other in turn."""
    tool = _tool()
    width, layers, runs = (512, 2, 2) if quick else (1024, 8, 5)
    rows = []
    slower_s = 0.0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source, theirs, ours = (root / name for name in ("source.gguf", "theirs.gguf", "ours.gguf"))
        _write_model(source, width, layers)
        for precision in PRECISIONS:
            tool_s, ours_s, more_s = paired(
                partial(_timed_tool, tool, source, theirs, precision),
                partial(_timed_ours, source, ours, precision),
                runs,
            )
            slower_s = max(slower_s, more_s)
            same = sha256_file(theirs) == sha256_file(ours)
            rows.append(
                {
                    "precision": precision,
                    "MB": round(ours.stat().st_size / 1e6, 1),
                    "same bytes": "yes" if same else "no",
                    "llama-quantize s": round(tool_s, 2),
                    "edgeops s": round(ours_s, 2),
                    "edgeops more s": round(more_s, 2),
                }
            )
        size = source.stat().st_size / 1e6
    same_count = sum(row["same bytes"] == "yes" for row in rows)
    return Table(
        key="gguf_quantizer",
        title=f"GGUF quantization of a Llama of {size:,.0f} MB in F16, {THREADS} threads (whole process)",
        columns=tuple(rows[0]),
        rows=tuple(rows),
        command="LLAMA_QUANTIZE=… python -m benchmarks gguf_quantizer",
        aim="the same bytes as llama.cpp's own quantizer, and no more time but a process's start",
        seen=f"the same bytes for {same_count} of {len(rows)} precisions; at most {slower_s:.2f} s more",
        notes=(
            "edgeops checks the file before and after, counts what changed, and has llama.cpp in a child "
            "process with a memory limit; starting that is most of the difference.",
        ),
    )


def missing() -> str | None:
    """What this bench needs and is not here, with the remedy."""
    if Path(_found()).is_file():
        return None
    return "llama-quantize is not here: build it as the head of benchmarks/gguf_quantizer.py says."


def _found() -> str:
    return os.environ.get("LLAMA_QUANTIZE") or shutil.which("llama-quantize") or ""


def _tool() -> Path:
    if (what := missing()) is not None:
        raise SystemExit(what)
    return Path(_found())


def _timed_tool(tool: Path, source: Path, target: Path, precision: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        [str(tool), str(source), str(target), precision, str(THREADS)], check=True, capture_output=True
    )
    return time.perf_counter() - start


def _timed_ours(source: Path, target: Path, precision: str) -> float:
    start = time.perf_counter()
    quantize(source, target, precision, threads=THREADS)
    return time.perf_counter() - start


def _write_model(path: Path, width: int, layers: int) -> None:
    """A Llama of random weights in F16, with a vocabulary of made-up words."""
    import gguf

    tokens, forward, heads = 8192, 4 * width, 8
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(forward)
    writer.add_head_count(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"w{number}" for number in range(tokens)])
    writer.add_token_merges(["w 0"])
    square = (width, width)
    block = {
        "attn_q": square,
        "attn_k": square,
        "attn_v": square,
        "attn_output": square,
        "ffn_gate": (forward, width),
        "ffn_up": (forward, width),
        "ffn_down": (width, forward),
        "attn_norm": (width,),
        "ffn_norm": (width,),
    }
    shapes = {"token_embd": (tokens, width), "output_norm": (width,), "output": (tokens, width)}
    shapes |= {f"blk.{layer}.{name}": shape for layer in range(layers) for name, shape in block.items()}
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(width))
        writer.add_tensor(f"{name}.weight", values.astype(np.float16) if values.ndim > 1 else values + 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
