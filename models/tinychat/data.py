"""The tinychat data: documentation that ships with Python, as text and as questions and answers.

It is read from the installed modules in an order that does not change. Another version of Python may word its
documentation in another way: the data's digest in the bundle tells.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

from models.dataset import Corpus
from models.tinychat.chats import chats

MODULES = """
builtins math random statistics textwrap json re functools collections datetime time shutil heapq bisect
operator csv glob hashlib tempfile threading
"""
MAX_DOCUMENT = 500
MIN_DOCUMENT = 60


def load(*, text_characters: int) -> Corpus:
    """All chats, and documents of documentation of `text_characters` in total."""
    documents = list(chats())
    seen: set[str] = set()
    size = 0
    for text in _documentation():
        if size + len(text) > text_characters:
            break
        if text not in seen:
            seen.add(text)
            size += len(text)
            documents.append(text)
    return Corpus(
        documents=tuple(documents),
        source="docstrings of Python's standard library, as installed, and questions made of them",
        license="PSF-2.0",
    )


def _documentation() -> Iterator[str]:
    """A document for each function, class and method that says something of itself."""
    for module_name in MODULES.split():
        module = importlib.import_module(module_name)
        for name, member in sorted(vars(module).items()):
            if name.startswith("_") or not callable(member):
                continue
            if inspect.isclass(member):
                for method, function in sorted(vars(member).items()):
                    if not method.startswith("_") and callable(function):
                        yield from _document(f"{name}.{method}", function)
            else:
                yield from _document(name, member)


def _document(name: str, member: object) -> Iterator[str]:
    """The name and the first paragraphs of its docstring, as far as MAX_DOCUMENT characters go."""
    text = inspect.getdoc(member) or ""
    paragraphs: list[str] = []
    for paragraph in text.split("\n\n"):
        lines = " ".join(paragraph.split())
        if sum(map(len, paragraphs)) + len(lines) > MAX_DOCUMENT:
            break
        paragraphs.append(lines)
    document = f"{name}: " + "\n".join(paragraphs)
    # What is not ASCII, and what shows an object's address, is not the same everywhere.
    if len(document) >= MIN_DOCUMENT and document.isascii() and " at 0x" not in document:
        yield document
