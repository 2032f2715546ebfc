"""`edgeops build --check-reproducible`: builds twice, in surroundings that differ, and compares every byte.

What differs: the folders, the current directory, the user's name and home, the hash seed, locale and time
zone, how many steps run at once, and of course the time. What may differ then is only what was measured.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgeops.bundle import walk
from edgeops.canonical import sha256_file
from edgeops.errors import ArtifactError, EdgeopsError
from edgeops.manifest import MANIFEST_FILE, OUTSIDE_IDENTITY
from edgeops.signing.passphrases import without_secrets
from toolchain.build import BUNDLE_FOLDER
from toolchain.comparing.differences import ABSENT, differences
from toolchain.comparing.rebuild import Reply, Request
from toolchain.running.machine import default_jobs

# Each takes the place of what the user has. "C" is the one locale that every machine has.
_SURROUNDINGS: tuple[dict[str, str], ...] = (
    {"PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8", "TZ": "UTC", "USER": "alice", "LOGNAME": "alice"},
    {"PYTHONHASHSEED": "4711", "LC_ALL": "C", "TZ": "Pacific/Auckland", "USER": "bob", "LOGNAME": "bob"},
)


@contextmanager
def built_twice(
    recipe_file: Path, *, baseline: Path | None = None, lock: Path | None = None, jobs: int | None = None
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Builds the recipe twice without a cache, and gives the unsigned bundle, and the steps that ran, if both
    builds gave the same. The bundle is gone when the block is left.

    Raises `ArtifactError` naming the first file that differs, and what in it, and what a build raises.
    """
    with tempfile.TemporaryDirectory(prefix="edgeops-first-") as first:
        with tempfile.TemporaryDirectory(prefix="edgeops-of-the-second-build-") as second:
            places = (Path(first), Path(second) / "deeper" / "down")
            counts = (jobs or default_jobs(), 1)
            replies = []
            for number, (place, count) in enumerate(zip(places, counts, strict=True)):
                print(f"build  {number + 1} of 2", file=sys.stderr)  # noqa: T201 - what its processes add lines to
                replies.append(_build(recipe_file, place, baseline, lock, count, _SURROUNDINGS[number]))
            bundles = [place / "out" / BUNDLE_FOLDER for place in places]
            check_same(bundles[0], bundles[1])
        yield bundles[0], replies[0].steps_run


def _build(
    recipe_file: Path,
    place: Path,
    baseline: Path | None,
    lock: Path | None,
    jobs: int,
    surroundings: dict[str, str],
) -> Reply:
    for name in ("out", "home", "work", "tmp"):
        (place / name).mkdir(parents=True)
    request = Request(
        recipe=str(recipe_file.absolute()),
        out=str(place / "out"),
        baseline=None if baseline is None else str(baseline.absolute()),
        lock=None if lock is None else str(lock.absolute()),
        jobs=jobs,
    )
    environment = {**without_secrets(dict(os.environ)), **surroundings}
    # The recipe's own code is found by absolute paths, wherever the build runs.
    paths = [
        str(Path(path).absolute()) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path
    ]
    environment |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "EDGEOPS_HOME": str(place / "home"),
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        # Packages that the user installed for themselves stay where they are, though home moves.
        "PYTHONUSERBASE": site.getuserbase(),
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "toolchain.comparing.rebuild", msgspec.json.encode(request).decode()],
        cwd=place / "work",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        stdout, _ = process.communicate()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode != 0:
        raise EdgeopsError(
            f"The process of a build ended with status {process.returncode}.",
            remedy="What it printed tells more; build without --check-reproducible first.",
        )
    reply = msgspec.json.decode(stdout, type=Reply)
    if reply.error is not None:
        raise reply.error.to_error()
    return reply


def check_same(first: Path, second: Path) -> None:
    """Raises `ArtifactError` naming the first file that differs between two unsigned bundles, and the first
    place in it: a JSON field, a tensor of a model, or a byte. What was measured may differ."""
    paths = [_judged(first), _judged(second)]
    for path in sorted(paths[0].keys() | paths[1].keys(), key=_order):
        if paths[0].get(path) != paths[1].get(path):
            missing = [number for number in (0, 1) if path not in paths[number]]
            where = f"only build {2 - missing[0]} has it" if missing else _where(first / path, second / path)
            raise ArtifactError(
                f"The build is not reproducible: {path} differs ({where}).",
                remedy="Look for what depends on time, order, chance or place in the step that writes it.",
                subject=path,
                details={"where": where, "sha256": [paths[number].get(path) for number in (0, 1)]},
            )


def _judged(bundle: Path) -> dict[str, str]:
    return {path: sha256_file(bundle / path) for path in walk(bundle) if path not in OUTSIDE_IDENTITY}


def _order(path: str) -> tuple[int, str]:
    """Causes before what follows from them: documents tell digests of models, the manifest all digests."""
    if path == MANIFEST_FILE:
        return 3, path
    for rank, folder in enumerate(("variants/", "reference/")):
        if path.startswith(folder):
            return rank, path
    return 2, path


def _where(first: Path, second: Path) -> str:
    """What differs first in two files of one name."""
    if first.suffix == ".json":
        old, new = json.loads(first.read_bytes()), json.loads(second.read_bytes())
        for found in differences(old, new):
            return f"at {found.path or 'its top'}: {_short(found.old)} and {_short(found.new)}"
        return "in how its JSON is written"
    tensor = _TENSORS.get(first.suffix, lambda one, other: None)(first, second)
    if tensor is not None:
        return f"at the tensor {tensor}"
    return f"at byte {_first_byte(first, second)}"


def _short(value: Any) -> str:
    text = "nothing" if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"


def _first_byte(first: Path, second: Path) -> int:
    with first.open("rb") as one, second.open("rb") as other:
        start = 0
        while True:
            left, right = one.read(1 << 20), other.read(1 << 20)
            if left != right or not left:
                return start + next(
                    (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
                    min(len(left), len(right)),
                )
            start += len(left)


def _onnx_tensor(first: Path, second: Path) -> str | None:
    import onnx

    graphs = [onnx.load(str(path), load_external_data=False).graph for path in (first, second)]
    tensors = [
        {t.name: t.SerializeToString(deterministic=True) for t in graph.initializer} for graph in graphs
    ]
    return _first_name(*tensors)


def _safetensors_tensor(first: Path, second: Path) -> str | None:
    return _first_name(_safetensors(first), _safetensors(second))


def _safetensors(path: Path) -> dict[str, bytes]:
    # The format (https://github.com/huggingface/safetensors, "Format"): u64 length, JSON header, data. Read
    # by hand, since the library's numpy side has no bfloat16.
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    body = data[8 + size :]
    return {
        name: body[item["data_offsets"][0] : item["data_offsets"][1]]
        for name, item in header.items()
        if name != "__metadata__"
    }


def _gguf_tensor(first: Path, second: Path) -> str | None:
    import gguf

    tensors = [{t.name: t.data.tobytes() for t in gguf.GGUFReader(path).tensors} for path in (first, second)]
    return _first_name(*tensors)


def _first_name(first: dict[str, bytes], second: dict[str, bytes]) -> str | None:
    names = dict.fromkeys([*first, *second])
    return next((name for name in names if first.get(name) != second.get(name)), None)


_TENSORS = {".onnx": _onnx_tensor, ".safetensors": _safetensors_tensor, ".gguf": _gguf_tensor}
