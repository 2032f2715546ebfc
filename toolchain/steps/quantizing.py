"""What the quantize steps share: their record, and that a quantizer which did not do its work fails as a gate
does: the build ends with the exit status of a failed gate, a report, and nothing signed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from edgeops.errors import ArtifactError, GateError
from quantize.result import Quantized
from toolchain.handover.context import StepContext

QUANTIZATION_FILE = "quantization.json"


def write_record(context: StepContext, done: Quantized, **more: Any) -> None:
    """Writes what the quantizer did: all that is needed to do it again, and the counts before and after."""
    record = {"arguments": done.arguments, "before": done.before, "after": done.after, **more}
    context.write_json(QUANTIZATION_FILE, record)


@contextmanager
def judged(config: Mapping[str, Any]) -> Iterator[None]:
    """Makes a `GateError` of a quantizer's finding that it changed nothing, or not all that it should."""
    try:
        yield
    except ArtifactError as error:
        counts = {name: error.details.get(name) for name in ("before", "after")}
        if None in counts.values():
            raise
        name = f"quantization to {config['precision']} changes what it should"
        gate = {"name": name, "metric": "quantization", "variant": None, "passed": False, **counts}
        raise GateError(
            error.message, remedy=error.remedy, subject=name, details={"gates": [gate], **counts}
        ) from error
