"""One run of a Hugging Face text classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgeops.engines.tokenizer import TOKENIZER_FILE, TextTokenizer
from toolchain.evaluation.parting import load_choosing_part
from toolchain.handover.arrays import Array, load_part
from toolchain.importing.transformer import load_model, load_tokenizer
from toolchain.training.hidden import Learner
from toolchain.training.huggingface import make_model, save_folder
from toolchain.training.job import TrainingJob
from toolchain.training.machine import Machine
from toolchain.training.modules import count_parameters, make_deterministic
from toolchain.training.objectives import Taught, accuracy, taught
from toolchain.training.processes import Progress
from toolchain.training.selection import kept_rows


@dataclass(frozen=True)
class TokenRows:
    """Texts as tokens: int64 `ids` and `mask` of shape (texts, tokens of the longest)."""

    ids: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, texts: Sequence[str], folder: Path, device: torch.device) -> TokenRows:
        """By the `tokenizer.json` in `folder`, cut where it says: as devices do it."""
        batch = TextTokenizer.load(folder / TOKENIZER_FILE).encode_batch(texts)
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        return cls(ids.to(device), mask.to(device))

    def forward(self, module: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        """The module's logits for some rows, of shape (rows, classes)."""
        mask = self.counted(rows).long()
        answer = module(input_ids=self.ids[rows, : mask.shape[1]], attention_mask=mask)
        logits: torch.Tensor = answer.logits
        return logits

    def counted(self, rows: torch.Tensor) -> torch.Tensor:
        """The mask of some rows, as wide as the longest of them."""
        mask = self.mask[rows]
        return mask[:, : int(mask.sum(dim=1).max())] != 0


def run_text(job: TrainingJob, machine: Machine, progress: Progress) -> None:
    """Trains one model for one seed. Writes `model/`, a Hugging Face folder, and `training.json` with the
    accuracy on the held-out rows, which is told and never chosen by, and that on the calibration rows that
    choose (see toolchain/evaluation/parting.py)."""
    make_deterministic()
    device = machine.device
    tokenizer_folder = job.inputs["tokenizer"] / "tokenizer"
    tokenizer = load_tokenizer(tokenizer_folder)
    texts, labels = load_part(job.inputs["data"], "train")
    classes = job.read_classes()
    keep = kept_rows(labels, job.model["class_share"], classes)
    rows = TokenRows.of(texts[keep].tolist(), tokenizer_folder, device)
    y = torch.from_numpy(labels[keep]).to(device)
    objective = Taught(len(y), rows.forward, lambda numbers: y[numbers], device)
    model = make_model(
        job.model, tokenizer=tokenizer, task=job.config["task"], classes=classes, seed=job.seed
    )
    learner = Learner(model)
    if job.distillation is not None:
        learner = taught(
            model,
            objective,
            teacher=load_model(job.teacher, job.config["task"]),
            # The teacher reads the same texts by its own tokenizer.
            teacher_forward=TokenRows.of(texts[keep].tolist(), job.teacher, device).forward,
            distillation=job.distillation,
            remembered=True,
            counted=rows.counted,
            seed=job.seed,
        )
    job.fit(learner, objective, machine, progress)
    if not machine.is_first:
        return
    save_folder(model, tokenizer, job.model_folder)

    def accuracy_on(texts: Array, truth: Array) -> float:
        rows = TokenRows.of(texts.tolist(), tokenizer_folder, device)
        return round(accuracy(model, rows.forward, truth, device), 6)

    job.report(
        {
            "parameters": count_parameters(model),
            "train_rows": objective.rows,
            "accuracy": accuracy_on(*load_part(job.inputs["data"], "held_out")),
            "calibration_accuracy": accuracy_on(*load_choosing_part(job.inputs["data"])),
        }
    )
