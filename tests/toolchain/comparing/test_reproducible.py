"""`edgeops build --check-reproducible`: two builds are the same, or the first difference is named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgeops.bundle import verify_bundle
from edgeops.errors import ArtifactError, ConfigError
from edgeops.signing.keys import keyring, load_public_key
from edgeops_testkit.graphs import write_linear
from edgeops_testkit.recipes import Builder, SmallBuild, last_line, small_recipe
from toolchain.comparing.reproducible import check_same

UNSTEADY = """
import dataclasses, os
from models.digits.data import load as steady

def load():
    return dataclasses.replace(steady(), source="digits as seen from " + os.environ["TZ"])
"""


def two(folder: Path, files: dict[str, tuple[bytes | None, bytes | None]]) -> tuple[Path, Path]:
    """Two folders with these files in each; None is no file."""
    for number, name in enumerate(("first", "second")):
        (folder / name).mkdir()
        for path, contents in files.items():
            if contents[number] is not None:
                (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / name / path).write_bytes(contents[number])
    return folder / "first", folder / "second"


def test_what_was_measured_may_differ(tmp_path: Path) -> None:
    check_same(*two(tmp_path, {"a": (b"1", b"1"), "measurements.json": (b"fast", b"slow")}))


@pytest.mark.parametrize(
    ("files", "subject", "where"),
    [
        ({"a": (b"12345", b"12x45")}, "a", "at byte 2"),
        ({"a": (b"123", b"12345")}, "a", "at byte 3"),
        ({"a": (b"1", None)}, "a", "only build 1 has it"),
        ({"a": (None, b"1")}, "a", "only build 2 has it"),
        ({"a.json": (b'{"x": [1, 2]}', b'{"x": [1, 3]}')}, "a.json", r"at x\[1\]: 2 and 3"),
        ({"a.json": (b'{"x": 1}', b'{"x":1}')}, "a.json", "in how its JSON is written"),
        # What follows from a difference is not named before it.
        (
            {"manifest.json": (b"1", b"2"), "README.md": (b"1", b"2"), "variants/v/m": (b"1", b"2")},
            "variants/v/m",
            "byte 0",
        ),
        ({"manifest.json": (b"1", b"2"), "README.md": (b"1", b"2")}, "README.md", "byte 0"),
    ],
)
def test_the_first_difference_is_named(
    tmp_path: Path, files: dict[str, tuple[bytes | None, bytes | None]], subject: str, where: str
) -> None:
    with pytest.raises(ArtifactError, match=where) as caught:
        check_same(*two(tmp_path, files))
    assert caught.value.subject == subject


def safetensors(folder: Path, changed: float) -> bytes:
    tensors = {"b.weight": np.ones((2, 3), np.float32), "a.bias": np.zeros(4, np.float32)}
    tensors["b.weight"][1, 1] += changed
    save_file(tensors, folder / "model.safetensors")
    return (folder / "model.safetensors").read_bytes()


def onnx(folder: Path, changed: float) -> bytes:
    return write_linear(folder / "model.onnx", seed=int(changed > 0)).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make", "tensor"),
    [("model.safetensors", safetensors, "b.weight"), ("model.onnx", onnx, "W")],
)
def test_the_tensor_that_differs_is_named(
    tmp_path: Path, name: str, make: Callable[[Path, float], bytes], tensor: str
) -> None:
    path = f"variants/v/{name}"
    with pytest.raises(ArtifactError, match=f"at the tensor {tensor}"):
        check_same(*two(tmp_path, {path: (make(tmp_path, 0), make(tmp_path, 0.5))}))


@pytest.mark.slow
def test_a_reproducible_build_is_signed(small_build: SmallBuild, tmp_path: Path) -> None:
    builder = Builder.at(tmp_path)
    line = builder.build(small_build.recipe, "--check-reproducible")
    keys = keyring([load_public_key(builder.public_key)])
    assert verify_bundle(Path(line["path"]), keys).digest == line["digest"] == small_build.line["digest"]
    assert line["steps_run"] == small_build.line["steps_run"]
    assert not (builder.home / "cache").exists()


@pytest.mark.slow
def test_one_that_follows_its_surroundings_is_refused_and_not_signed(tmp_path: Path) -> None:
    (tmp_path / "unsteady.py").write_text(UNSTEADY)
    builder = Builder.at(tmp_path)
    recipe = small_recipe(tmp_path / "recipe", ("factory: models.digits.data:load", "factory: unsteady:load"))
    done = builder.run(recipe, "--check-reproducible", PYTHONPATH=str(tmp_path))
    assert done.returncode == ArtifactError.exit_code, done.stderr
    error = last_line(done.stdout)["error"]
    assert "not reproducible" in error["message"]
    assert "seen from" in json.dumps(error["details"]) or error["subject"] == "README.md"
    assert list(builder.out.iterdir()) == []


@pytest.mark.slow
def test_an_error_in_a_build_is_that_error(tmp_path: Path) -> None:
    builder = Builder.at(tmp_path)
    recipe = small_recipe(tmp_path / "recipe", ("factory: models.digits.data:load", "factory: no.such:load"))
    done = builder.run(recipe, "--check-reproducible")
    assert done.returncode == ConfigError.exit_code
    assert "'no.such' cannot be found" in done.stderr
    assert list(builder.out.iterdir()) == []
