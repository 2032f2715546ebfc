"""The builder's commands. This module imports click and the standard library only (see edgeops/cli.py)."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="Example: edgeops build models/digits --out out --key builder.key",
)
@click.argument("recipe")
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the bundle goes: DIR/<name>-<version>/.",
)
@click.option(
    "--key",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The builder's private key (see edgeops keys new).",
)
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON on stdout.")
@click.option("--explain", is_flag=True, help="Say of each step why it runs, or why it need not.")
@click.option("--no-cache", is_flag=True, help="Run every step, and keep nothing for later builds.")
def build(recipe: str, out: Path, key: Path, as_json: bool, explain: bool, no_cache: bool) -> None:
    """Build RECIPE into a signed bundle: train, distil, export, quantize, evaluate, gate, document, sign.

    RECIPE is a YAML file, a folder with a recipe.yaml, or a packaged model such as digits. A step whose
    inputs, config and code are unchanged is not run again. A failed gate ends with exit status 4: the report
    is written beside the bundle's place, and nothing is signed.
    """
    import json

    from toolchain.build import build_recipe
    from toolchain.view import build_view, print_summary

    with build_view(explain=explain) as view:
        built = build_recipe(recipe, out, key, view, use_cache=not no_cache)
    if as_json:
        line = {
            "path": str(built.path),
            "digest": built.digest,
            "variants": list(built.variants),
            "gates": list(built.gates),
            "steps_run": list(built.steps_run),
        }
        click.echo(json.dumps(line, ensure_ascii=False))
    else:
        print_summary(built)
