"""Labels: bounded memory of answers, each judged once, and the route's answers to what does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.serving.labels import Label, LabelBook
from edgeops.errors import BadRequestError

CLASSES = ("red", "green")


def test_an_answer_is_judged_once() -> None:
    book = LabelBook(CLASSES)
    book.remember("a", 0)
    book.remember("b", 1)
    assert book.judge(Label("a", "red")) is True
    assert book.judge(Label("b", "red")) is False
    assert book.judge(Label("a", "red")) is None
    assert book.judge(Label("never", "red")) is None


def test_of_two_answers_with_one_id_the_later_counts() -> None:
    book = LabelBook(CLASSES)
    book.remember("a", 0)
    book.remember("a", 1)
    assert book.judge(Label("a", "green")) is True


def test_an_unknown_class_is_the_callers_fault_and_uses_nothing_up() -> None:
    book = LabelBook(CLASSES)
    book.remember("a", 0)
    with pytest.raises(BadRequestError):
        book.judge(Label("a", "purple"))
    assert book.judge(Label("a", "red")) is True


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 8))
def test_the_last_answers_are_remembered_and_no_more(ids: list[int], capacity: int) -> None:
    book = LabelBook(CLASSES, capacity)
    for number in ids:
        book.remember(str(number), 0)
    latest = list(dict.fromkeys(reversed(ids)))
    for number in range(21):
        known = book.judge(Label(str(number), "red")) is not None
        assert known == (number in latest[:capacity])
