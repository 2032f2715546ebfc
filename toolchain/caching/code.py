"""The digest of a step's code: its module and every module of its own that this imports, by their sources.

The imports are read from the syntax tree (see imports.py), so nothing is imported to find them. What comes
from installed distributions does not count here: their versions do (`tool_versions`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterable
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

from edgeops.canonical import sha256_bytes
from edgeops.errors import ConfigError
from toolchain.caching.imports import import_statements

OWN_PACKAGES = frozenset({"edgeops", "models", "quantize", "toolchain"})


def code_digests(modules: Iterable[str]) -> dict[str, str]:
    """Module names to SHA-256 of their sources: `modules`, the packages around them, and all that these
    import, directly or not, from edgeops' packages or from the given modules' own.

    Raises `ConfigError` naming the module that cannot be found.
    """
    wanted = list(modules)
    own = OWN_PACKAGES | {name.partition(".")[0] for name in wanted}
    found: dict[str, str] = {}
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found[name], imports = _read(name, own)
        wanted += [*imports, *_packages_around(name)]
    return dict(sorted(found.items()))


def tool_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Versions of distributions, and Python's own. Raises `ConfigError` for one that is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in distributions}}


@cache
def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"The Python package {distribution!r} is not installed.",
            remedy="Install the builder's packages: pip install 'edgeops[build]'.",
            subject=distribution,
        ) from error


@cache
def _read(name: str, own: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """The digest of a module's source, and the modules of `own` packages that it imports."""
    path = _find(name)
    if path is None:
        raise ConfigError(
            f"The module {name!r} cannot be found.",
            remedy="Install it, or put its folder on PYTHONPATH.",
            subject=name,
        )
    source = path.read_bytes()
    digest = sha256_bytes(source)
    imports: list[str] = []
    for statement in import_statements(source, digest, name):
        if statement.base is None:
            imports += statement.names
            continue
        base = _base(statement.base, statement.level, name, is_package=path.name == "__init__.py")
        imports.append(base)
        if base.partition(".")[0] in own:
            # `from package import name`: the name may be a module of its own.
            names = [f"{base}.{imported}" for imported in statement.names]
            imports += [module for module in names if _find(module) is not None]
    return digest, tuple(module for module in imports if module.partition(".")[0] in own)


def _base(base: str, level: int, name: str, *, is_package: bool) -> str:
    """The module that a `from` statement in the module `name` imports from."""
    if not level:
        return base
    parents = name.split(".")
    keep = len(parents) - level + (1 if is_package else 0)
    return ".".join([*parents[:keep], *([base] if base else [])])


def _packages_around(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


@cache
def _find(name: str) -> Path | None:
    """The source file of a module. Unlike `importlib.util.find_spec` on a dotted name, imports nothing."""
    top, *rest = name.split(".")
    spec = _top_level(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        place = "/".join((folder, *rest))
        for file in (f"{place}/__init__.py", f"{place}.py"):
            # Most names are no modules, and to make a Path for each takes longer than to look for it.
            if os.path.isfile(file):  # noqa: PTH113
                return Path(file)
    return None


@cache
def _top_level(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # __main__ and the like have none
        return None
