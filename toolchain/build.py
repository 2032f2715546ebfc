"""A build: recipe to signed bundle in its folder. The key never enters the processes that run the recipe."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeops.bundle import VerifiedBundle
from edgeops.durable import write_atomic
from edgeops.errors import ConfigError, GateError
from edgeops.paths import home
from edgeops.signing.keys import keyring
from edgeops.signing.oms import reference
from toolchain.caching.cache import IMPORTS_FOLDER, StepCache
from toolchain.caching.imports import imports_kept
from toolchain.documents.report import main_metric
from toolchain.placing import kept, locked, make_folder, place
from toolchain.plan import Plan, Step, make_plan
from toolchain.recipe import Recipe
from toolchain.recipe.file import find_recipe, read_recipe
from toolchain.revision import revision_record
from toolchain.running.executor import Executor
from toolchain.running.runner import Outcome, View, run_plan

if TYPE_CHECKING:
    from edgeops.signing.signers import Signer
    from toolchain.search.trials import Run

BUNDLE_FOLDER = "bundle"
EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"
REPORT_SUFFIXES = (".report.json", ".report.html")
SIGN = Step(name="sign", module="", meaning="sign the bundle", config={})


@dataclass(frozen=True)
class Source:
    """A recipe: parsed, the file that it was read from, and the bundle to compare with, if the build was
    given one. `found` is the outcome of the search for its variants (see `resolved`)."""

    recipe: Recipe
    path: Path
    baseline: Path | None = None
    found: Mapping[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """Where the recipe's relative paths begin."""
        return self.path.parent

    def resolved(self, run: Run, *, search: bool = False, lock: Path | None = None) -> Source:
        """The same with its variants listed: with `variants: auto` they come from the lock file, or from a
        search, whose plans `run` runs (see toolchain/search/resolve.py)."""
        if self.recipe.search is None and not search and lock is None:
            return self
        from toolchain.search.resolve import resolve  # which most builds do without

        outcome = resolve(self.recipe, self.path, search=search, lock=lock, run=run)
        return replace(self, recipe=outcome.recipe, found=outcome.outcome)

    def plan(self) -> Plan:
        """Its steps, once its variants are listed."""
        return make_plan(
            self.recipe,
            folder=self.folder,
            created=_created(self.recipe),
            baseline=self.baseline,
            search=self.found,
        )


@dataclass(frozen=True)
class Built:
    """A finished build. `steps_run` names what had to run, in order; it is empty if nothing changed.
    `main_metric` is the figure by which its variants are compared first."""

    path: Path
    digest: str
    variants: tuple[dict[str, Any], ...]
    main_metric: str
    gates: tuple[dict[str, Any], ...]
    measurements: dict[str, Any]
    remarks: tuple[str, ...]
    steps_run: tuple[str, ...]

    def line(self) -> dict[str, Any]:
        """What `edgeops build --json` prints."""
        return {
            "path": str(self.path),
            "digest": self.digest,
            "variants": list(self.variants),
            "gates": list(self.gates),
            "steps_run": list(self.steps_run),
        }


def read_source(recipe: str, *, baseline: Path | None = None) -> Source:
    """The recipe that `recipe` names (see `find_recipe`). `ConfigError` on one that cannot be used."""
    path = find_recipe(recipe)
    parsed = read_recipe(path, has_baseline=baseline is not None)
    return Source(parsed, path.absolute(), baseline)


def build_source(
    source: Source,
    out: Path,
    signer: Signer,
    view: View,
    executor: Executor,
    *,
    use_cache: bool = True,
    jobs: int | None = None,
    search: bool = False,
    lock: Path | None = None,
) -> Built:
    """Builds `source` into `out/<name>-<version>/`, signed by `signer`, at most `jobs` steps at once (None:
    as many as suit the executor).

    Without `use_cache` every step runs, and nothing is kept for later builds. `search` searches again for the
    variants of a recipe that leaves them open, and `lock` is the file for what it finds, instead of the one
    beside the recipe. The folder appears, or is
    replaced, in one step; one that holds the same build, signed by the same key, is left as it is.

    Raises `ConfigError` on what cannot be used, `GateError` if a gate fails (then nothing is signed, and
    `out/<name>-<version>.report.json` has every figure), and what else a step raises.
    """
    make_folder(out)
    with build_cache(use_cache=use_cache) as cache:
        source = source.resolved(
            lambda plan: run_plan(plan, cache, executor, view, jobs=jobs), search=search, lock=lock
        )
        plan = source.plan()
        view.planned(len(plan.steps) + 1)
        outcome = run_source(plan, out, cache, executor, view, jobs=jobs)
        unsigned = outcome.entries["package"].folder / BUNDLE_FOLDER
        return sign_source(source, unsigned, out, signer, view, steps_run=outcome.steps_run)


def run_source(
    plan: Plan, out: Path, cache: StepCache, executor: Executor, view: View, *, jobs: int | None
) -> Outcome:
    """Runs the plan. The report of a failed gate goes beside the bundle's place in `out`."""
    try:
        return run_plan(plan, cache, executor, view, jobs=jobs, meanwhile=reference)
    except GateError as error:
        _write_reports(out, plan, error)
        raise


def sign_source(
    source: Source, unsigned: Path, out: Path, signer: Signer, view: View, *, steps_run: tuple[str, ...]
) -> Built:
    """Puts the bundle in the folder `unsigned` into `out`, unless it is there already."""
    keys = keyring([signer.public_key])
    target = out / source.recipe.label
    with locked(out):
        verified = kept(target, unsigned, keys)
        if verified is None:
            view.started(SIGN, "there is no such bundle, signed by this key, in the folder yet")
            verified = place(unsigned, target, signer, keys, revision_record(source.folder))
            view.finished(SIGN)
            steps_run = (*steps_run, SIGN.name)
        else:
            view.reused(SIGN, "the folder holds this bundle, signed by this key")
        for suffix in REPORT_SUFFIXES:  # of a build that failed
            (out / f"{source.recipe.label}{suffix}").unlink(missing_ok=True)
    return _built(verified, steps_run)


@contextlib.contextmanager
def build_cache(*, use_cache: bool = True) -> Iterator[StepCache]:
    """The builder's step cache, or an empty one that is gone afterwards."""
    if use_cache:
        root = home().cache / "build"
        with StepCache(root) as cache, imports_kept(root / IMPORTS_FOLDER):
            yield cache
        return
    with tempfile.TemporaryDirectory(prefix="edgeops-build-") as folder, StepCache(Path(folder)) as cache:
        yield cache


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


def _write_reports(out: Path, plan: Plan, error: GateError) -> None:
    """What there is to know of a build whose gates failed: as JSON, and as a page if it got that far."""
    path = out / f"{plan.label}{REPORT_SUFFIXES[0]}"
    report = {"bundle": plan.label, "message": error.message, **error.details}
    write_atomic(path, json.dumps(report, indent=2, ensure_ascii=False).encode() + b"\n")
    error.details["report_file"] = str(path)
    evaluated = error.details.get("report")
    if isinstance(evaluated, dict):
        from toolchain.documents.html import render

        page = render({**evaluated, "search": plan.search}, evaluated.get("measurements"))
        write_atomic(out / f"{plan.label}{REPORT_SUFFIXES[1]}", page.encode())


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
        main_metric=main_metric(fields.task),
        gates=tuple(report["gates"]),
        measurements=measurements,
        remarks=tuple(report["remarks"]),
        steps_run=steps_run,
    )
