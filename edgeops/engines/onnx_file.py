"""A bounded look at an ONNX file before ONNX Runtime is let at it on behalf of somebody nobody knows.

Field numbers and rules are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; the onnx
package, which devices do not have, is not needed. What is refused here: what is no such file or is cut
short; weights elsewhere than in the model's own folder, or behind links; tensors that claim more data than
there is; graphs nested beyond reason; operators that are not in the standard or in ONNX Runtime; constants
blown up to sizes that no device has. What a graph asks for when it runs is for the process's memory limit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeops.engines.onnx_external import External, check_external
from edgeops.engines.plain_file import plain_file
from edgeops.engines.protobuf_wire import BYTES, FIXED32, VARINT, Field, WireFile, unpacked_run
from edgeops.errors import ArtifactError

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
# A vendor's compiled blob, or a path to one, in an operator's clothes.
REFUSED_OPERATORS = frozenset({"EPContext"})
# protobuf itself ends at 33 graphs, three messages deep each.
MAX_NESTING = 16
MAX_TEXT_BYTES = 4096
# What a constant may be blown up to: 1 GiB of float32.
MAX_MADE_ELEMENTS = 1 << 28
_MAX_SHAPE_ELEMENTS = 64
_INT64 = 7
_STRING = 8

# Bits of an element by TensorProto.DataType; strings have no fixed size.
_BITS: Mapping[int, int] = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128,
    16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
# Fields of a TensorProto that hold its elements one by one, and raw_data. Of packed numbers, one may hold
# up to four elements (2 bit ones).
_TYPED_DATA = frozenset({4, 5, 7, 10, 11})
_STRING_DATA, _RAW_DATA, _EXTERNAL_DATA = 6, 9, 13
_MOST_ELEMENTS_A_BYTE = 4
# Attributes that list numbers may have millions (a forest's thresholds), one field each.
_ATTRIBUTE_RUNS = dict([unpacked_run(7, FIXED32), unpacked_run(8, VARINT)])
# The input whose constant value is a shape, or repeats, of the output.
_SHAPE_INPUT = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}


@dataclass(frozen=True)
class OnnxSummary:
    """What a checked file is: the version of the standard operators it uses (0 if it names none), how often
    each operator occurs (functions and nested graphs included), its inputs without those that only name
    weights, its outputs, and its size in bytes together with the files of `external`, which lie beside it."""

    opset: int
    ops: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    size_bytes: int
    external: tuple[Path, ...]


def check_onnx_file(path: Path, root: Path | None = None, *, allow_links: bool) -> OnnxSummary:
    """Checks the ONNX file at `path`. Its external data must lie in its own folder or below, and, if `root`
    is given, that folder inside `root`. `allow_links` allows symbolic links and files with several names,
    those that lead elsewhere too: only for folders that are the caller's own.

    Raises `ArtifactError` (subject: the file's name) with the reason. Time and memory are bounded whatever
    the file holds: at most `MAX_FIELDS` fields are looked at, and no weight is read.
    """
    if root is not None and not path.parent.resolve().is_relative_to(root.resolve()):
        raise _refused(path.name, f"does not lie inside {root}")
    with plain_file(path, _refused, allow_links=allow_links) as (fd, size_bytes):
        walk = _Walk(WireFile(fd, size_bytes, path.name))
        walk.model()
    external = check_external(path, walk.external, allow_links=allow_links)
    return OnnxSummary(
        opset=walk.opset,
        ops=dict(sorted(walk.ops.items())),
        inputs=tuple(name for name in walk.inputs if name not in walk.weights),
        outputs=tuple(walk.outputs),
        size_bytes=size_bytes + sum(external.values()),
        external=tuple(external),
    )


@dataclass
class _Walk:
    """One pass over a model. Nodes come before weights in a file, so shapes are looked up at the end."""

    file: WireFile
    opset: int = 0
    ops: Counter[str] = field(default_factory=Counter)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    weights: set[str] = field(default_factory=set)
    external: list[External] = field(default_factory=list)
    _domains: set[str] = field(default_factory=set)
    _own_domains: set[str] = field(default_factory=set)
    _shapes: dict[str, int] = field(default_factory=dict)
    _asked: list[tuple[str, str]] = field(default_factory=list)

    def model(self) -> None:
        """ModelProto: 7 graph, 8 opset_import, 20 training_info, 25 functions."""
        graphs = 0
        for part in self.file.fields(0, self.file.size_bytes):
            if part.number == 7:
                graphs += 1
                self._graph(self._message(part), 0, main=True)
            elif part.number == 8:
                self._opset(self._message(part))
            elif part.number == 20:
                raise self.file.refused("holds a training graph, which is not for inference")
            elif part.number == 25:
                self._function(self._message(part))
        if graphs != 1:
            raise self.file.refused(
                "is not an ONNX model: it has " + (f"{graphs} graphs" if graphs else "no graph")
            )
        for domain in self._domains - ALLOWED_DOMAINS - self._own_domains:
            raise self.file.refused(f"uses operators of the domain {domain!r}, which is not allowed here")
        for op, name in self._asked:
            if self._shapes.get(name, 0) > MAX_MADE_ELEMENTS:
                raise self.file.refused(f"makes {self._shapes[name]} elements out of a constant ({op})")

    def _graph(self, message: Field, depth: int, *, main: bool = False) -> None:
        """GraphProto: 1 node, 5 initializer, 11 input, 12 output, 15 sparse_initializer."""
        if depth > MAX_NESTING:
            raise self.file.refused(f"nests graphs deeper than {MAX_NESTING}")
        for part in self.file.fields(message.start, message.end):
            if part.number == 1:
                self._node(self._message(part), depth)
            elif part.number == 5:
                name, product = self._tensor(self._message(part))
                self._shapes[name] = max(product, self._shapes.get(name, 0))
                if main:
                    self.weights.add(name)
            elif part.number == 15:
                self._sparse(self._message(part))
            elif main and part.number in (11, 12):
                names = self.inputs if part.number == 11 else self.outputs
                names.append(self._text_in(self._message(part), 1))

    def _node(self, message: Field, depth: int) -> None:
        """NodeProto: 1 input, 4 op_type, 5 attribute, 7 domain; 2 output names what a Constant makes."""
        op = domain = output = ""
        inputs: list[str] = []
        constant = 0
        for part in self.file.fields(message.start, message.end):
            if part.number == 1 and len(inputs) < 2:
                inputs.append(self._text(part))
            elif part.number == 2 and not output:
                output = self._text(part)
            elif part.number == 4:
                op = self._text(part)
            elif part.number == 5:
                constant = max(constant, self._attribute(self._message(part), depth))
            elif part.number == 7:
                domain = self._text(part)
        if op in REFUSED_OPERATORS:
            raise self.file.refused(f"uses the operator {op}, which is not allowed here")
        self.ops[op] += 1
        self._domains.add(domain)
        if op == "Constant":
            self._shapes[output] = max(constant, self._shapes.get(output, 0))
        position = _SHAPE_INPUT.get(op)
        if position is not None and position < len(inputs):
            self._asked.append((op, inputs[position]))

    def _attribute(self, message: Field, depth: int) -> int:
        """AttributeProto: 5 t, 6 g, 10 tensors, 11 graphs, 22 sparse_tensor, 23 sparse_tensors. Returns the
        product of the numbers in `t`, if they could be a shape."""
        product, seen = 0, set()
        for part in self.file.fields(message.start, message.end, _ATTRIBUTE_RUNS):
            if part.number in (5, 6, 22):
                # A parser merges two, so that neither is what it becomes.
                if part.number in seen:
                    raise self.file.refused("has an attribute with two values")
                seen.add(part.number)
            if part.number in (5, 10):
                product = max(product, self._tensor(self._message(part))[1])
            elif part.number in (6, 11):
                self._graph(self._message(part), depth + 1)
            elif part.number in (22, 23):
                self._sparse(self._message(part))
        return product

    def _function(self, message: Field) -> None:
        """FunctionProto: 7 node, 10 domain. A file's own functions may be of any domain."""
        for part in self.file.fields(message.start, message.end):
            if part.number == 7:
                self._node(self._message(part), 1)
            elif part.number == 10:
                self._own_domains.add(self._text(part))

    def _sparse(self, message: Field) -> None:
        """SparseTensorProto: 1 values, 2 indices, 3 dims. A runtime makes it dense."""
        dims: list[int] = []
        for part in self.file.fields(message.start, message.end):
            if part.number in (1, 2):
                self._tensor(self._message(part))
            elif part.number == 3:
                dims.extend(self.file.numbers(part))
        if self._elements(dims, "a sparse tensor") > MAX_MADE_ELEMENTS:
            raise self.file.refused(f"has a sparse tensor of {math.prod(dims)} elements")

    def _tensor(self, message: Field) -> tuple[str, int]:
        """TensorProto: 1 dims, 2 data_type, 8 name, 14 data_location, and the data. Returns the name, and the
        product of the numbers, if they could be a shape."""
        dims: list[int] = []
        name, kind, located = "", 0, 0
        raw: Field | None = None
        typed: list[Field] = []
        strings = 0
        entries: list[tuple[str, str]] = []
        for part in self.file.fields(message.start, message.end):
            if part.number == 1:
                dims.extend(self.file.numbers(part))
                if len(dims) > _MAX_SHAPE_ELEMENTS:
                    raise self.file.refused(f"has a tensor of more than {_MAX_SHAPE_ELEMENTS} dimensions")
            elif part.number == 2:
                kind = part.value
            elif part.number == 8:
                name = self._text(part)
            elif part.number == 14:
                located = part.value
            elif part.number == _RAW_DATA:
                raw = self._message(part)
            elif part.number == _STRING_DATA:
                strings += 1
            elif part.number in _TYPED_DATA:
                typed.append(part)
            elif part.number == _EXTERNAL_DATA:
                entry = self._message(part)
                entries.append((self._text_in(entry, 1), self._text_in(entry, 2)))
        elements = self._elements(dims, f"the tensor {name!r}")
        if kind == _STRING:
            if strings != elements or raw is not None or located:
                raise self._mismatch(name, elements)
            return name, 0
        if kind not in _BITS:
            raise self.file.refused(f"has a tensor {name!r} of the unknown type {kind}")
        size_bytes = (elements * _BITS[kind] + 7) // 8
        if located:
            self.external.append(External(name, size_bytes, dict(entries)))
        elif raw is not None:
            if raw.end - raw.start != size_bytes:
                raise self._mismatch(name, elements)
        elif elements > _MOST_ELEMENTS_A_BYTE * sum(max(part.end - part.start, 1) for part in typed):
            raise self._mismatch(name, elements)
        if kind == _INT64 and 0 < elements <= _MAX_SHAPE_ELEMENTS:
            return name, self._product(raw, typed)
        return name, 0

    def _product(self, raw: Field | None, typed: list[Field]) -> int:
        if raw is not None:
            data = self.file.read(raw, 8 * _MAX_SHAPE_ELEMENTS)
            values = [int.from_bytes(data[i : i + 8], "little", signed=True) for i in range(0, len(data), 8)]
        else:
            values = [value for part in typed for value in self.file.numbers(part)]
        return math.prod(value for value in values if value > 0)

    def _elements(self, dims: list[int], what: str) -> int:
        if any(size < 0 for size in dims):
            raise self.file.refused(f"has a negative dimension in {what}")
        return math.prod(dims)

    def _opset(self, message: Field) -> None:
        """OperatorSetIdProto: 1 domain, 2 version."""
        domain, version = "", 0
        for part in self.file.fields(message.start, message.end):
            if part.number == 1:
                domain = self._text(part)
            elif part.number == 2:
                version = part.value
        if domain in ("", "ai.onnx"):
            self.opset = max(self.opset, version)

    def _message(self, part: Field) -> Field:
        if part.wire != BYTES:
            raise self.file.refused(
                f"is no ONNX model: field {part.number} at byte {part.start} has no length"
            )
        return part

    def _text(self, part: Field) -> str:
        return self.file.read(self._message(part), MAX_TEXT_BYTES).decode("utf-8", "replace")

    def _text_in(self, message: Field, number: int) -> str:
        texts = [part for part in self.file.fields(message.start, message.end) if part.number == number]
        return self._text(texts[-1]) if texts else ""

    def _mismatch(self, name: str, elements: int) -> ArtifactError:
        return self.file.refused(f"has a tensor {name!r} of {elements} elements, and other data for it")


def _refused(subject: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"{subject} {why}.", remedy="Export the model again, or get it again.", subject=subject
    )
