"""`edgeops new` and `edgeops schema`. This module imports click and the standard library only (see
edgeops/cli.py)."""

from __future__ import annotations

from pathlib import Path

import click

TASKS = (
    "image-classification",
    "tabular-classification",
    "text-classification",
    "token-classification",
    "feature-extraction",
    "text-generation",
)


@click.command(epilog="Example: edgeops new ./distilbert --data texts.jsonl --out recipe.yaml")
@click.argument("model")
@click.option(
    "--out",
    default="recipe.yaml",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The recipe to write. It must not be there yet.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Rows to calibrate and judge with: .npz, .csv, .jsonl or .txt (see docs/recipe.md).",
)
@click.option("--label", default="label", show_default=True, help="The data's column with the labels.")
@click.option("--task", type=click.Choice(TASKS), help="What the model does, if it does not say so itself.")
@click.option("--name", help="What fleets shall call the model. Default: after its file or folder.")
@click.option("--trained", is_flag=True, help="The Python function returns a trained model.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON on stdout.")
def new(
    model: str,
    out: Path,
    data: Path | None,
    label: str,
    task: str | None,
    name: str | None,
    trained: bool,
    as_json: bool,
) -> None:
    """Write a commented recipe for MODEL, with which edgeops build makes a bundle.

    MODEL is a Hugging Face folder, a .onnx, .gguf or .skops file, or a Python module:function that returns a
    torch module or a scikit-learn pipeline. The JSON Schema by which editors complete the recipe is written
    beside it.
    """
    import json

    from toolchain.new.create import create_recipe

    made = create_recipe(model, out, data=data, label=label, task=task, name=name, trained=trained)
    if as_json:
        click.echo(json.dumps(made.to_dict(), ensure_ascii=False))
        return
    click.echo(f"Wrote {made.recipe} ({made.task}, source {made.source}) and {made.schema.name} for editors.")
    for line in made.to_fill:
        click.echo(f"To fill in, line {line}.")
    click.echo(f"Next: edgeops build {made.recipe} --out out --key builder.key")


@click.command(epilog="Example: edgeops schema > recipe-1.0.json")
def schema() -> None:
    """Print the JSON Schema of recipes, by which editors complete and check them.

    Say where it lies in a recipe's first line: # yaml-language-server: $schema=recipe-1.0.json
    """
    from toolchain.recipe.schema import schema_text

    click.echo(schema_text(), nl=False)
