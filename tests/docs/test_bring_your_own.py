"""The commands of each guide "bring your own model" are run, in order, as a reader would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.recipe.file import read_recipe

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
SOURCES = ("python", "huggingface", "sklearn", "onnx", "gguf")


def test_there_is_a_guide_for_each_source() -> None:
    from toolchain.recipe.models import ModelSource

    tags = {kind.__struct_config__.tag for kind in ModelSource.__args__}
    assert tags == set(SOURCES)
    assert {path.name for path in GUIDES.glob("*.md")} == {
        f"bring-your-own-{source}.md" for source in SOURCES
    }


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_every_command_of_the_guide_works(source: str, tmp_path: Path) -> None:
    text = (GUIDES / f"bring-your-own-{source}.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "EDGEOPS_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        # Threads that wait for each other on a busy machine take minutes for what one does in seconds.
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PYTHONPATH", None)
    place = tmp_path / "place"
    place.mkdir()
    done = subprocess.run(
        ["bash", "-c", "set -e\n" + "\n".join(blocks)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    recipe = read_recipe(place / "recipe.yaml")
    assert next(iter(recipe.models.values())).__struct_config__.tag == source
    bundle = place / "out" / recipe.label
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    assert [variant["id"] for variant in manifest["variants"]] == [variant.id for variant in recipe.listed]
    report = json.loads((bundle / "evaluation" / "report.json").read_bytes())
    assert all(gate["passed"] for gate in report["gates"])


def test_links_lead_somewhere() -> None:
    for guide in GUIDES.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+\.md)", guide.read_text()):
            assert (guide.parent / link).is_file(), f"{guide.name}: {link}"
