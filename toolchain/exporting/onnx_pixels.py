"""What is put in front of an image model's graph, so that its preprocessing travels with it.

Resizing follows Pillow, which transformers' image processors use, to the last bit but for ties: two passes,
one along rows and one along columns, each a weighted sum of neighbours rounded to whole numbers from 0 to 255
(https://pillow.readthedocs.io/en/stable/handbook/concepts.html#filters). ONNX's Resize differs from that by
up to 18 of 255 on noise. The weights are constants, since the recipe fixes the input's shape; the sums are
Einsum, which no quantizer touches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantize.onnx_graph import replace_nodes
from toolchain.importing.image_processor import Preprocessing

# Keys' parameter, as Pillow has it (R. Keys, Cubic convolution interpolation, 1981).
_CUBIC_A = -0.5


def begin_with_pixels(model: onnx.ModelProto, steps: Preprocessing, name: str, shape: Sequence[int]) -> None:
    """Puts `steps` in front of the graph's one input, which becomes `name`: pixels 0 to 255 of `shape`
    (channels, height, width)."""
    graph = model.graph
    inner = graph.input[0].name
    front = _Front(graph, name)
    if steps.resize is not None:
        front.resize(shape[1], shape[2], steps.resize, steps.resample)
    if steps.crop is not None:
        front.crop(steps.resize or (shape[1], shape[2]), steps.crop)
    # (pixel * scale - mean) / std as one product and one sum of each channel.
    factor = [steps.scale / one for one in steps.std]
    offset = [-m / s for m, s in zip(steps.mean, steps.std, strict=True)]
    front.add("Mul", front.constant("factor", np.array(factor, np.float32).reshape(1, -1, 1, 1)))
    front.add("Add", front.constant("offset", np.array(offset, np.float32).reshape(1, -1, 1, 1)))
    front.nodes[-1].output[0] = inner
    replace_nodes(graph, [*front.nodes, *graph.node])
    graph.ClearField("input")
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]))


def resize_weights(size: int, wanted: int, resample: str) -> npt.NDArray[np.float32]:
    """Which share each of `size` pixels has in each of `wanted`, shape (wanted, size): the filter is as wide
    as the kernel, and wider by as much as the image shrinks. Rows add up to 1."""
    scale = size / wanted
    stretch = max(scale, 1.0)
    reach = {"linear": 1.0, "cubic": 2.0}[resample] * stretch
    weights = np.zeros((wanted, size))
    for row in range(wanted):
        centre = (row + 0.5) * scale
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), size)
        away = np.abs((np.arange(first, last) - centre + 0.5) / stretch)
        weights[row, first:last] = _linear(away) if resample == "linear" else _cubic(away)
    shares: npt.NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def columns_first(height: int, width: int, wanted: tuple[int, int], resample: str) -> bool:
    """Whether Pillow makes the pass along columns first for such an image. Its rule follows the cost, and
    differs between versions, so Pillow itself is asked, with noise, which answers to the order."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    kind = {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}[resample]
    got = np.asarray(Image.fromarray(noise).resize((wanted[1], wanted[0]), kind))
    rows, columns = resize_weights(width, wanted[1], resample), resize_weights(height, wanted[0], resample)
    either = (_rounded(columns @ _rounded(noise @ rows.T)), _rounded(_rounded(columns @ noise) @ rows.T))
    differing = [int(np.count_nonzero(one != got)) for one in either]
    return differing[1] < differing[0]


def _rounded(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    whole: npt.NDArray[np.floating] = np.clip(np.floor(values + np.float32(0.5)), 0, 255)
    return whole


def _linear(away: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.clip(1 - away, 0, None)


def _cubic(away: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    a = _CUBIC_A
    near = ((a + 2) * away - (a + 3)) * away**2 + 1
    far = (((away - 5) * away + 8) * away - 4) * a
    return np.where(away < 1, near, np.where(away < 2, far, 0.0))


class _Front:
    """A chain of nodes, each taking what the one before gives."""

    def __init__(self, graph: onnx.GraphProto, name: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph = graph
        self._value = name

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """A constant of the graph, and its name there."""
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"edgeops/{name}"))
        return f"edgeops/{name}"

    def add(self, op: str, *more: str, **attributes: str) -> None:
        """A node of the value so far and `more`."""
        output = f"edgeops/{len(self.nodes)}/{op.lower()}"
        self.nodes.append(helper.make_node(op, [self._value, *more], [output], name=output, **attributes))
        self._value = output

    def resize(self, height: int, width: int, wanted: tuple[int, int], resample: str) -> None:
        """Both passes. A pass along which nothing changes is left out, as in Pillow."""
        half = self.constant("half", np.array(0.5, np.float32))
        bounds = [self.constant(f"bound_{value}", np.array(value, np.float32)) for value in (0, 255)]
        self._whole(half, bounds)
        passes = [
            ("rows", "bchw,xw->bchx", width, wanted[1]),
            ("columns", "bchw,yh->bcyw", height, wanted[0]),
        ]
        if columns_first(height, width, wanted, resample):
            passes.reverse()
        for name, equation, size, new in passes:
            if size != new:
                weights = self.constant(name, resize_weights(size, new, resample))
                self.add("Einsum", weights, equation=equation)
                self._whole(half, bounds)

    def crop(self, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        """The middle."""
        start = [(whole - part) // 2 for whole, part in zip(size, wanted, strict=True)]
        end = [first + part for first, part in zip(start, wanted, strict=True)]
        names = {"from": start, "to": end, "axes": [2, 3]}
        self.add("Slice", *(self.constant(name, np.array(value, np.int64)) for name, value in names.items()))

    def _whole(self, half: str, bounds: Sequence[str]) -> None:
        """Rounds, halves up, and cuts to what a pixel can be."""
        self.add("Add", half)
        self.add("Floor")
        self.add("Clip", *bounds)
