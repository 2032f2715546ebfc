"""Small training jobs: data, a step's config, a place to train, and a process that trains until it is
killed."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgeops.canonical import canonical_json
from toolchain.handover.arrays import CORPUS_FILE, DATA_FILE, save_arrays
from toolchain.training.job import TrainingJob

CLASSES = ("a", "b", "c")
FEATURES = 6
WORDS = ("pump", "fan", "light", "door", "stop", "start", "hot", "cold")


def network(*, hidden: int, dropout: float = 0.0) -> nn.Module:
    """A factory: rows of six numbers to three logits."""
    return nn.Sequential(
        nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, len(CLASSES))
    )


def bert(*, tokenizer: Any, classes: tuple[str, ...], layers: int = 1, width: int = 16) -> nn.Module:
    """A factory: a BERT as small as it can be."""
    from models.intents.network import bert as make

    return make(tokenizer=tokenizer, classes=classes, layers=layers, width=width, heads=2)


def llama(*, tokenizer: Any, layers: int = 1, width: int = 16) -> nn.Module:
    """A factory: a Llama as small as it can be."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        )
    )


@dataclass(frozen=True)
class TrainingGround:
    """A folder with data, and in time with a tokenizer and a teacher, on which small jobs train."""

    folder: Path

    def with_rows(self, *, rows: int = 90) -> TrainingGround:
        """Points around a place for each class."""
        rng = np.random.default_rng(5)
        labels = np.arange(rows, dtype=np.int64) % len(CLASSES)
        inputs = (3 * np.eye(FEATURES)[labels] + rng.normal(size=(rows, FEATURES))).astype(np.float32)
        return self._with(inputs, labels)

    def with_texts(self, *, rows: int = 60) -> TrainingGround:
        """Sentences with a word for each class."""
        rng = np.random.default_rng(6)
        labels = np.arange(rows, dtype=np.int64) % len(CLASSES)
        texts = [
            " ".join([WORDS[label], *rng.choice(WORDS[3:], 1 + row % 4)]) for row, label in enumerate(labels)
        ]
        return self._with(np.array(texts), labels)

    def with_documents(self, *, count: int = 40) -> TrainingGround:
        """Sentences of a few words."""
        rng = np.random.default_rng(7)
        texts = [" ".join(rng.choice(WORDS, 12)) for _ in range(count)]
        half = count // 2
        parts = {"train": texts[:half], "calibration": texts[half:-5], "held_out": texts[-5:] * 2}
        data = self.folder / "data"
        data.mkdir()
        (data / CORPUS_FILE).write_bytes(canonical_json(parts))
        (data / "data.json").write_bytes(canonical_json({"classes": []}))
        return self

    def with_tokenizer(self, *, generates: bool) -> TrainingGround:
        """A tokenizer trained on these words."""
        from toolchain.training.vocabulary import train_tokenizer

        texts = [" ".join(WORDS)] * 3
        folder = self.folder / "tokenizer" / "tokenizer"
        train_tokenizer(
            texts, folder, vocabulary_size=290, max_tokens=16, generates=generates, chat=generates
        )
        return self

    def job(
        self,
        name: str,
        factory: str,
        options: Mapping[str, Any],
        *,
        task: str = "tabular-classification",
        seed: int = 1,
        teacher: str | None = None,
        every_s: float = 1e9,
        training: Mapping[str, Any] | None = None,
        **distillation: Any,
    ) -> TrainingJob:
        """A job that trains into the folder of that name; `teacher` names the folder of another job."""
        out, checkpoints = self.folder / name, self.folder / f"{name}-checkpoints"
        out.mkdir(exist_ok=True)
        checkpoints.mkdir(exist_ok=True)
        source = "python" if factory == "network" else "huggingface"
        model = {
            "source": source,
            "factory": f"{__name__}:{factory}",
            "options": dict(options),
            "class_share": {},
            "training": {
                "batch_size": 8,
                "learning_rate": 0.01,
                "weight_decay": 0.0,
                "epochs": None,
                "steps": None,
                "context_tokens": None,
                "device": "cpu",
                **(training or {"epochs": 2}),
            },
        }
        learns = {"temperature": 2.0, "alpha": 0.5, "hidden": None, "sequence": None, **distillation}
        inputs = {role: self.folder / role for role in ("data", "tokenizer")}
        taught: dict[str, Any] = {"distillation": None, "teacher": None}
        if teacher is not None:
            inputs["teacher"] = self.folder / teacher
            options_of_teacher = json.loads((self.folder / f"{teacher}.json").read_bytes())
            taught = {"distillation": learns, "teacher": options_of_teacher}
        (self.folder / f"{name}.json").write_bytes(canonical_json(model))
        config = {"model": model, "task": task, "seed": seed, **taught}
        return TrainingJob(config, inputs, out, checkpoints, checkpoint_every_s=every_s)

    def _with(self, inputs: Any, labels: Any) -> TrainingGround:
        parts = {"train": slice(0, -30), "calibration": slice(-30, -15), "held_out": slice(-15, None)}
        arrays = {f"{name}_inputs": inputs[part] for name, part in parts.items()}
        arrays |= {f"{name}_labels": labels[part] for name, part in parts.items()}
        data = self.folder / "data"
        data.mkdir()
        save_arrays(data / DATA_FILE, arrays)
        (data / "data.json").write_bytes(canonical_json({"classes": list(CLASSES)}))
        return self


def weights_of(job: TrainingJob) -> bytes:
    """The trained weights as they lie on the disk."""
    (path,) = (job.out / "model").glob("*.safetensors")
    return path.read_bytes()


def start_training(job: TrainingJob, run: str) -> subprocess.Popen[str]:
    """A process that trains by `module:function` and prints a line at each step that it reports."""
    written = {
        "config": job.config,
        "inputs": {role: str(path) for role, path in job.inputs.items()},
        "out": str(job.out),
        "checkpoints": str(job.checkpoints),
        "checkpoint_every_s": job.checkpoint_every_s,
    }
    path = job.out.with_suffix(".job.json")
    path.write_text(json.dumps(written))
    here = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-m", __name__, str(path), run],
        stdout=subprocess.PIPE,
        text=True,
        cwd=here.parent,
        env={**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"},
    )


def main() -> None:
    """Trains the job in the file that the first argument names, by the function in the second."""
    from toolchain.training.machine import single_machine

    written = json.loads(Path(sys.argv[1]).read_bytes())
    job = TrainingJob(
        written["config"],
        {role: Path(path) for role, path in written["inputs"].items()},
        Path(written["out"]),
        Path(written["checkpoints"]),
        written["checkpoint_every_s"],
    )
    module, _, name = sys.argv[2].partition(":")
    run = getattr(importlib.import_module(module), name)
    run(job, single_machine("cpu"), lambda _share, note: print(note, flush=True))


if __name__ == "__main__":
    main()
