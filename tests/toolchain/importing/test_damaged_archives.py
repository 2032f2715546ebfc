"""Damaged and hostile `.npz` files: each is refused in one sentence, whatever reading it raises."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeops.errors import ArtifactError
from toolchain.importing.rows import load_rows


def read(path: Path) -> None:
    load_rows(
        path,
        name=path.name,
        task="image-classification",
        label="label",
        columns=(),
        classes=(),
        source="s",
        license="l",
    )


def sound() -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(0).random((20, 8), dtype=np.float32)
    np.savez_compressed(file, inputs=values, labels=np.zeros(20, np.int64), classes=np.array(["a", "b"]))
    return file.getvalue()


def test_a_compressed_archive_with_any_damage_is_refused_or_read(tmp_path: Path) -> None:
    """A flipped byte in compressed data fails in the decompressor, before any checksum is looked at."""
    whole, path = sound(), tmp_path / "t.npz"
    path.write_bytes(whole)
    read(path)
    chance, refused = random.Random(1), 0
    for _ in range(1000):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            read(path)
        except ArtifactError as error:
            refused += 1
            assert error.subject == "t.npz"
            assert "\n" not in error.message
    assert refused > 500


def header(text: str) -> bytes:
    """An array in version 1.0 of NumPy's format with that header
    (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html)."""
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + bytes(64)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{[]: 1}", "damaged header"),
        ("'''", "damaged header"),
        ("(" * 5000, "damaged header"),
        ("-" * 9000 + "1", "damaged header"),
        ("{'descr': ('<f4',), 'fortran_order': False, 'shape': (2,)}", "damaged header"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", r"of the shape \(-2,\)"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", r"of the shape \(True,\)"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-" + "9" * 400 + ",)}", "of the shape"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 400 + ",)}", "unpacks to more than"),
    ],
)
def test_an_array_with_a_hostile_header_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("inputs.npy", header(text))
    with pytest.raises(ArtifactError, match=what) as caught:
        read(path)
    assert len(caught.value.message) < 300
