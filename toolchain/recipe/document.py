"""YAML text as plain values that know their lines, so that an error can say where it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from edgeops.errors import ConfigError

MAX_DOCUMENT_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 20

# libyaml's loader, where PyYAML was built with it, reads the same about ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

FieldPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Fault:
    """What is wrong with the field at `path`: a predicate, such as "is not a valid name". `remedy` is the
    sentence that says what to do, where there is more to say than to correct it."""

    path: FieldPath
    what: str
    remedy: str | None = None


@dataclass(frozen=True)
class Document:
    """Plain values, and the line (from 1) on which each field stands, by its path. `remedy` is what to do
    about an error that has no remedy of its own."""

    source: str
    value: dict[str, Any]
    lines: dict[FieldPath, int]
    remedy: str = "Correct the recipe."

    def line(self, path: FieldPath) -> int:
        """The line of the field, or of the nearest field around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def error(self, path: FieldPath, what: str, remedy: str | None = None) -> ConfigError:
        """The error that `what` is wrong with the field at `path`."""
        return self.errors([Fault(path, what, remedy)])

    def errors(self, faults: Iterable[Fault]) -> ConfigError:
        """One error for all `faults`, of which there is at least one. Its message is about the first;
        `details["faults"]` has each with its line, field and message."""
        told = [self._told(fault) for fault in faults]
        first, more = told[0], told[1:]
        remedy = first["remedy"] or self.remedy
        if more:
            places = ", ".join(f"line {other['line']} ({other['field'] or self.source})" for other in more)
            remedy = f"{remedy} There is more to correct: {places}."
        return ConfigError(
            first["message"],
            remedy=remedy,
            subject=first["field"] or self.source,
            details={"line": first["line"], "field": first["field"], "faults": told},
        )

    def _told(self, fault: Fault) -> dict[str, Any]:
        line, field = self.line(fault.path), dotted(fault.path)
        what = f"{field or 'the recipe'} {fault.what}."
        return {
            "line": line,
            "field": field,
            "message": f"{self.source}, line {line}: {what}",
            "remedy": fault.remedy,
        }


def dotted(path: FieldPath) -> str:
    """The path as people write it: `gates[0].metric`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".")


def doubled(named: Iterable[tuple[FieldPath, str]]) -> Iterator[Fault]:
    """A fault for each name that an earlier field has taken."""
    seen: set[str] = set()
    for path, name in named:
        if name in seen:
            yield Fault(path, f"{name!r} is taken already")
        seen.add(name)


def parse_document(data: bytes, source: str, *, remedy: str = Document.remedy) -> Document:
    """The one mapping in YAML `data`; `source` names the file in errors, `remedy` says what to do. Raises
    `ConfigError` on what is not YAML, doubled keys, numbers that are not finite, and on what is larger or
    deeper than a recipe ever is."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ConfigError(f"{source} is larger than {MAX_DOCUMENT_BYTES} bytes.", subject=source)
    loader = _Loader(data)
    try:
        _check_depth(data, source)
        node = loader.get_single_node()
        lines: dict[FieldPath, int] = {}
        document = Document(source, {}, lines, remedy)
        value = _plain(loader, node, (), document)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise ConfigError(
            f"{source}, line {line}: this is not valid YAML ({problem}).",
            remedy=remedy,
            subject=source,
            details={"line": line},
        ) from error
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        raise document.error((), "is not a mapping of fields")
    return Document(source, value, lines, remedy)


def _check_depth(data: bytes, source: str) -> None:
    # Before nodes are built: libyaml's bindings recurse there, and deep nesting would end the process.
    depth = 0
    for event in yaml.parse(data, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            line = 1 if event.start_mark is None else event.start_mark.line + 1
            raise Document(source, {}, {(): line}).error((), "is nested too deeply")


def _plain(loader: Any, node: Any, path: FieldPath, document: Document) -> Any:
    """Plain values of a YAML node. Fills `document.lines`; refuses doubled keys, and the size that
    aliases can blow a small file up to."""
    if node is None:
        return None
    document.lines.setdefault(path, node.start_mark.line + 1)
    if len(document.lines) > MAX_NODES or len(path) > MAX_DEPTH:
        raise document.error(path, "is too large, or refers to itself")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, i), document) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise document.error(path, "has a key that is not text")
            document.lines[(*path, key)] = key_node.start_mark.line + 1
            if key in result:
                raise document.error((*path, key), "stands there twice")
            result[key] = _plain(loader, value_node, (*path, key), document)
        return result
    try:
        value = loader.construct_object(node, deep=True)
    except ValueError as error:  # such as a date that does not exist
        raise document.error(path, f"cannot be read ({error})") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise document.error(path, "is not a finite number")
    return value
