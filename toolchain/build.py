"""A build: recipe to signed bundle in its folder. The key never enters the processes that run the recipe."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgeops.bundle import VerifiedBundle, verify_bundle
from edgeops.durable import fsync_directory, write_atomic
from edgeops.errors import ArtifactError, ConfigError, GateError
from edgeops.manifest import MANIFEST_FILE
from edgeops.paths import home
from edgeops.signing.keys import PublicKeys, keyring, load_private_key
from toolchain.cache import StepCache
from toolchain.executor import Executor
from toolchain.plan import Plan, Step, make_plan
from toolchain.recipe import Recipe
from toolchain.recipe_file import find_recipe, read_recipe
from toolchain.runner import View, run_plan

BUNDLE_FOLDER = "bundle"
EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"
SIGN = Step(name="sign", module="", meaning="sign the bundle", config={})


@dataclass(frozen=True)
class Built:
    """A finished build. `steps_run` names what had to run, in order; it is empty if nothing changed."""

    path: Path
    digest: str
    variants: tuple[dict[str, Any], ...]
    gates: tuple[dict[str, Any], ...]
    measurements: dict[str, Any]
    remarks: tuple[str, ...]
    steps_run: tuple[str, ...]


def build_recipe(recipe: str, out: Path, key: Path, view: View, *, use_cache: bool = True) -> Built:
    """Builds `recipe` into `out/<name>-<version>/`, signed by the private key in the file `key`.

    Without `use_cache` every step runs, and nothing is kept for later builds. The folder appears, or is
    replaced, in one step; one that holds the same build, signed by the same key, is left as it is.

    Raises `ConfigError` on a recipe or key that cannot be used, `GateError` if a gate fails (then nothing is
    signed, and `out/<name>-<version>.report.json` has every figure), and what else a step raises.
    """
    parsed = read_recipe(find_recipe(recipe))
    keys = keyring([load_private_key(key).public_key()])
    plan = make_plan(parsed, created=_created(parsed))
    _make_folder(out)
    report = out / f"{parsed.label}.report.json"
    with _cache(use_cache) as cache:
        try:
            with Executor() as executor:
                outcome = run_plan(plan, cache, executor, view)
        except GateError as error:
            _write_report(report, plan, error)
            raise
        unsigned = outcome.entries["package"].folder / BUNDLE_FOLDER
        with _locked(out):
            verified = _kept(out / parsed.label, unsigned, keys)
            signed = verified is None
            if verified is None:
                view.started(SIGN, "there is no such bundle, signed by this key, in the folder yet")
                verified = _sign(unsigned, out / parsed.label, key, keys)
                view.finished(SIGN)
            else:
                view.reused(SIGN, "the folder holds this bundle, signed by this key")
            report.unlink(missing_ok=True)  # of an earlier build that failed
    return _built(verified, (*outcome.steps_run, *(["sign"] if signed else [])))


def _created(recipe: Recipe) -> str:
    """The time in the documents: SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch/)
    if set, else the recipe's date. Never the clock: two builds must not differ by when they ran."""
    text = os.environ.get(EPOCH_VARIABLE)
    if text is None:
        return f"{recipe.date.isoformat()}T00:00:00Z"
    try:
        return datetime.fromtimestamp(int(text), tz=UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(
            f"{EPOCH_VARIABLE} is {text!r}, which is no number of seconds since 1970.",
            remedy=f"Correct or unset {EPOCH_VARIABLE}.",
            subject=EPOCH_VARIABLE,
        ) from error


@contextlib.contextmanager
def _cache(use_cache: bool) -> Iterator[StepCache]:
    if use_cache:
        yield StepCache(home().cache / "build")
        return
    with tempfile.TemporaryDirectory(prefix="edgeops-build-") as folder:
        yield StepCache(Path(folder))


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The folder {out} cannot be made ({error.strerror}).",
            remedy="Choose another one with --out.",
            subject=str(out),
        ) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One build at a time puts its bundle into a folder. The kernel frees the lock of a killed one."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _kept(target: Path, unsigned: Path, keys: PublicKeys) -> VerifiedBundle | None:
    """The bundle that is there already, if it is this build, whole, and signed by the key. Its measurements
    may be of an earlier run: they are no part of a bundle's identity."""
    if not target.exists():
        return None
    if not (target / MANIFEST_FILE).exists():
        raise ConfigError(
            f"{target} is there already, and is not a bundle.",
            remedy="Move it away, or choose another folder with --out.",
            subject=str(target),
        )
    try:
        verified = verify_bundle(target, keys)
    except ArtifactError:
        return None  # it is made anew
    same = (target / MANIFEST_FILE).read_bytes() == (unsigned / MANIFEST_FILE).read_bytes()
    return verified if same else None


def _sign(unsigned: Path, target: Path, key: Path, keys: PublicKeys) -> VerifiedBundle:
    # Imported here: signing takes half a second to import, and a build with nothing to sign needs none of it.
    from edgeops.signing.oms import sign_bundle

    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        staging = Path(scratch) / target.name
        shutil.copytree(unsigned, staging)
        sign_bundle(staging, key)
        _sync(staging)
        if target.exists():
            target.rename(Path(scratch) / "replaced")
        staging.rename(target)
        fsync_directory(target.parent)
    return verify_bundle(target, keys)


def _sync(folder: Path) -> None:
    """The rename must not reach the disk before what it names."""
    for path in [folder, *folder.rglob("*")]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _write_report(path: Path, plan: Plan, error: GateError) -> None:
    report = {"bundle": plan.label, "message": error.message, **error.details}
    write_atomic(path, json.dumps(report, indent=2, ensure_ascii=False).encode() + b"\n")
    error.details["report_file"] = str(path)


def _built(bundle: VerifiedBundle, steps_run: tuple[str, ...]) -> Built:
    fields = bundle.manifest.fields
    report = json.loads((bundle.directory / "evaluation" / "report.json").read_bytes())
    measurements = json.loads((bundle.directory / "measurements.json").read_bytes())
    return Built(
        path=bundle.directory,
        digest=bundle.digest,
        variants=tuple(
            {
                "id": variant.id,
                "format": variant.format,
                "precision": variant.precision,
                "target": variant.target,
                "size_bytes": sum(file.size_bytes for file in variant.files),
                "quality": variant.quality,
            }
            for variant in fields.variants
        ),
        gates=tuple(report["gates"]),
        measurements=measurements,
        remarks=tuple(report["remarks"]),
        steps_run=steps_run,
    )
