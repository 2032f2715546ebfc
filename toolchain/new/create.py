"""Makes a new recipe: looks at model and data, writes the text, and reads it as a build will."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from edgeops.durable import write_atomic
from edgeops.errors import ConfigError
from edgeops.names import is_name
from toolchain.new.found import Found
from toolchain.new.look import look
from toolchain.new.look_data import DataFound, look_at_data, with_names
from toolchain.new.write import recipe_text
from toolchain.recipe.base import Task
from toolchain.recipe.file import parse_recipe
from toolchain.recipe.schema import SCHEMA_FILE, schema_text

TO_FILL = "FILL IN"


@dataclass(frozen=True)
class Created:
    """A new recipe, the schema beside it, and the numbers of the lines (from 1) that have to be filled in."""

    recipe: Path
    schema: Path
    task: str
    source: str
    to_fill: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """As `edgeops new --json` prints it."""
        return {
            "recipe": str(self.recipe),
            "schema": str(self.schema),
            "task": self.task,
            "source": self.source,
            "lines_to_fill": list(self.to_fill),
        }


def create_recipe(
    model: str, out: Path, *, data: Path | None, label: str, task: str | None, name: str | None, trained: bool
) -> Created:
    """Writes a recipe for `model` (see `look`) to the file `out`, and the recipes' JSON Schema beside it.

    Raises `ConfigError` if `out` is there already or cannot be written, or if the model or the data do not
    tell enough or do not fit each other, and `ArtifactError` on files that are broken.
    """
    if out.exists():
        raise ConfigError(
            f"{out} is there already.",
            remedy="Name another file with --out, or move it away.",
            subject=str(out),
        )
    found = look(model, task=cast("Task | None", task), trained=trained)
    if name is not None:
        if not is_name(name):
            raise ConfigError(
                f"{name!r} cannot name a model.",
                remedy="Use lower-case letters, digits, dots, dashes or underscores.",
                subject="--name",
            )
        found = dataclasses.replace(found, name=name)
    rows = None if data is None else _fitting(found, look_at_data(data, found.task, label))
    date = datetime.now(UTC).date().isoformat()
    text = recipe_text(found, rows, data, label, out.parent, date)
    parse_recipe(text.encode(), out.name)
    schema = out.parent / SCHEMA_FILE
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(schema, schema_text().encode())
    write_atomic(out, text.encode())
    to_fill = tuple(number for number, line in enumerate(text.splitlines(), start=1) if TO_FILL in line)
    return Created(recipe=out, schema=schema, task=found.task, source=found.source, to_fill=to_fill)


def _fitting(found: Found, data: DataFound) -> DataFound:
    """The data, its columns in the model's order. Raises `ConfigError` if the model takes other rows."""
    # A Hugging Face image model is exported with its processor, which resizes.
    shape = found.input.get("shape") if found.source != "huggingface" else None
    columns = found.input.get("columns")
    if columns is not None and "columns" in data.input:
        named = [column["name"] for column in columns]
        if not all(name.startswith("column_") for name in named):
            ordered = with_names(data.input["columns"], named)
            return dataclasses.replace(
                data, input={**data.input, "columns": ordered, "shape": [len(ordered)]}
            )
    if shape is not None and "shape" in data.input and list(shape) != list(data.input["shape"]):
        raise ConfigError(
            f"The model takes rows of the shape {list(shape)}, and the data has {list(data.input['shape'])}.",
            remedy="Bring data that the model takes.",
            subject="shape",
        )
    unknown = sorted(set(data.classes) - set(found.classes))
    if found.classes and data.classes and unknown:
        raise ConfigError(
            f"The data has the class {unknown[0]!r}, and the model's are {', '.join(found.classes)}.",
            remedy="Label the data by the model's classes.",
            subject=unknown[0],
        )
    return data
