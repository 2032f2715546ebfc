"""Behavioural cases: inputs of every kind, and what passes."""

from typing import Any

import numpy as np
import pytest

from edgeops.errors import ConfigError
from toolchain.evaluation.behaviour import case_input, judge_case, share_passed
from toolchain.recipe.evaluation import Behaviour

CLASSES = ("cat", "dog")
COLUMNS = [{"name": "speed"}, {"name": "heat"}]


def contract(dtype: str = "FP32", shape: tuple[int, ...] = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "columns": COLUMNS}


def case(given: Any = None, expect: str = "dog", sure: float = 0.0) -> Behaviour:
    return Behaviour(name="a case", input=given, expect=expect, min_confidence=sure)


def test_inputs_become_one_row() -> None:
    assert case_input(case("woof"), contract("BYTES", ())).tolist() == ["woof"]
    assert case_input(case([1, 2]), contract()).tolist() == [[1.0, 2.0]]
    named = case_input(case({"heat": 7}), contract())
    assert np.isnan(named[0, 0])
    assert named[0, 1] == 7
    assert named.dtype == np.float32


@pytest.mark.parametrize("given", ["text", [1], [[1, 2]], {"cold": 1}, [1, "x"], None])
def test_inputs_that_do_not_fit_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="a case"):
        case_input(case(given), contract())


@pytest.mark.parametrize(
    ("answer", "sure", "passed"),
    [([0.3, 0.7], 0.6, True), ([0.3, 0.7], 0.8, False), ([0.7, 0.3], 0.0, False)],
)
def test_the_class_and_its_confidence_decide(answer: list[float], sure: float, passed: bool) -> None:
    told = judge_case(case(sure=sure), np.array([answer]), CLASSES)
    assert (told.passed, told.expected) == (passed, "dog")
    assert told.confidence == max(answer)


def test_words_are_judged_together() -> None:
    answer = np.array([[[0.9, 0.1], [0.4, 0.6]]])
    told = judge_case(case(expect="cat dog"), answer, CLASSES)
    assert (told.passed, told.got, told.confidence) == (True, "cat dog", 0.6)
    assert not judge_case(case(expect="cat"), answer, CLASSES).passed
    assert not judge_case(case(expect="cat dog dog"), answer, CLASSES).passed


def test_an_expectation_that_is_no_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="eel"):
        judge_case(case(expect="eel"), np.array([[0.5, 0.5]]), CLASSES)


def test_the_share_of_no_cases_is_unknown() -> None:
    told = [judge_case(case(), np.array([[0.2, 0.8]]), CLASSES), judge_case(case(), np.eye(2)[:1], CLASSES)]
    assert share_passed(told) == 0.5
    assert share_passed([]) is None
