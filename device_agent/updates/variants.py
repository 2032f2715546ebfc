"""Which variant of a bundle this device can run. No engine is imported to find out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgeops.engines.tokenizer import TOKENIZER_FILE
from edgeops.errors import ArtifactError
from edgeops.manifest import Manifest, Variant

# Engines that this agent can load, and the distributions that bring them.
ENGINES: Mapping[str, tuple[str, ...]] = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}
# What a variant with a tokenizer needs besides.
_TOKENIZERS = "tokenizers"
_CPUINFO = Path("/proc/cpuinfo")


def choose_variant(manifest: Manifest, memory_bytes: int) -> Variant:
    """The first device variant, in the builder's order, whose engine is installed in a version that is new
    enough, whose instruction sets this machine has, and which needs at most `memory_bytes`.

    Raises `ArtifactError` that says of each variant why it does not fit; a language model has none that does.
    """
    if manifest.fields.language is not None:
        raise ArtifactError(
            f"{manifest.label} is a language model, and this agent serves tensors and text classifiers.",
            remedy="Let the hub answer for it, or send this device another bundle.",
            subject=manifest.label,
        )
    reasons = {}
    for variant in manifest.variants_for("device"):
        reason = why_not(variant, memory_bytes)
        if reason is None:
            return variant
        reasons[variant.id] = reason
    told = "; ".join(f"{name} {reason}" for name, reason in reasons.items()) or "it has none for devices"
    raise ArtifactError(
        f"No variant of {manifest.label} fits this device: {told}.",
        remedy="Build a variant for this kind of device, or install what is missing.",
        subject=manifest.label,
        details={"variants": reasons},
    )


def why_not(variant: Variant, memory_bytes: int) -> str | None:
    """Why a variant cannot run here, or None if it can."""
    runtime = variant.runtime
    if runtime.engine not in ENGINES:
        return f"is for {runtime.engine}, which this agent does not run"
    installed = _installed(runtime.engine)
    if installed is None:
        return f"needs {runtime.engine}, which is not installed"
    if _release(installed) < _release(runtime.min_version):
        return f"needs {runtime.engine} {runtime.min_version}, and {installed} is installed"
    if variant.beside(TOKENIZER_FILE) is not None and _version_of(_TOKENIZERS) is None:
        return f"needs {_TOKENIZERS}, which is not installed (pip install 'edgeops[text]')"
    missing = sorted(set(runtime.instruction_sets) - _instruction_sets())
    if missing:
        return f"needs the instruction sets {', '.join(missing)}"
    if variant.memory_bytes > memory_bytes:
        return f"needs {variant.memory_bytes} bytes of memory, and a serving process may have {memory_bytes}"
    return None


def _installed(engine: str) -> str | None:
    found = (_version_of(distribution) for distribution in ENGINES[engine])
    return next((installed for installed in found if installed is not None), None)


def _version_of(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _release(text: str) -> tuple[int, ...]:
    """A version's release numbers (PEP 440), enough to tell newer from older: `1.20.1rc1` is (1, 20, 1)."""
    match = re.match(r"\d+(\.\d+)*", text)
    numbers = [int(part) for part in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _instruction_sets() -> set[str]:
    """What the first processor's `flags` (x86) or `Features` (ARM) line says; empty where there is none."""
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return set()
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return set(match.group(1).split()) if match else set()
