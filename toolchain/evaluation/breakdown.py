"""Quality of parts of the held-out rows: each class, each value of an attribute, the gaps between these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from edgeops.errors import ConfigError
from toolchain.evaluation.classification import Items, figures, parity, part_figures
from toolchain.evaluation.report import CLASS_SLICE, Figures, Group, rounded
from toolchain.handover.arrays import Array

# A share of fewer rows moves by more than three points when one row flips: a gap between such values would
# tell chance from nothing. They are shown, and left out of the gap.
MIN_GROUP_ROWS = 30


def by_class(items: Items, source: Items, classes: Sequence[str]) -> dict[str, Figures]:
    """Figures of each class's items, by `class=<name>`; for a class without items `rows` is 0."""
    found: dict[str, Figures] = {}
    for index, name in enumerate(classes):
        chosen = items.labels == index
        found[f"{CLASS_SLICE}{name}"] = (
            {
                "rows": int(chosen.sum()),
                **part_figures(items.where(chosen)),
                **parity(items.where(chosen), source.where(chosen)),
            }
            if chosen.any()
            else {"rows": 0, "accuracy": None}
        )
    return found


def by_value(
    items: Items, source: Items, classes: Sequence[str], attributes: Mapping[str, Array]
) -> dict[str, Figures]:
    """Figures of the items whose rows have each value of each attribute, by `<attribute>=<value>`."""

    def told(chosen: Array) -> Figures:
        part = items.where(chosen)
        return {**figures(part, classes), **parity(part, source.where(chosen))}

    return slices_of(attributes, items.rows, told)


def slices_of(
    attributes: Mapping[str, Array], rows: Array, told: Callable[[Array], Figures]
) -> dict[str, Figures]:
    """`told` of the items whose rows have each value; `rows` is the row of each item."""
    found: dict[str, Figures] = {}
    for attribute, values in attributes.items():
        of_items = values[rows]
        for value in sorted(set(values.tolist())):
            chosen = of_items == value
            if chosen.any():
                found[f"{attribute}={value}"] = {"rows": int(chosen.sum()), **told(chosen)}
            else:
                found[f"{attribute}={value}"] = {"rows": 0, "accuracy": None}
    return found


def group(right: Array, rows: Array, values: Array) -> Group:
    """The gap between the values of one attribute. `right` tells which items were answered rightly,
    `rows` the row that each is of, `values` the attribute of each row."""
    of_items = values[rows]
    names = sorted(set(values.tolist()))
    counts = {name: int((values == name).sum()) for name in names}
    shares: Figures = {
        name: rounded(right[of_items == name].mean()) if np.any(of_items == name) else None for name in names
    }
    excluded = tuple(name for name in names if counts[name] < MIN_GROUP_ROWS or shares[name] is None)
    judged = [share for name, share in shares.items() if name not in excluded and share is not None]
    gap = rounded(max(judged) - min(judged)) if len(judged) > 1 else None
    return Group(gap=gap, values=shares, rows=counts, excluded=excluded)


def largest_gap(groups: Mapping[str, Group]) -> float | None:
    """The largest gap of any attribute; None if there is none, or one could not be told."""
    gaps = [found.gap for found in groups.values()]
    known = [gap for gap in gaps if gap is not None]
    return max(known) if known and len(known) == len(gaps) else None


def chosen_attributes(arrays: Mapping[str, Array], names: Iterable[str]) -> dict[str, Array]:
    """The held-out rows' attributes of these names. Raises `ConfigError` for one that the data lacks."""
    found: dict[str, Array] = {}
    for name in dict.fromkeys(names):
        values = arrays.get(f"held_out_attribute_{name}")
        if values is None or name == CLASS_SLICE.rstrip("="):
            raise ConfigError(
                f"The data has no attribute {name!r} to take slices by.",
                remedy="Correct the recipe's slices and groups, or bring the attribute with the data.",
                subject=name,
            )
        found[name] = values
    return found
