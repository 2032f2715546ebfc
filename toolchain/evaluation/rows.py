"""Evaluates one variant that answers rows: classifiers and embeddings, of numbers or text, in the engine that
will run it, one row at a time, as devices do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from edgeops.engines.base import Engine
from edgeops.errors import ArtifactError, ConfigError
from edgeops.serving.text_tensor import text_array
from toolchain.evaluation import breakdown, classification, embedding
from toolchain.evaluation.behaviour import case_input, judge_case, share_passed
from toolchain.evaluation.perturbation import mistyped, noisy
from toolchain.evaluation.report import CLASS_SLICE, BehaviourResult, EvaluationResult, Figures, rounded
from toolchain.handover.arrays import Array
from toolchain.recipe.evaluation import Behaviour, Robustness

EMBEDDING = "feature-extraction"
# What one thread is given at a time.
_PART_ROWS = 32


@dataclass(frozen=True)
class Question:
    """What an evaluation is asked: the step's config, and what belongs to the held-out rows. `labels`
    are as in `models.dataset.Dataset`; `source` is what the model itself answers to `inputs`."""

    config: Mapping[str, Any]
    classes: tuple[str, ...]
    inputs: Array
    labels: Array
    source: Array
    attributes: Mapping[str, Array] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return str(self.config["task"])


class Asker:
    """An engine asked one row at a time: dynamic quantization scales a whole batch by one factor, so that a
    row's answer depends on its neighbours. As many rows as there are `processors` are under way at once, each
    in a thread of its own."""

    def __init__(self, engine: Engine, config: Mapping[str, Any], *, processors: int = 1) -> None:
        """The engine's `run` may be called from that many threads. Raises `ArtifactError` if its inputs and
        output are not those of the recipe."""
        self._engine = engine
        self._processors = processors
        self._name, self._output = config["input"]["name"], config["output"]
        check_interface(engine, config)

    def ask(self, batch: Array) -> Array:
        """The answer to one batch, as the engine gives it."""
        return self._engine.run({self._name: batch})[self._output]

    def ask_rows(self, inputs: Array) -> Array:
        """The answers to all rows. Those of one vector a word are filled up with NaN to the longest."""
        with ThreadPoolExecutor(self._processors) as threads:
            parts = threads.map(self._ask_part, _cut(inputs))
            answers = [answer for part in parts for answer in part]
        if answers[0].ndim < 3:
            return np.concatenate(answers)
        words = max(answer.shape[1] for answer in answers)
        filled = np.full((len(answers), words, answers[0].shape[2]), np.nan, dtype=np.float32)
        for number, answer in enumerate(answers):
            filled[number, : answer.shape[1]] = answer[0]
        return filled

    def _ask_part(self, inputs: Array) -> list[Array]:
        return [self.ask(inputs[i : i + 1]) for i in range(len(inputs))]


def _cut(inputs: Array) -> list[Array]:
    """The rows in parts: short ones, so that all threads end at about the same time."""
    return [inputs[begin : begin + _PART_ROWS] for begin in range(0, len(inputs), _PART_ROWS)]


def check_interface(engine: Engine, config: Mapping[str, Any]) -> None:
    """Raises `ArtifactError` if the engine's names, dtypes and shapes are not what the recipe says."""
    contract, rank = config["input"], 3 if config["task"] == "token-classification" else 2
    inputs = [(spec.name, spec.dtype, tuple(spec.shape)) for spec in engine.inputs]
    wanted = [(contract["name"], contract["dtype"], (-1, *contract["shape"]))]
    outputs = [(spec.name, spec.dtype, len(spec.shape)) for spec in engine.outputs]
    if inputs != wanted or outputs != [(config["output"], "FP32", rank)]:
        gives = [(spec.name, spec.dtype, tuple(spec.shape)) for spec in engine.outputs]
        raise ArtifactError(
            f"The model of {config['variant']} takes {inputs} and gives {gives}; the recipe says {wanted} "
            f"and one output {config['output']!r}, FP32 with {rank} axes.",
            remedy="Correct the recipe's input and output, or the model.",
            subject=config["variant"],
        )


def as_inputs(rows: Array) -> Array:
    """Rows from `data.npz` as engines take them: text as an array of objects."""
    return text_array(rows.tolist()) if rows.dtype.kind == "U" else rows


def evaluate(asker: Asker, question: Question, answers: Array, size_bytes: int) -> EvaluationResult:
    """The evaluation of a variant that gave `answers` to the held-out rows. Asks it more: the behavioural
    cases, and the rows with noise."""
    config = question.config
    judge = _embeddings if question.task == EMBEDDING else _classifier
    result = judge(asker, question, answers)
    return msgspec.structs.replace(
        result,
        variant=config["variant"],
        format=config["format"],
        precision=config["precision"],
        size_bytes=size_bytes,
        metrics={**result.metrics, "size_bytes": float(size_bytes)},
        rows=len(question.inputs),
    )


def _classifier(asker: Asker, question: Question, answers: Array) -> EvaluationResult:
    classes, labels = question.classes, question.labels
    items = classification.items_of(answers, labels, classes, question.config["variant"])
    source = classification.items_of(question.source, labels, classes, "The model itself")
    groups = {
        name: breakdown.group(items.right, items.rows, values) for name, values in question.attributes.items()
    }
    behaviours = _behaviours(asker, question)
    robustness = _robust(asker, question)
    robust: Figures | None = None
    if robustness is not None:
        noise = classification.items_of(robustness.answers, labels, classes, question.config["variant"])
        robust = {
            "accuracy": rounded(noise.right.mean()),
            "same_answer": rounded((noise.predicted == items.predicted).mean()),
        }
    metrics = {
        **classification.figures(items, classes),
        **classification.parity(items, source),
        **_common(groups, behaviours, robust),
    }
    return _result(
        metrics=metrics,
        items=len(items.labels),
        classes=classes,
        source=classification.figures(source, classes),
        slices={
            **breakdown.by_class(items, source, classes),
            **breakdown.by_value(items, source, classes, question.attributes),
        },
        groups=groups,
        behaviours=behaviours,
        robustness=None if robust is None or robustness is None else {**robustness.told, **robust},
        confusion=classification.confusion(items, classes),
        reliability=classification.reliability(items),
    )


def _embeddings(asker: Asker, question: Question, answers: Array) -> EvaluationResult:
    if question.config["behaviours"]:
        raise ConfigError(
            "Behavioural cases expect a class, and embeddings have none.",
            remedy="Leave the behaviours out of the recipe's evaluation.",
            subject="behaviours",
        )
    subject = question.config["variant"]
    got = embedding.unit_vectors(answers, subject)
    want = embedding.unit_vectors(question.source, "The model itself")
    judged = embedding.judged_rows(question.labels)
    if not judged.any():
        raise ArtifactError(
            "No two held-out rows belong together, so nothing can be said of their neighbours.",
            remedy="Hold out more rows, or bring more data.",
            subject="labels",
        )
    rows, labels = np.flatnonzero(judged), question.labels[judged]
    right = embedding.neighbours_right(got, got, question.labels)[judged]
    same = embedding.same_neighbours(got, want)
    groups = {name: breakdown.group(right, rows, values) for name, values in question.attributes.items()}
    robustness = _robust(asker, question)
    robust: Figures | None = None
    if robustness is not None:
        noise = embedding.unit_vectors(robustness.answers, subject)
        robust = {
            "accuracy": rounded(embedding.neighbours_right(noise, got, question.labels)[judged].mean()),
            "cosine_min": embedding.parity(noise, got)["cosine_min"],
        }

    def told(chosen: Array) -> Figures:
        parts = got[rows[chosen]], want[rows[chosen]]
        return {
            "neighbour_accuracy": rounded(right[chosen].mean()),
            "parity_agreement": rounded(same[rows[chosen]].mean()),
            **embedding.row_parity(*parts),
        }

    slices = {
        f"{CLASS_SLICE}{question.classes[label]}": {
            "rows": int((labels == label).sum()),
            **told(labels == label),
        }
        for label in sorted(set(labels.tolist()))
    }
    slices |= breakdown.slices_of(question.attributes, rows, told)
    return _result(
        metrics={
            "neighbour_accuracy": rounded(right.mean()),
            **embedding.parity(got, want),
            **_common(groups, (), robust),
        },
        items=len(rows),
        dimensions=answers.shape[1],
        source={
            "neighbour_accuracy": rounded(
                embedding.neighbours_right(want, want, question.labels)[judged].mean()
            )
        },
        slices=slices,
        groups=groups,
        robustness=None if robust is None or robustness is None else {**robustness.told, **robust},
    )


def _result(**fields: Any) -> EvaluationResult:
    """An evaluation whose variant `evaluate` names."""
    return EvaluationResult(variant="", format="", precision="", size_bytes=0, **fields)


def _common(
    groups: Mapping[str, Any], behaviours: Sequence[BehaviourResult], robust: Figures | None
) -> Figures:
    metrics: Figures = {}
    if groups:
        metrics["group_gap"] = breakdown.largest_gap(groups)
    if behaviours:
        metrics["behaviours_passed"] = share_passed(behaviours)
    if robust is not None:
        metrics["robust_accuracy"] = robust["accuracy"]
    return metrics


def _behaviours(asker: Asker, question: Question) -> tuple[BehaviourResult, ...]:
    cases = msgspec.convert(question.config["behaviours"], tuple[Behaviour, ...])
    return tuple(
        judge_case(case, asker.ask(case_input(case, question.config["input"])), question.classes)
        for case in cases
    )


@dataclass(frozen=True)
class _Noise:
    """The answers to the noisy rows, and what the noise was."""

    answers: Array
    told: dict[str, float | int | None]


def _robust(asker: Asker, question: Question) -> _Noise | None:
    if question.config["robustness"] is None:
        return None
    noise = msgspec.convert(question.config["robustness"], Robustness)
    contract = question.config["input"]
    text = contract["dtype"] == "BYTES"
    strength = noise.typo_rate if text else noise.noise_std
    if strength is None:
        wanted = "typo_rate, since the input is text" if text else "noise_std, since the input is numbers"
        raise ConfigError(
            f"The recipe's robustness lacks {wanted}.",
            remedy="Correct the recipe's evaluation.",
            subject="robustness",
        )
    if text:
        inputs = mistyped(question.inputs, seed=noise.seed, rate=strength)
    else:
        inputs = noisy(question.inputs, contract, seed=noise.seed, std=strength)
    name = "typo_rate" if text else "noise_std"
    return _Noise(asker.ask_rows(inputs), {"seed": noise.seed, name: strength})
