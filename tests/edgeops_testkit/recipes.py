"""The digits recipe made small and quick, and building it as a user does."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models.digits
from edgeops.signing.keys import new_key

PACKAGED = Path(models.digits.__path__[0])

_SMALL = (
    ("channels: 16, hidden: 64", "channels: 2, hidden: 8"),
    (
        "{epochs: 15, batch_size: 64, learning_rate: 0.006}",
        "{epochs: 1, batch_size: 128, learning_rate: 0.01}",
    ),
    (
        "{epochs: 12, batch_size: 64, learning_rate: 0.005}",
        "{epochs: 1, batch_size: 128, learning_rate: 0.01}",
    ),
    ("seeds: [1, 2, 3]", "seeds: [1]"),
    ("target_error: 0.05, minimum_accepted: 100", "target_error: 0.99, minimum_accepted: 1"),
    ("accuracy, variant: onnx-int8, at_least: 0.88", "accuracy, variant: onnx-int8, at_least: 0.01"),
    ("drop_against: onnx-fp32, at_most: 0.02", "drop_against: onnx-fp32, at_most: 1"),
    ("worst_class_accuracy, variant: onnx-int8, at_least: 0.6", "nll, variant: onnx-int8, at_most: 99"),
    (
        "accuracy, variant: teacher-onnx-fp32, at_least: 0.95",
        "accuracy, variant: teacher-onnx-fp32, at_least: 0",
    ),
)


def changed(text: str, *changes: tuple[str, str]) -> str:
    """`text` with each old part, which must be there, replaced."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def small_recipe(folder: Path, *changes: tuple[str, str], name: str = "recipe.yaml") -> Path:
    """Writes the small recipe, with further changes, and returns its path. Its models are as good as none:
    what is tested with it is the build."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    text = (PACKAGED / "recipe.yaml").read_text(encoding="utf-8")
    path.write_text(changed(text, *_SMALL, *changes), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Builder:
    """A builder's desk: a home with its cache, a key, and an output folder."""

    home: Path
    key: Path
    out: Path

    @classmethod
    def at(cls, folder: Path, *, key: Path | None = None) -> "Builder":
        made = key if key is not None else new_key("builder", folder)[0]
        return cls(home=folder / "home", key=made, out=folder / "out")

    @property
    def public_key(self) -> Path:
        return self.key.with_suffix(".pub")

    def command(self, recipe: Path | str, *flags: str) -> list[str]:
        options = ["--out", str(self.out), "--key", str(self.key), "--json", *flags]
        return [str(Path(sys.executable).with_name("edgeops")), "build", str(recipe), *options]

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "EDGEOPS_HOME": str(self.home), **more}

    def start(self, recipe: Path | str, *flags: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(recipe, *flags),
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, recipe: Path | str, *flags: str, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(recipe, *flags),
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=200,
        )

    def build(self, recipe: Path | str, *flags: str, **more: Any) -> dict[str, Any]:
        """Builds, and returns the line of JSON. Fails with the log if the build does."""
        done = self.run(recipe, *flags, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return last_line(done.stdout)


def last_line(stdout: str) -> dict[str, Any]:
    """The last line of output as JSON."""
    line: dict[str, Any] = json.loads(stdout.strip().splitlines()[-1])
    return line


@dataclass(frozen=True)
class SmallBuild:
    """The small recipe built: by whom, from which file, and the line of JSON that the build ended with."""

    builder: Builder
    recipe: Path
    line: dict[str, Any]

    @property
    def bundle(self) -> Path:
        return Path(self.line["path"])

    def with_out(self, out: Path) -> Builder:
        """The same builder, with its cache, and another output folder."""
        return Builder(self.builder.home, self.builder.key, out)
