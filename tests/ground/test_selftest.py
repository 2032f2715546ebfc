"""The self-test: passes what reproduces the build, and refuses everything else."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeops.errors import ArtifactError
from edgeops.manifest import SelfTest
from edgeops.selftest import SelfTestVectors, TensorValue, run_selftest
from edgeops.serving.text_tensor import text_array

Array = npt.NDArray[Any]
POLICY = SelfTest(path="selftest/vectors.json", atol=1e-3, rtol=1e-2)
X = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
VECTORS = SelfTestVectors(
    inputs={"x": TensorValue.of(X)}, expected={"onnx-fp32": {"y": TensorValue.of(X.sum(axis=1))}}
)


def add_up(inputs: Mapping[str, Array], error: float = 0.0) -> dict[str, Array]:
    return {"y": inputs["x"].sum(axis=1) + np.float32(error)}


def test_what_reproduces_the_build_passes() -> None:
    assert run_selftest(VECTORS, "onnx-fp32", POLICY, add_up) == 0.0


def test_the_largest_difference_is_reported() -> None:
    worst = run_selftest(VECTORS, "onnx-fp32", POLICY, lambda inputs: add_up(inputs, 0.02))
    assert worst == pytest.approx(0.02, rel=1e-3)


@given(st.floats(0, 0.25, width=32))
def test_the_tolerance_is_absolute_plus_relative(error: float) -> None:
    # The smallest expected output is 3: there the bound is 0.001 + 0.01 * 3.
    bound = POLICY.atol + POLICY.rtol * 3
    if abs(error - bound) < 1e-5:
        return
    if error < bound:
        assert run_selftest(VECTORS, "onnx-fp32", POLICY, lambda inputs: add_up(inputs, error)) >= 0
    else:
        with pytest.raises(ArtifactError, match="differs"):
            run_selftest(VECTORS, "onnx-fp32", POLICY, lambda inputs: add_up(inputs, error))


@pytest.mark.parametrize(
    ("outputs", "why"),
    [
        ({}, "missing"),
        ({"y": np.zeros((2, 1), np.float32)}, "another shape"),
        ({"y": np.array([3.0, np.nan], np.float32)}, "not finite"),
        ({"y": np.array([3.0, np.inf], np.float32)}, "not finite"),
    ],
)
def test_an_unfit_output_is_refused(outputs: dict[str, Array], why: str) -> None:
    with pytest.raises(ArtifactError, match=why) as caught:
        run_selftest(VECTORS, "onnx-fp32", POLICY, lambda inputs: outputs)
    assert caught.value.subject == "onnx-fp32"


def test_a_variant_without_vectors_never_passes() -> None:
    with pytest.raises(ArtifactError, match="no expected outputs"):
        run_selftest(VECTORS, "onnx-int8", POLICY, add_up)


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.int64, np.uint8]),
        hnp.array_shapes(max_dims=3, max_side=3),
        elements={"allow_nan": False, "allow_infinity": False, "min_value": 0, "max_value": 200},
    )
)
def test_a_tensor_survives_the_round_trip(array: Array) -> None:
    vectors = SelfTestVectors(inputs={"x": TensorValue.of(array)}, expected={})
    back = SelfTestVectors.parse(vectors.to_bytes()).inputs["x"].array()
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


TEXT_VECTORS = SelfTestVectors(
    inputs={"t": TensorValue.of(text_array(["Zürich", "a\0b"]))},
    expected={"onnx-fp32": {"label": TensorValue.of(text_array(["city", "none"]))}},
)


def test_texts_go_in_and_come_out() -> None:
    vectors = SelfTestVectors.parse(TEXT_VECTORS.to_bytes())
    seen: list[Array] = []

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        seen.append(inputs["t"])
        return {"label": text_array(["city", "none"])}

    assert run_selftest(vectors, "onnx-fp32", POLICY, run) == 0.0
    assert seen[0].tolist() == ["Zürich", "a\0b"]


@pytest.mark.parametrize(
    ("label", "why"),
    [
        (text_array(["city", "town"]), "other texts"),
        (np.zeros(2, np.float32), "another shape or kind"),
        (text_array(["city"]), "another shape or kind"),
    ],
)
def test_other_texts_are_refused(label: Array, why: str) -> None:
    with pytest.raises(ArtifactError, match=why):
        run_selftest(TEXT_VECTORS, "onnx-fp32", POLICY, lambda inputs: {"label": label})


def test_a_null_goes_in_as_nan() -> None:
    sent = np.array([[1.0, np.nan]], np.float32)
    vectors = SelfTestVectors(inputs={"x": TensorValue.of(sent)}, expected={})
    np.testing.assert_array_equal(SelfTestVectors.parse(vectors.to_bytes()).inputs["x"].array(), sent)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"inputs": 1, "expected": {}}', b'{"inputs": {"\xff": 1}}']
)
def test_what_is_no_vectors_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        SelfTestVectors.parse(data)


@pytest.mark.parametrize(
    "tensor",
    [
        TensorValue(dtype="float32", shape=(2,), data=[1.0]),
        TensorValue(dtype="float33", shape=(1,), data=[1.0]),
        TensorValue(dtype="uint8", shape=(1,), data=[300.0]),
        TensorValue(dtype="int64", shape=(1,), data=[1e300]),
        TensorValue(dtype="float32", shape=(1,), data=["1.5"]),
        TensorValue(dtype="str", shape=(1,), data=[1.5]),
        TensorValue(dtype="str", shape=(1,), data=[None]),
        TensorValue(dtype="int64", shape=(1,), data=[None]),
        TensorValue(dtype="object", shape=(1,), data=[1.5]),
        TensorValue(dtype="datetime64[s]", shape=(1,), data=[1.5]),
    ],
    ids=["shape", "dtype", "range", "overflow", "text", "number", "null text", "null", "object", "time"],
)
def test_a_tensor_that_contradicts_itself_is_refused(tensor: TensorValue) -> None:
    vectors = SelfTestVectors(inputs={}, expected={"onnx-fp32": {"y": tensor}})
    with pytest.raises(ArtifactError):
        SelfTestVectors.parse(vectors.to_bytes())
