"""Documents for a language model from a file."""

from __future__ import annotations

import re
from pathlib import Path

from models.dataset import Corpus
from toolchain.importing.rows import TEXT_KEY, bad_file, check_size, json_lines, read_text


def load_documents(path: Path, *, name: str, source: str, license: str) -> Corpus:
    """The documents in the file at `path`, which errors call `name`: `.jsonl`, one object with a `text` in
    each line; or `.txt`, where lines that hold nothing part them.

    Raises `ArtifactError` (subject: `name`).
    """
    check_size(path, name)
    suffix = Path(name).suffix.lower()
    if suffix == ".jsonl":
        documents = []
        for line, value in json_lines(path, name):
            if not isinstance(value.get(TEXT_KEY), str):
                raise bad_file(name, f"has no text in line {line}, field {TEXT_KEY!r}")
            documents.append(value[TEXT_KEY])
    elif suffix == ".txt":
        text = read_text(path, name).replace("\r\n", "\n")
        documents = [part.strip("\n") for part in re.split(r"\n[ \t]*\n", text) if part.strip()]
    else:
        raise bad_file(name, "is not a kind of file that text generation takes (.jsonl or .txt)")
    return Corpus(documents=tuple(documents), source=source, license=license)
