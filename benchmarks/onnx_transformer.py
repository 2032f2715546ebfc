"""The same small transformer to int8 ONNX by edgeops, Olive and optimum-cli: time, memory, size and quality.

The peers live in an environment of their own, whose folder EDGEOPS_BENCH_PEERS names:

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 olive-ai==0.13.0 onnxruntime==1.31.1 onnx==1.23.2 \\
        transformers==4.57.6 optimum==2.1.0 optimum-onnx==0.1.0
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Table
from benchmarks.memory import PeakMemory
from edgeops.signing.keys import new_key

Array = npt.NDArray[Any]

ROWS, SEED, CALIBRATION, HELD_OUT = 6000, 20260201, 0.15, 0.25
MAX_TOKENS, VOCABULARY = 48, 2000
SAMPLE_S = 0.05
PEERS = "EDGEOPS_BENCH_PEERS"

RECIPE = f"""\
schema_version: "1.0"
name: bench-intents
version: 1.0.0
task: text-classification
description: The benchmark's transformer.
license: CC0-1.0
date: 2026-01-01
data:
  factory: models.intents.data:load
  options: {{rows: {ROWS}, seed: {SEED}, calibration: {CALIBRATION}, held_out: {HELD_OUT}}}
  seed: {SEED}
  calibration: {CALIBRATION}
  held_out: {HELD_OUT}
input: {{name: text, dtype: BYTES, max_characters: 300}}
models:
  model: {{source: huggingface, folder: model}}
variants:
  - {{id: onnx-int8, model: model, precision: int8, scheme: dynamic, memory_budget_mb: 512}}
selftest: {{rows: 6, atol: 0.05}}
gates:
  - {{metric: accuracy, at_least: 0.5}}
"""


@dataclass(frozen=True)
class Made:
    """What one command cost, and the model file that it left."""

    seconds: float
    model: Path


@dataclass
class Bench:
    """One folder with the model, and the rows that nothing was trained on."""

    root: Path
    texts: list[str] = field(default_factory=list)
    labels: Array = field(default_factory=lambda: np.empty(0))
    reference: Array = field(default_factory=lambda: np.empty(0))

    @property
    def model(self) -> Path:
        """The Hugging Face folder."""
        return self.root / "model"


def run(quick: bool) -> Table:
    """Trains the model, then has each tool make it from nothing and again, in turn, and compares."""
    peers = _peers()
    runs = 1 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        _train(bench, epochs=1 if quick else 4)
        key, _ = new_key("builder", bench.root)
        tools: dict[str, Callable[[Path], list[list[str]]]] = {
            "edgeops build": lambda home: _edgeops(bench, home, key),
            "Olive": lambda home: _olive(bench, home, peers),
            "optimum-cli": lambda home: _optimum(bench, home, peers),
        }
        cold: dict[str, list[Made]] = {name: [] for name in tools}
        warm: dict[str, list[Made]] = {name: [] for name in tools}
        peaks_mb: dict[str, float] = {}
        for number in range(runs):  # in turn, so that a machine whose speed drifts does so for all
            for name, commands in tools.items():
                home = bench.root / f"{number}-{name.split()[0].lower()}"
                home.mkdir()
                cold[name].append(_made(commands(home), home))
                warm[name].append(_made(commands(home), home))
        for name, commands in tools.items():
            home = bench.root / f"memory-{name.split()[0].lower()}"
            home.mkdir()
            peaks_mb[name] = _peak_mb(commands(home), home)
        rows = [_row(bench, name, cold[name], warm[name], peaks_mb[name]) for name in tools]
    ours, *others = rows
    fastest_again = min(row["again s"] for row in others)
    fastest_cold = min(row["from nothing s"] for row in others)
    return Table(
        key="onnx_transformer",
        title="A Hugging Face folder to int8 ONNX (BERT, 4 layers of 256, whole processes)",
        columns=tuple(ours),
        rows=rows,
        command=f"{PEERS}=FOLDER python -m benchmarks onnx_transformer",
        aim="again 20 times faster than either, from nothing no slower, quality at this size never worse",
        seen=f"again {fastest_again / ours['again s']:.0f} times faster than the faster one, from nothing "
        f"{ours['from nothing s'] / fastest_cold:.2f} of its time",
        notes=(
            "edgeops build also evaluates, gates, documents and signs; the others export and quantize.",
            "Times are medians of whole commands; memory is the peak of the proportional set sizes of all "
            f"processes of one more command from nothing, sampled every {SAMPLE_S * 1000:.0f} ms.",
            "Accuracy, agreement and distance (mean |Δp| against torch in float32) are over "
            f"{int(ROWS * HELD_OUT)} held-out rows, one at a time in ONNX Runtime.",
            "optimum-cli quantizes for AVX2, per channel; Olive by OnnxDynamicQuantization as it comes.",
        ),
    )


def missing() -> str | None:
    """What this bench needs and is not here, with the remedy."""
    folder = os.environ.get(PEERS)
    if folder and all((Path(folder) / "bin" / tool).exists() for tool in ("olive", "optimum-cli")):
        return None
    return (
        f"{PEERS} names no environment with Olive and optimum-cli: make one as the head of "
        "benchmarks/onnx_transformer.py says."
    )


def _peers() -> Path:
    if (what := missing()) is not None:
        raise SystemExit(what)
    return Path(os.environ[PEERS]) / "bin"


def _edgeops(bench: Bench, home: Path, key: Path) -> list[list[str]]:
    recipe = bench.root / "recipe.yaml"
    recipe.write_text(RECIPE)
    edgeops = str(Path(sys.executable).with_name("edgeops"))
    return [[edgeops, "build", str(recipe), "--out", str(home / "out"), "--key", str(key), "--json"]]


def _olive(bench: Bench, home: Path, peers: Path) -> list[list[str]]:
    config = {
        "input_model": {
            "type": "HfModel",
            "model_path": str(bench.model),
            "task": "text-classification",
        },
        "passes": {
            "convert": {"type": "OnnxConversion", "target_opset": 17},
            "quantize": {"type": "OnnxDynamicQuantization"},
        },
        "evaluate_input_model": False,
        "output_dir": str(home / "out"),
        "cache_dir": str(home / "cache"),
    }
    path = home / "olive.json"
    path.write_text(json.dumps(config))
    return [[str(peers / "olive"), "run", "--config", str(path)]]


def _optimum(bench: Bench, home: Path, peers: Path) -> list[list[str]]:
    optimum, exported = str(peers / "optimum-cli"), str(home / "exported")
    return [
        [optimum, "export", "onnx", "--model", str(bench.model), "--task", "text-classification", exported],
        [
            optimum, "onnxruntime", "quantize", "--avx2", "--per_channel", "--onnx_model", exported,
            "-o", str(home / "out"),
        ],
    ]  # fmt: skip


def _made(commands: list[list[str]], home: Path) -> Made:
    start = time.perf_counter()
    for command in commands:
        _ended_well(command, _started(command, home))
    seconds = time.perf_counter() - start
    models = [path for path in (home / "out").rglob("*.onnx") if path.is_file()]
    if len(models) != 1:
        raise RuntimeError(f"{commands[-1][:2]} left {models}")
    return Made(seconds, models[0])


def _peak_mb(commands: list[list[str]], home: Path) -> float:
    """Apart from the commands that are timed: looking at memory takes time from them."""
    peaks = []
    for command in commands:
        process = _started(command, home)
        with PeakMemory(process.pid, every_s=SAMPLE_S) as memory:
            _ended_well(command, process)
        peaks.append(memory.peak_bytes / 1e6)
    return max(peaks)


def _started(command: list[str], home: Path) -> subprocess.Popen[str]:
    # Without a variable that keeps code from being compiled once and for all, as it is where it is installed.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {
        **kept,
        "EDGEOPS_HOME": str(home / "edgeops"),
        "CI": "1",  # Olive sends telemetry else, and waits for it
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    return subprocess.Popen(
        command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _ended_well(command: list[str], process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{command[:2]} ended with {process.returncode}:\n{output[-2000:]}")


def _row(bench: Bench, name: str, cold: list[Made], warm: list[Made], peak_mb: float) -> dict[str, Any]:
    model = warm[-1].model
    probabilities = _answers(bench, model)
    best = probabilities.argmax(axis=1)
    return {
        "tool": name,
        "from nothing s": round(statistics.median(made.seconds for made in cold), 2),
        "again s": round(statistics.median(made.seconds for made in warm), 2),
        "peak MB": round(peak_mb),
        "model MB": round(_size_bytes(model) / 1e6, 3),
        "accuracy": round(float((best == bench.labels).mean()), 4),
        "agreement": round(float((best == bench.reference.argmax(axis=1)).mean()), 4),
        "distance": round(float(np.abs(probabilities - bench.reference).mean()), 6),
    }


def _size_bytes(model: Path) -> int:
    beside = model.with_name(model.name + ".data")
    return model.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def _answers(bench: Bench, model: Path) -> Array:
    """The probabilities of the held-out rows: one implementation for the three files, whose last step is
    softmax in one and logits in the others."""
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bench.model / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}
    rows = []
    for text in bench.texts:
        encoding = tokenizer.encode(text)
        given: Mapping[str, list[int]] = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        inputs = {name: np.array([given[name]], np.int64) for name in names}
        rows.append(session.run(None, inputs)[0][0])
    answers = np.array(rows)
    if np.allclose(answers.sum(axis=1), 1, atol=1e-3) and answers.min() >= 0:
        return answers
    shifted = np.exp(answers - answers.max(axis=1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def _train(bench: Bench, *, epochs: int) -> None:
    """A BERT on the intents data, by plain torch: what a user would bring."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    from models.dataset import split_rows
    from models.intents.data import load

    data = load(rows=ROWS, seed=SEED, calibration=CALIBRATION, held_out=HELD_OUT)
    split = split_rows(ROWS, seed=SEED, calibration=CALIBRATION, held_out=HELD_OUT)
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    train_texts = [str(text) for text in data.inputs[split.train]]
    tokenizer.train_from_iterator(train_texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=MAX_TOKENS,
    )
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(fast),
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=1024,
            max_position_embeddings=MAX_TOKENS,
            num_labels=len(data.classes),
            id2label=dict(enumerate(data.classes)),
            label2id={name: number for number, name in enumerate(data.classes)},
        )
    )
    encoded = fast(train_texts, padding=True, truncation=True, return_tensors="pt")
    labels = torch.from_numpy(data.labels[split.train])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(64):
            part = {name: values[rows] for name, values in encoded.items()}
            loss = torch.nn.functional.cross_entropy(model(**part).logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    shutil.rmtree(bench.model, ignore_errors=True)
    model.save_pretrained(bench.model)
    fast.save_pretrained(bench.model)
    bench.texts = [str(text) for text in data.inputs[split.held_out]]
    bench.labels = data.labels[split.held_out]
    held_out = fast(bench.texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        bench.reference = torch.softmax(model(**held_out).logits, dim=1).numpy()
