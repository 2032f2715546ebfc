"""Matrix products with constant weights: what the ONNX quantizers work on, found and brought to one form.

Exporters write a linear layer in several ways: as MatMul, as Gemm, and, where a weight is shared (an
embedding table that is also the last layer), as MatMul with the transpose of a constant. Quantizers pass
over some of these in silence, which leaves the largest weight of a model as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from quantize.onnx_graph import copied, replace_nodes, subgraphs

PRODUCTS = ("MatMul", "Gemm")
_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
_STANDARD = ("", "ai.onnx")

Array = npt.NDArray[np.generic]


def constant_products(model: onnx.ModelProto, ops: Collection[str] = PRODUCTS) -> int:
    """How many nodes of the types `ops` have a constant matrix (or more dimensions) of floats as second
    input, subgraphs included."""
    return sum(1 for _ in _weighted(model.graph, frozenset(), frozenset(ops)))


def constant_weights(model: onnx.ModelProto, ops: Collection[str]) -> int:
    """How many numbers the constant second inputs of those nodes hold, a shared one counted once."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    used = {node.input[1] for node in _weighted(model.graph, frozenset(), frozenset(ops))}
    return sum(sizes.get(name, 0) for name in used)


def plain_products(model: onnx.ModelProto, *, keep_gemm: bool = False) -> onnx.ModelProto:
    """A copy of `model` that computes the same, in which a weight behind Identity, Transpose or Constant
    nodes is an initializer, and (unless `keep_gemm`) Gemm with a constant weight is MatMul and Add: the
    factors alpha and beta and the transposition are applied to the constants.

    https://onnx.ai/onnx/operators/onnx__Gemm.html; graphs inside nodes stay as they are.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    workshop = _Workshop(plain.graph)
    nodes: list[onnx.NodeProto] = []
    for node in plain.graph.node:
        if _is(node, PRODUCTS):
            workshop.fold_weight(node)
        if not keep_gemm and _is(node, ("Gemm",)) and node.input[1] in workshop.initializers:
            nodes.extend(workshop.as_matmul(node))
        else:
            nodes.append(node)
    replace_nodes(plain.graph, nodes)
    drop_unused(plain.graph)
    return plain


def drop_unused(graph: onnx.GraphProto) -> None:
    """Removes constants, and nodes that only hand a constant on, that nothing uses any more."""
    while True:
        used = _used(graph)
        idle = [
            node
            for node in graph.node
            if _is(node, ("Identity", "Transpose", "Constant")) and not used & set(node.output)
        ]
        for node in idle:
            graph.node.remove(node)
        if not idle:
            break
    used = _used(graph)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


@dataclass
class _Workshop:
    """Makes constants of one graph out of others. What is made once is shared by all who ask for it."""

    graph: onnx.GraphProto
    initializers: dict[str, onnx.TensorProto] = field(init=False)
    _producers: dict[str, onnx.NodeProto] = field(init=False)
    _names: set[str] = field(init=False)
    _made: dict[tuple[object, ...], str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self._producers = {name: copied(node) for node in self.graph.node for name in node.output}
        self._names = {*self.initializers, *self._producers, *(value.name for value in self.graph.input)}

    def fold_weight(self, node: onnx.NodeProto) -> None:
        """Makes the second input of `node` an initializer, if it is a constant at all."""
        name = node.input[1]
        if name in self.initializers:
            return
        value = self._constant(name)
        if value is not None and value.ndim >= 2:
            node.input[1] = self._add((name, "folded"), f"{name}_folded", value)

    def as_matmul(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """alpha * A' * B' + beta * C of one Gemm by MatMul, Add, and Transpose where A is transposed."""
        options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        alpha, beta = float(options.get("alpha", 1.0)), float(options.get("beta", 1.0))
        first, weight = node.input[0], node.input[1]
        if options.get("transA", 0):
            turned = self._fresh(f"{first}_turned")
            yield helper.make_node("Transpose", [first], [turned], name=part_name(node, "turn"), perm=[1, 0])
            first = turned
        transposed = bool(options.get("transB", 0))
        if transposed or alpha != 1.0:
            value = numpy_helper.to_array(self.initializers[weight])
            scaled = _scaled(value.T if transposed else value, alpha)
            weight = self._add((weight, transposed, alpha), f"{weight}_plain", scaled)
        addend = node.input[2] if len(node.input) > 2 and node.input[2] and beta != 0.0 else None
        product = node.output[0] if addend is None else self._fresh(f"{node.output[0]}_product")
        yield helper.make_node("MatMul", [first, weight], [product], name=node.name)
        if addend is None:
            return
        if beta != 1.0:
            addend, extra = self._times(addend, beta, self.initializers[weight].data_type, node)
            yield from extra
        yield helper.make_node("Add", [product, addend], [node.output[0]], name=part_name(node, "add"))

    def _times(
        self, name: str, factor: float, data_type: int, node: onnx.NodeProto
    ) -> tuple[str, list[onnx.NodeProto]]:
        value = self._constant(name)
        if value is not None:
            return self._add((name, "times", factor), f"{name}_scaled", _scaled(value, factor)), []
        scalar = np.array(factor, helper.tensor_dtype_to_np_dtype(data_type))
        constant = self._add(("factor", factor, data_type), "factor", scalar)
        output = self._fresh(f"{name}_scaled")
        return output, [helper.make_node("Mul", [name, constant], [output], name=part_name(node, "scale"))]

    def _constant(self, name: str) -> Array | None:
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        node = self._producers.get(name)
        if node is None or not _is(node, ("Identity", "Transpose", "Constant")):
            return None
        options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Constant":
            return numpy_helper.to_array(options["value"]) if "value" in options else None
        value = self._constant(node.input[0])
        if value is None or node.op_type == "Identity":
            return value
        return np.transpose(value, options.get("perm"))

    def _add(self, key: tuple[object, ...], name: str, value: Array) -> str:
        if key not in self._made:
            fresh = self._fresh(name)
            tensor = numpy_helper.from_array(np.ascontiguousarray(value), fresh)
            self.graph.initializer.append(tensor)
            self.initializers[fresh] = tensor
            self._made[key] = fresh
        return self._made[key]

    def _fresh(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self._names:
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate)
        return candidate


def _scaled(value: Array, factor: float) -> Array:
    return value if factor == 1.0 else (value * np.asarray(factor, value.dtype)).astype(value.dtype)


def _weighted(graph: onnx.GraphProto, outer: frozenset[str], ops: frozenset[str]) -> Iterator[onnx.NodeProto]:
    matrices = outer | {
        tensor.name for tensor in graph.initializer if len(tensor.dims) >= 2 and tensor.data_type in _FLOATS
    }
    for node in graph.node:
        if _is(node, ops) and len(node.input) > 1 and node.input[1] in matrices:
            yield node
        for nested in subgraphs(node):
            yield from _weighted(nested, matrices, ops)


def part_name(node: onnx.NodeProto, suffix: str) -> str:
    """A name for one of the nodes that take the place of `node`: ONNX Runtime refuses a name that two have,
    but not two nodes without one."""
    return f"{node.name}_{suffix}" if node.name else ""


def _used(graph: onnx.GraphProto) -> set[str]:
    """The names that nodes read, those inside subgraphs too, and the graph's outputs."""
    used = {value.name for value in graph.output}
    for node in graph.node:
        used.update(node.input)
        for nested in subgraphs(node):
            used |= _used(nested)
    return used


def _is(node: onnx.NodeProto, ops: Iterable[str]) -> bool:
    return node.op_type in ops and node.domain in _STANDARD
