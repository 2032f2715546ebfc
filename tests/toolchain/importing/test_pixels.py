"""Image preprocessing in the graph against transformers' own processors, which work by Pillow."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgeops.errors import ArtifactError
from toolchain.exporting.onnx_pixels import begin_with_pixels, resize_weights
from toolchain.importing.image_processor import load_processor, preprocessing

pytestmark = pytest.mark.slow


def in_the_graph(processor: Any, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import onnxruntime

    free = ["batch", 3, None, None]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["pixel_values"], ["out"])],
        "g",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, free)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, free)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    begin_with_pixels(model, preprocessing(processor, image.shape), "image", image.shape)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    result: np.ndarray[Any, Any] = session.run(None, {"image": image[None].astype(np.float32)})[0][0]
    return result


def by_transformers(processor: Any, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    given = processor(image, input_data_format="channels_first", return_tensors="np")
    result: np.ndarray[Any, Any] = given["pixel_values"][0]
    return result


def noise(height: int, width: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (3, height, width)).astype(np.uint8)


@pytest.mark.parametrize("resample", [2, 3], ids=["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(16, 16, 12), (64, 48, 20), (48, 64, 100), (100, 67, 45), (150, 100, 112), (20, 20, 20), (31, 31, 64)],
)
def test_resized_pixels_are_pillows(height: int, width: int, size: int, resample: int) -> None:
    import transformers

    processor = transformers.ViTImageProcessor(
        size={"height": size, "width": size},
        resample=resample,
        rescale_factor=1.0,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )
    image = noise(height, width)
    away = np.abs(in_the_graph(processor, image) - by_transformers(processor, image))
    assert away.max() <= 2.01, "a tie may be rounded to the other side, in each of the two passes"
    assert (away > 1.01).mean() < 1e-3
    assert (away > 0.01).mean() < 0.05


@pytest.mark.parametrize(("height", "width"), [(40, 56), (56, 40), (32, 32), (33, 80)])
def test_shortest_edge_crop_and_scale_are_transformers(height: int, width: int) -> None:
    import transformers

    processor = transformers.BitImageProcessor(
        size={"shortest_edge": 32},
        crop_size={"height": 24, "width": 24},
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.25, 0.3],
    )
    image = noise(height, width)
    got, wanted = in_the_graph(processor, image), by_transformers(processor, image)
    assert got.shape == wanted.shape == (3, 24, 24)
    one_level = 1.01 / 255 / 0.2
    assert np.abs(got - wanted).max() <= one_level
    assert (np.abs(got - wanted) > 1e-4).mean() < 0.05


@pytest.mark.parametrize(("edge", "height", "width"), [(28, 40, 56), (28, 56, 40), (384, 20, 33)])
def test_a_square_is_cut_out_as_for_convnext_and_resnet(edge: int, height: int, width: int) -> None:
    import transformers

    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": edge})
    image = noise(height, width)
    got, wanted = in_the_graph(processor, image), by_transformers(processor, image)
    assert got.shape == wanted.shape == (3, edge, edge)
    # Each of the two passes rounds to whole levels, and a tie may be rounded to the other side.
    assert np.abs(got - wanted).max() <= 2.01 / 255 / min(processor.image_std)
    assert (np.abs(got - wanted) > 1e-4).mean() < 0.05


@pytest.mark.parametrize("resample", ["linear", "cubic"])
@pytest.mark.parametrize(("size", "wanted"), [(7, 3), (3, 7), (9, 9), (1, 4)])
def test_weights_add_up_to_one_and_keep_an_even_image(size: int, wanted: int, resample: str) -> None:
    weights = resize_weights(size, wanted, resample)
    assert weights.shape == (wanted, size)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert np.allclose(weights, weights[::-1, ::-1], atol=1e-6), "mirrored images give mirrored results"


@pytest.mark.parametrize(
    ("kind", "options", "shape", "what"),
    [
        ("EfficientNetImageProcessor", {}, (3, 32, 32), "EfficientNetImageProcessor, which cannot be put"),
        ("ViTImageProcessor", {"resample": 1}, (3, 32, 32), "resamples by filter 1"),
        ("ViTImageProcessor", {}, (1, 32, 32), "is for RGB images"),
        (
            "BitImageProcessor",
            {"size": {"shortest_edge": 8}, "crop_size": {"height": 24, "width": 24}},
            (3, 32, 32),
            "larger than the image",
        ),
    ],
)
def test_what_the_graph_cannot_do_is_refused(
    tmp_path: Path, kind: str, options: dict[str, Any], shape: tuple[int, ...], what: str
) -> None:
    import transformers

    getattr(transformers, kind)(**options).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match=what):
        preprocessing(load_processor(tmp_path), shape)
