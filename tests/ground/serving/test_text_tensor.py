"""Texts as bytes, the way Triton's clients write them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from edgeops.serving.text_tensor import pack_texts, text_array, unpack_texts

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=6)


@given(TEXTS)
def test_they_come_back_as_they_were(texts: list[str]) -> None:
    array = text_array(texts)
    back = unpack_texts(pack_texts(array), array.shape)
    assert back.dtype == object
    assert back.tolist() == texts


@given(TEXTS.filter(bool))
def test_tritons_own_code_reads_and_writes_the_same(texts: list[str]) -> None:
    array = text_array(texts)
    assert deserialize_bytes_tensor(pack_texts(array)).tolist() == [text.encode() for text in texts]
    assert pack_texts(array) == serialize_byte_tensor(array).item()


def test_elements_are_in_row_major_order() -> None:
    array = text_array(["a", "b", "c", "d"], (2, 2))
    assert array.tolist() == [["a", "b"], ["c", "d"]]
    assert unpack_texts(pack_texts(array.T), (2, 2)).tolist() == [["a", "c"], ["b", "d"]]


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (b"", (1,)),
        (b"\0\0\0\0", (0,)),
        (b"\0\0\0\0" * 3, (2,)),
        (b"\0\0\0", (1,)),
        (b"\x02\0\0\0a", (1,)),
        (b"\xff\xff\xff\xff", (1,)),
        (b"\x01\0\0\0\xff", (1,)),
    ],
)
def test_what_does_not_hold_the_elements_is_refused(data: bytes, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        unpack_texts(data, shape)


@given(st.binary(max_size=40), st.integers(0, 4))
def test_any_bytes_give_an_array_of_that_shape_or_are_refused(data: bytes, count: int) -> None:
    try:
        array = unpack_texts(data, (count,))
    except ValueError:
        return
    assert array.shape == (count,)
    assert pack_texts(array) == data


def test_what_is_no_text_cannot_be_packed() -> None:
    with pytest.raises(TypeError):
        pack_texts(np.array([b"bytes"], object))
    with pytest.raises(ValueError):
        pack_texts(text_array(["\ud800"]))
