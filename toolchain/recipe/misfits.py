"""What a value is that does not fit its type, in words: msgspec's error, with the field that it hides and the
name that was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import inspect

from toolchain.recipe.document import Document, Fault, FieldPath

# msgspec writes `[...]` where a value of a mapping is at fault, and does not say which.
_SOME_KEY = "..."


def misfit(document: Document, kind: type, error: msgspec.ValidationError) -> Fault:
    """The fault that msgspec found when it converted the document to `kind`. msgspec ends its messages in
    "- at `$.a.b[0]`"; unknown and missing fields are named before that."""
    what, path = _parts(error)
    path = _with_keys(document.value, kind, str(error), path)
    unknown = re.fullmatch(r"Object contains unknown field `(.+)`", what)
    if unknown:
        known = _fields(_type_at(kind, document.value, path))
        return Fault((*path, unknown[1]), "is not a field of a recipe", did_you_mean(unknown[1], known))
    missing = re.fullmatch(r"Object missing required field `(.+)`", what)
    if missing:
        return Fault((*path, missing[1]), "is missing")
    value = _value_at(document.value, path)
    choices = _choices(_type_at(kind, document.value, path))
    if re.match(r"Invalid (enum )?value", what) and choices:
        return Fault(path, f"is {value!r}, which is none of {_list(choices)}", did_you_mean(value, choices))
    return Fault(path, f"is not what it must be ({what[0].lower()}{what[1:]})")


def did_you_mean(given: Any, known: Iterable[str]) -> str | None:
    """The question whether the nearest of the `known` names was meant; None if none is near."""
    near = difflib.get_close_matches(str(given).lower(), list(known), n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else None


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _parts(error: msgspec.ValidationError) -> tuple[str, FieldPath]:
    what, _, where = str(error).partition(" - at ")
    found = re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", where.strip("`"))
    return what, tuple(name or (int(index) if index.isdigit() else index) for name, index in found)


def _with_keys(value: Any, kind: type, text: str, path: FieldPath) -> FieldPath:
    """The path with its `[...]` replaced by keys: those that, left alone in their mapping, meet the same
    error."""
    while _SOME_KEY in path:
        at = path.index(_SOME_KEY)
        mapping = _value_at(value, path[:at])
        assert isinstance(mapping, dict)
        for key in mapping:
            alone = _replaced(value, path[:at], {key: mapping[key]})
            try:
                msgspec.convert(alone, kind)
            except msgspec.ValidationError as error:
                if str(error) == text:
                    path = (*path[:at], key, *path[at + 1 :])
                    value = alone
                    break
        else:
            return path[:at]
    return path


def _replaced(value: Any, path: FieldPath, new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = _replaced(value[path[0]], path[1:], new)
    return copy


def _value_at(value: Any, path: FieldPath) -> Any:
    for part in path:
        value = value[part]
    return value


def _type_at(kind: type, value: Any, path: FieldPath) -> list[inspect.Type]:
    """The types that may stand at the path: one, or those of a union."""
    types = list(_alternatives(inspect.type_info(kind), value))
    for part in path:
        value = value[part] if not isinstance(value, dict) or part in value else None
        types = [t for outer in types for inner in _inner(outer, part) for t in _alternatives(inner, value)]
    return types


def _inner(outer: inspect.Type, part: str | int) -> Iterator[inspect.Type]:
    match outer:
        case inspect.StructType():
            yield from (field.type for field in outer.fields if field.encode_name == part)
            if outer.tag_field == part and isinstance(outer.tag, str):
                yield inspect.LiteralType(values=(outer.tag,))
        case inspect.DictType():
            yield outer.value_type
        case inspect.VarTupleType():
            yield outer.item_type
        case inspect.TupleType() if isinstance(part, int):
            yield outer.item_types[part]


def _alternatives(kind: inspect.Type, value: Any) -> Iterator[inspect.Type]:
    """The type, or those of a union, or of a tagged union the one whose tag the value bears."""
    if isinstance(kind, inspect.Metadata):
        yield from _alternatives(kind.type, value)
        return
    if not isinstance(kind, inspect.UnionType):
        yield kind
        return
    for member in kind.types:
        tag = member.tag_field if isinstance(member, inspect.StructType) else None
        given = value.get(tag) if isinstance(value, dict) and tag is not None else None
        tags = [other.tag for other in kind.types if isinstance(other, inspect.StructType)]
        if tag is None or given not in tags or given == getattr(member, "tag", None):
            yield from _alternatives(member, value)


def _fields(types: Iterable[inspect.Type]) -> list[str]:
    structs = [kind for kind in types if isinstance(kind, inspect.StructType)]
    names = [field.encode_name for struct in structs for field in struct.fields]
    return [*names, *(struct.tag_field for struct in structs if struct.tag_field is not None)]


def _choices(types: Iterable[inspect.Type]) -> list[str]:
    literals = [kind for kind in types if isinstance(kind, inspect.LiteralType)]
    return [str(value) for literal in literals for value in literal.values]
