"""The import statements of a source, read from its syntax tree, and kept from build to build.

They follow from the source's bytes alone, so what was found once is found again by their SHA-256, and a build
that changes nothing parses nothing. What is kept serves speed only: without it all is parsed anew.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import msgspec

from edgeops.canonical import sha256_bytes
from edgeops.durable import write_atomic
from toolchain.caching.locks import FileLock

KEPT_FILE = "statements"
LOCK_FILE = "lock"
# Of an installation with all its recipes there are some hundred; each takes about half a kilobyte.
MAX_SOURCES = 2048


class ImportStatement(msgspec.Struct, frozen=True, array_like=True):
    """`import a, b.c` has the names `a` and `b.c`; `from ..d import e` has the name `e`, the base `d` and the
    level 2. `base` is None for the first form, and empty for `from . import e`."""

    names: tuple[str, ...]
    base: str | None = None
    level: int = 0


Statements = tuple[ImportStatement, ...]


def import_statements(source: bytes, digest: str, name: str) -> Statements:
    """The import statements of a module's `source`, whose SHA-256 is `digest`, however deep they stand.

    Inside `imports_kept` a source that was parsed in an earlier build is not parsed again. `name` is what
    the `SyntaxError` on a source that is not Python calls it.
    """
    kept = _kept.get()
    if kept is None:
        return _parse(source, name)
    return kept.find(source, digest, name)


@contextmanager
def imports_kept(folder: Path) -> Iterator[None]:
    """Inside the block, `import_statements` knows what is kept in `folder`. If the block ends well, what it
    parsed is kept there too, and what was used longest ago makes room.

    Builds may do so at once: readers see a whole file, writers take turns and lose nothing. What is damaged,
    or was kept by another Python or another state of this module, is not believed, and replaced. Raises
    `ConfigError` if the folder cannot be written.
    """
    kept = _Kept(folder)
    before = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(before)
    kept.save()


class _Kept:
    """What is kept in a folder, and what of it, or beyond it, this process used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / KEPT_FILE
        self._reader = _reader()
        self._known = self._load()
        self._used: dict[str, Statements] = {}

    def find(self, source: bytes, digest: str, name: str) -> Statements:
        found = self._known.get(digest)
        self._used[digest] = _parse(source, name) if found is None else found
        return self._used[digest]

    def save(self) -> None:
        if self._used.keys() <= self._known.keys():
            with suppress(FileNotFoundError):  # nothing was used, or a prune removed it
                os.utime(self._file)
            return
        lock = FileLock.acquire(self._folder / LOCK_FILE)
        assert lock is not None
        with lock:
            others = {digest: found for digest, found in self._load().items() if digest not in self._used}
            newest = list((others | self._used).items())[-MAX_SOURCES:]
            body = msgspec.json.encode(dict(newest))
            write_atomic(self._file, self._seal(body) + body)

    def _load(self) -> dict[str, Statements]:
        try:
            data = self._file.read_bytes()
        except OSError:  # missing, or damaged in its folder: `save` tells if nothing can be written there
            return {}
        head, newline, body = data.partition(b"\n")
        if head + newline != self._seal(body):
            return {}
        return msgspec.json.decode(body, type=dict[str, Statements])

    def _seal(self, body: bytes) -> bytes:
        """The first line of the file: the digest of the rest and of who reads it, so that neither damage nor
        another reader's statements can decide a step's key."""
        return sha256_bytes(self._reader + body).encode() + b"\n"


_kept: ContextVar[_Kept | None] = ContextVar("kept import statements", default=None)


def _reader() -> bytes:
    """What the statements depend on beside the source: the parser, and this module."""
    return sha256_bytes(sys.version.encode() + Path(__file__).read_bytes()).encode()


def _parse(source: bytes, name: str) -> Statements:
    found: list[ImportStatement] = []
    for node in _statements(ast.parse(source, filename=name)):
        if isinstance(node, ast.Import):
            found.append(ImportStatement(_names(node)))
        elif isinstance(node, ast.ImportFrom):
            found.append(ImportStatement(_names(node), node.module or "", node.level))
    return tuple(found)


def _names(node: ast.Import | ast.ImportFrom) -> tuple[str, ...]:
    return tuple(alias.name for alias in node.names)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements, however deep. Imports are statements: expressions need not be looked through."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            pending += getattr(node, block, [])
