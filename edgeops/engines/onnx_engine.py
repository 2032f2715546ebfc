"""ONNX Runtime behind the engine interface: one session on the CPU provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgeops.engines.refusals import one_line, refused
from edgeops.engines.variant_files import bundle_file, require_version
from edgeops.errors import BadRequestError, ConfigError, InferenceError
from edgeops.manifest import TensorSpec, Variant
from edgeops.serving.host import DTYPES, Array

# https://onnx.ai/onnx/repo-docs/IR.html, "Tensor Element Types", as ONNX Runtime spells them.
_PROTOCOL_DTYPES: Mapping[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

# What one input is checked against: name, dtype, rank, and the fixed dimensions as (axis, size).
_Check = tuple[str, np.dtype[Any], int, tuple[tuple[int, int], ...]]


class OnnxEngine:
    """A loaded ONNX graph. `run` may be called from several threads (an ONNX Runtime session may);
    `close` may not run beside it.

    The answer depends on the file, the inputs, the version of ONNX Runtime and the CPU's instruction
    set alone: one inter-op thread, deterministic kernels, no choice of kernel by measured time.
    """

    def __init__(self, session: Any, variant_id: str, errors: tuple[type[Exception], ...]) -> None:
        self._variant_id = variant_id
        self._inputs = tuple(_spec(node, variant_id) for node in session.get_inputs())
        self._outputs = tuple(_spec(node, variant_id) for node in session.get_outputs())
        self._checks: tuple[_Check, ...] = tuple(_check(spec) for spec in self._inputs)
        self._output_names = [spec.name for spec in self._outputs]
        self._errors = errors
        self._session_run: Callable[..., Sequence[Array]] = session.run

    @classmethod
    def load(cls, variant: Variant, bundle_dir: Path, *, threads: int = 1) -> OnnxEngine:
        """Loads `variant.files[0]`, whose bytes the caller has verified, with `threads` intra-op threads.

        Raises `ArtifactError` (subject: the file) when a file is missing, leads outside `bundle_dir`, or
        is refused by ONNX Runtime, which also refuses external data outside the model's own folder;
        `ConfigError` when ONNX Runtime is missing or older than `variant.runtime.min_version`.
        """
        runtime, errors = _runtime()
        if variant.runtime.engine != "onnxruntime":
            raise refused(variant.id, f"asks for the engine {variant.runtime.engine!r}")
        require_version(variant, runtime.__version__, "ONNX Runtime", "onnxruntime")
        paths = [bundle_file(bundle_dir, entry.path) for entry in variant.files]
        try:
            # enable_fallback=0: else a failure is printed and tried again with another provider.
            session = runtime.InferenceSession(
                str(paths[0]),
                _options(runtime, threads),
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
            )
        except errors as error:
            raise refused(variant.files[0].path, f"is refused by ONNX Runtime ({one_line(error)})") from error
        return cls(session, variant.id, errors)

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The graph's inputs, in order; -1 stands for a free dimension."""
        return self._inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The graph's outputs, in order."""
        return self._outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. The arrays given are read, never kept or changed.

        Raises `BadRequestError` (subject: the input) on a missing or unknown input, a wrong dtype, rank
        or fixed dimension, and on what ONNX Runtime calls an invalid argument (such as an index beyond a
        table, or free dimensions that contradict each other); `InferenceError` on any other failure.
        """
        if len(inputs) != len(self._checks):
            self._refuse(inputs)
        for name, dtype, rank, fixed in self._checks:
            array = inputs.get(name)
            if array is None or array.dtype != dtype or array.ndim != rank:
                self._refuse(inputs)
            shape = array.shape
            for axis, size in fixed:
                if shape[axis] != size:
                    self._refuse(inputs)
        try:
            results = self._session_run(self._output_names, inputs)
        except self._errors as error:
            self._failed(error)
        if len(results) == 1:  # the usual case, without zip's third of a microsecond
            return {self._output_names[0]: results[0]}
        return dict(zip(self._output_names, results, strict=True))

    def close(self) -> None:
        """Frees the session. Later runs raise `InferenceError`."""
        self._session_run = _closed

    def _refuse(self, inputs: Mapping[str, Array]) -> NoReturn:
        for name in inputs:
            if all(name != check[0] for check in self._checks):
                raise BadRequestError(f"The model has no input {name!r}.", subject=name)
        for spec, (name, dtype, rank, fixed) in zip(self._inputs, self._checks, strict=True):
            array = inputs.get(name)
            if array is None:
                raise BadRequestError(f"The input {name!r} is missing.", subject=name)
            if array.dtype != dtype:
                raise BadRequestError(
                    f"The input {name!r} has dtype {array.dtype.name}, and the model wants {spec.dtype}.",
                    subject=name,
                )
            if array.ndim != rank or any(array.shape[axis] != size for axis, size in fixed):
                raise BadRequestError(
                    f"The input {name!r} has shape {list(array.shape)}, and the model wants "
                    f"{list(spec.shape)} (-1: any).",
                    subject=name,
                )
        raise InferenceError("An input changed while it was being checked.")

    def _failed(self, error: Exception) -> NoReturn:
        from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

        if isinstance(error, InvalidArgument):
            raise BadRequestError(
                f"The model cannot take these inputs ({one_line(error)}).", subject=self._variant_id
            ) from error
        raise InferenceError(
            f"The engine failed on variant {self._variant_id!r} ({one_line(error)}).",
            subject=self._variant_id,
        ) from error


def _closed(_names: Sequence[str], _inputs: Mapping[str, Array]) -> NoReturn:
    raise InferenceError("The engine is closed.")


def _runtime() -> tuple[Any, tuple[type[Exception], ...]]:
    """ONNX Runtime and what it raises: exceptions of its own, which have no common base class, and what
    its binding makes of C++ ones."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise ConfigError(
            f"ONNX Runtime cannot be imported ({error}).",
            remedy="Install the onnxruntime package.",
            subject="onnxruntime",
        ) from error
    names = (
        "EPFail EngineError Fail InvalidArgument InvalidGraph InvalidProtobuf ModelLoadCanceled ModelLoaded "
        "ModelRequiresCompilation NoModel NoSuchFile NotFound NotImplemented RuntimeException"
    )
    # Some of these came with later versions.
    own = tuple(getattr(state, name) for name in names.split() if hasattr(state, name))
    return onnxruntime, (*own, RuntimeError, ValueError, MemoryError)


def _options(runtime: Any, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    # The arena keeps what it once took, and one request that asks for too much leaves it holding nearly
    # all memory, so that the next small one fails. Small models run as fast without.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4  # errors come as exceptions; printing them too says them twice
    # Idle threads sleep: spinning takes the cores from the process's neighbours.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _spec(node: Any, variant_id: str) -> TensorSpec:
    dtype = _PROTOCOL_DTYPES.get(node.type)
    if dtype is None:
        raise refused(variant_id, f"has a tensor {node.name!r} of type {node.type}, which cannot be served")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(name=node.name, dtype=dtype, shape=shape)


def _check(spec: TensorSpec) -> _Check:
    fixed = tuple((axis, size) for axis, size in enumerate(spec.shape) if size >= 0)
    return spec.name, DTYPES[spec.dtype], len(spec.shape), fixed
