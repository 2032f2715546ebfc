"""From a verified slot to something that can answer: digests, engine, self-test, warm-up."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

from device_agent.core.rows import RingMeta, layout_of
from device_agent.serving.predictor import Predictor
from device_agent.telemetry.recorder import RingWriter
from edgeops import clock
from edgeops.bundle import open_file
from edgeops.canonical import sha256_bytes, sha256_stream
from edgeops.engines.base import Engine, load_engine
from edgeops.errors import ArtifactError
from edgeops.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, FileEntry, Manifest
from edgeops.messages import BundleRef
from edgeops.selftest import SelfTestVectors, run_selftest
from edgeops.serving.host import Array

_WARM_UP_RUNS: Final = 32
_WARM_UP_S: Final = 1.0


@dataclass(frozen=True)
class Loaded:
    """A bundle in memory. `load_ms` is what all of it took, `largest_difference` what the self-test saw,
    `run_ms` the median time of one item after warm-up."""

    manifest: Manifest
    predictor: Predictor
    load_ms: float
    largest_difference: float
    run_ms: float


def load(
    slot_dir: Path, bundle: BundleRef, variant_id: str, *, threads: int, ring_path: Path, ring_size_bytes: int
) -> Loaded:
    """Loads one variant from `slot_dir` and makes its ring once it has passed its self-test.

    The control process verified the signature when it installed the slot; here every byte that is about to
    be used is hashed again, by the manifest whose digest is `bundle.digest`. Raises `ArtifactError` (a file
    changed since, the engine refuses it, the self-test fails or is missing) and `ConfigError`.
    """
    began = perf_counter()
    manifest = _manifest(slot_dir, bundle.digest)
    fields = manifest.fields
    if fields.language is not None:
        raise ArtifactError(
            f"{manifest.label} is a language model, and this agent serves tensors and text classifiers.",
            remedy="Let the hub answer for it, or send this device another bundle.",
            subject=MANIFEST_FILE,
        )
    variant = manifest.variant(variant_id)
    for entry in manifest.device_files(variant_id):
        _check(slot_dir, entry)
    if fields.selftest is None:
        raise ArtifactError(
            f"{manifest.label} has no self-test, and nothing serves without one.",
            remedy="Build the bundle again with a self-test.",
            subject=MANIFEST_FILE,
        )
    with open_file(slot_dir, fields.selftest.path) as file:
        vectors = SelfTestVectors.parse(file.read())
    meta = RingMeta.of(manifest, bundle, variant_id, clock.now_ms())
    layout_of(meta.inputs, meta.features)  # refuses impossible features before anything is made
    engine = load_engine(variant, slot_dir, threads=threads)
    difference = run_selftest(vectors, variant_id, fields.selftest, engine.run)
    run_ms = _warm_up(engine, {name: value.array() for name, value in vectors.inputs.items()})
    ring = RingWriter(ring_path, ring_size_bytes, meta)
    predictor = Predictor(engine, manifest, ring)
    return Loaded(manifest, predictor, (perf_counter() - began) * 1000, difference, run_ms)


def _manifest(slot_dir: Path, digest: str) -> Manifest:
    with open_file(slot_dir, MANIFEST_FILE) as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if sha256_bytes(data) != digest:
        raise ArtifactError(
            f"{MANIFEST_FILE} is not the one that was installed.",
            remedy="Remove the slot; the agent fetches the bundle again.",
            subject=MANIFEST_FILE,
        )
    return Manifest.parse(data)


def _check(slot_dir: Path, entry: FileEntry) -> None:
    with open_file(slot_dir, entry.path) as file:
        same_size = os.fstat(file.fileno()).st_size == entry.size_bytes
        if not same_size or sha256_stream(file) != entry.sha256:
            raise ArtifactError(
                f"{entry.path} is not the file that was installed.",
                remedy="Remove the slot; the agent fetches the bundle again.",
                subject=entry.path,
            )


def _warm_up(engine: Engine, inputs: Mapping[str, Array]) -> float:
    """The median time of one item in milliseconds. First runs allocate, so they count least."""
    item = {name: value[:1] if value.ndim else value for name, value in inputs.items()}
    times: list[float] = []
    deadline = perf_counter() + _WARM_UP_S
    while len(times) < _WARM_UP_RUNS and (not times or perf_counter() < deadline):
        start = perf_counter()
        engine.run(item)
        times.append((perf_counter() - start) * 1000)
    return statistics.median(times)
