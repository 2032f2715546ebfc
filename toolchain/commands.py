"""The builder's commands. This module imports click and the standard library only (see edgeops/cli.py)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgeops.signing.signers import Signer
    from toolchain.build import Built, Source
    from toolchain.running.executor import Executor

_BUNDLE = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog="Example: edgeops build models/digits --out out --key builder.key",
)
@click.argument("recipe")
@click.option(
    "--out", default=Path("out"), type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    show_default=True, help="Where the bundle goes: DIR/<name>-<version>/.",
)  # fmt: skip
@click.option(
    "--key", metavar="KEY", envvar="EDGEOPS_KEY", show_envvar=True,
    help="The builder's private key: a file (see edgeops keys new), or a pkcs11: URI of a key in a token. "
    "Default: builder.key in the configuration folder.",
)  # fmt: skip
@click.option(
    "--passphrase-fd", type=click.IntRange(min=0), metavar="N",
    help="Read the key's passphrase, or the token's PIN, from the first line of file descriptor N.",
)  # fmt: skip
@click.option(
    "--baseline", type=_BUNDLE, metavar="BUNDLE",
    help="The bundle of an earlier version to compare with, instead of the recipe's baseline.",
)  # fmt: skip
@click.option(
    "--search", is_flag=True,
    help="With variants: auto, search again for the variants that pay, and write the lock file anew.",
)  # fmt: skip
@click.option(
    "--lock", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="The lock file of variants: auto. Default: <recipe>.lock.yaml beside the recipe.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON on stdout.")
@click.option("--explain", is_flag=True, help="Say of each step why it runs, or why it need not.")
@click.option("--no-cache", is_flag=True, help="Run every step, and keep nothing for later builds.")
@click.option(
    "--jobs", type=click.IntRange(1, 1024), metavar="N",
    help="Run at most N steps at once. Default: one for each processor, if there is 1 GiB of free memory for "
    "each; on a Ray cluster, as many as it takes.",
)  # fmt: skip
@click.option(
    "--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="Where steps run: in processes of this machine, or as tasks of a Ray cluster.",
)  # fmt: skip
@click.option(
    "--ray-address", metavar="ADDRESS",
    help="The Ray cluster, such as HOST:6379 or auto. Default: one of this machine, for this build alone.",
)  # fmt: skip
@click.option(
    "--check-reproducible", is_flag=True,
    help="Build twice without the cache, in differing surroundings, and sign only if both are the same.",
)  # fmt: skip
@click.option(
    "--mlflow", "mlflow_uri", metavar="URI",
    help="Log the finished build to this MLflow server. If that fails, the bundle is built and signed all "
    "the same, and the exit status is 5.",
)  # fmt: skip
def build(
    recipe: str,
    out: Path,
    key: str | None,
    passphrase_fd: int | None,
    baseline: Path | None,
    search: bool,
    lock: Path | None,
    as_json: bool,
    explain: bool,
    no_cache: bool,
    jobs: int | None,
    executor: str,
    ray_address: str | None,
    check_reproducible: bool,
    mlflow_uri: str | None,
) -> None:
    """Build RECIPE into a signed bundle: train, distil, export, quantize, evaluate, gate, document, sign.

    RECIPE is a YAML file, a folder with a recipe.yaml, or a packaged model such as digits. A step whose
    inputs, config and code are unchanged is not run again. A failed gate ends with exit status 4: the report
    is written beside the bundle's place, and nothing is signed.

    The passphrase of an encrypted key is read from --passphrase-fd, EDGEOPS_KEY_PASSPHRASE or the terminal;
    the PIN of a token from --passphrase-fd, EDGEOPS_KEY_PIN, the URI's pin-source or the terminal.
    """
    from edgeops.signing.passphrases import terminal_prompt
    from edgeops.signing.signers import open_signer
    from toolchain.build import read_source
    from toolchain.running.interruption import ending_on_sigterm

    _check_options(executor, ray_address, check_reproducible, search=search)
    if mlflow_uri is not None:
        from toolchain.tracking import check_tracking

        check_tracking()
    source = read_source(recipe, baseline=baseline)
    signer = open_signer(key or _default_key(), secret_fd=passphrase_fd, prompt=terminal_prompt())
    with ending_on_sigterm():
        if check_reproducible:
            built = _built_twice(source, out, signer, lock=lock, jobs=jobs)
        else:
            with _executor(executor, ray_address, jobs) as chosen:
                built = _built(
                    source,
                    out,
                    signer,
                    chosen,
                    explain=explain,
                    use_cache=not no_cache,
                    jobs=jobs,
                    search=search,
                    lock=lock,
                )
    if not as_json:
        from toolchain.running.view import print_summary

        print_summary(built)
    if mlflow_uri is not None:
        from toolchain.tracking import log_build

        log_build(built, source.recipe, mlflow_uri)
    if as_json:
        click.echo(json.dumps(built.line(), ensure_ascii=False))


def _default_key() -> str:
    from edgeops.paths import home

    return str(home().config / "builder.key")


def _check_options(executor: str, ray_address: str | None, check_reproducible: bool, *, search: bool) -> None:
    if check_reproducible and search:
        raise click.UsageError("--check-reproducible builds what the lock file says: leave --search out.")
    if ray_address is not None and executor != "ray":
        raise click.UsageError("--ray-address goes with --executor ray.")
    if check_reproducible and executor == "ray":
        raise click.UsageError("--check-reproducible builds on this machine: leave --executor out.")


@contextlib.contextmanager
def _executor(name: str, ray_address: str | None, jobs: int | None) -> Iterator[Executor]:
    if name == "ray":
        from toolchain.running.ray_executor import RayExecutor

        with RayExecutor(ray_address) as ray:
            yield ray
        return
    from toolchain.running.executor import LocalExecutor
    from toolchain.running.machine import default_jobs

    with LocalExecutor(jobs or default_jobs()) as local:
        yield local


def _built(
    source: Source,
    out: Path,
    signer: Signer,
    executor: Executor,
    *,
    explain: bool,
    **options: Any,
) -> Built:
    from toolchain.build import build_source
    from toolchain.running.view import build_view

    with build_view(explain=explain) as view:
        return build_source(source, out, signer, view, executor, **options)


def _built_twice(source: Source, out: Path, signer: Signer, *, lock: Path | None, jobs: int | None) -> Built:
    from toolchain.build import sign_source
    from toolchain.comparing.reproducible import built_twice
    from toolchain.placing import make_folder
    from toolchain.running.view import build_view

    make_folder(out)
    with (
        built_twice(source.path, baseline=source.baseline, lock=lock, jobs=jobs) as (unsigned, steps_run),
        build_view(explain=False) as view,
    ):
        return sign_source(source, unsigned, out, signer, view, steps_run=steps_run)


@click.group(epilog="Example: edgeops cache prune --keep-days 30")
def cache() -> None:
    """Look at what builds keep of their steps, and remove what was not used for long."""


@cache.command(name="ls", epilog="Example: edgeops cache ls --json")
@click.option("--json", "as_json", is_flag=True, help="Print the entries as JSON.")
def list_cache(as_json: bool) -> None:
    """List the cached outputs of steps, the last used first: step, size, age, last use, builds."""
    import msgspec

    from edgeops.clock import now_ms
    from edgeops.paths import home
    from toolchain.caching.cache import StepCache
    from toolchain.caching.prune import list_entries

    root = home().cache / "build"
    entries = list_entries(StepCache(root))
    if as_json:
        size_bytes = sum(entry.size_bytes for entry in entries)
        line = {"path": str(root), "size_bytes": size_bytes, "entries": msgspec.to_builtins(entries)}
        click.echo(json.dumps(line))
        return
    from toolchain.caching.cache_view import print_entries

    print_entries(root, entries, now_ms())


@cache.command(name="prune", epilog="Example: edgeops cache prune --keep-days 30 --dry-run")
@click.option(
    "--keep-days", required=True, type=click.FloatRange(min=0), metavar="N",
    help="Keep what a build used within the last N days.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON line.")
def prune_cache(keep_days: float, dry_run: bool, as_json: bool) -> None:
    """Remove cached outputs that no build used for N days, and what killed builds left behind.

    Builds may run meanwhile: what they use or make is left alone.
    """
    import msgspec

    from edgeops.clock import now_ms
    from edgeops.paths import home
    from toolchain.caching.cache import StepCache
    from toolchain.caching.prune import prune

    now = now_ms()
    pruned = prune(StepCache(home().cache / "build"), keep_days=keep_days, now_ms=now, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, **msgspec.to_builtins(pruned)}))
        return
    from toolchain.caching.cache_view import print_pruned

    print_pruned(pruned, now, dry_run=dry_run)


@click.command(epilog="Example: edgeops diff out/digits-1.0.0 out/digits-1.1.0 --key builder.pub")
@click.argument("old", type=_BUNDLE)
@click.argument("new", type=_BUNDLE)
@click.option(
    "--key", "key_files", multiple=True, metavar="FILE.pub", type=_FILE,
    help="Verify both bundles by these public keys first. Without one, nothing is verified.",
)  # fmt: skip
@click.option("--exit-code", is_flag=True, help="End with status 1 if the bundles differ.")
@click.option("--json", "as_json", is_flag=True, help="Print the changes as one JSON line.")
@click.pass_context
def diff(
    ctx: click.Context, old: Path, new: Path, key_files: tuple[Path, ...], exit_code: bool, as_json: bool
) -> None:
    """Show what changed from the bundle OLD to the bundle NEW: data, recipe, tools, code, prompts, interface,
    variants, quality, gates.

    The exit status is 0 whether or not they differ, unless --exit-code is given.
    """
    from edgeops.signing.keys import keyring, load_public_key
    from toolchain.comparing.diff import compare

    found = compare(old, new, keyring(load_public_key(path) for path in key_files))
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        from toolchain.comparing.diff_view import print_diff

        print_diff(found)
    if exit_code and not found["same"]:
        ctx.exit(1)
