"""Behavioural cases: this input must give that class (Ribeiro et al., arXiv:2005.04118)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeops.errors import ConfigError
from edgeops.serving.text_tensor import text_array
from toolchain.evaluation.report import BehaviourResult, rounded
from toolchain.handover.arrays import Array
from toolchain.recipe.evaluation import Behaviour


def case_input(case: Behaviour, contract: Mapping[str, Any]) -> Array:
    """The case's input as a batch of one row for the recipe's input (`contract`): text, nested numbers, or a
    mapping of columns, where one that is left out or null is NaN. Raises `ConfigError` if it does not fit."""
    given, shape = case.input, tuple(contract["shape"])
    if contract["dtype"] == "BYTES":
        if not isinstance(given, str):
            raise _unfit(case, "is no text")
        return text_array([given])
    if isinstance(given, Mapping):
        names = [column["name"] for column in contract["columns"]]
        if unknown := sorted(set(given) - set(names)):
            raise _unfit(case, f"has a column {unknown[0]!r}, which the input lacks")
        given = [given.get(name) for name in names]
    try:
        row = np.array(given, dtype=np.float32)  # None becomes NaN
    except (TypeError, ValueError) as error:
        raise _unfit(case, "is no array of numbers") from error
    if row.shape != shape:
        raise _unfit(case, f"has the shape {list(row.shape)}, and a row has {list(shape)}")
    return row[np.newaxis]


def judge_case(case: Behaviour, answer: Array, classes: Sequence[str]) -> BehaviourResult:
    """Whether the answer to the case, of shape (1, classes) or (1, words, classes), is what is expected: one
    class, or one a word, parted by spaces. Raises `ConfigError` if `expect` names no class."""
    expected = [case.expect] if answer.ndim == 2 else case.expect.split(" ")
    for name in expected:
        if name not in classes:
            raise _unfit(case, f"expects {name!r}, which is none of the classes", field="expect")
    values = answer.reshape(-1, answer.shape[-1]).astype(np.float64)
    got = [classes[int(row.argmax())] if row.any() else "" for row in values]
    confidence = rounded(values.max(axis=1).min()) if len(values) else 0.0
    if confidence is None:
        confidence = 0.0  # a NaN is no answer
    return BehaviourResult(
        name=case.name,
        passed=got == expected and confidence >= case.min_confidence,
        expected=" ".join(expected),
        got=" ".join(got),
        confidence=confidence,
        min_confidence=case.min_confidence,
    )


def share_passed(results: Sequence[BehaviourResult]) -> float | None:
    """The share of the cases that passed."""
    return rounded(sum(result.passed for result in results) / len(results)) if results else None


def _unfit(case: Behaviour, what: str, field: str = "input") -> ConfigError:
    return ConfigError(
        f"The {field} of the behaviour {case.name!r} {what}.",
        remedy="Correct the recipe's evaluation.",
        subject=case.name,
    )
