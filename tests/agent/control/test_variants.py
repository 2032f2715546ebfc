"""Which variant a device takes, and why not the others."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.updates.variants import choose_variant, why_not
from edgeops.errors import ArtifactError
from edgeops.manifest import FileEntry, Language, Manifest, ManifestFields, Runtime, Variant

INSTALLED = version("onnxruntime")


def variant(name: str, **changes: object) -> Variant:
    runtime = Runtime(
        engine=str(changes.get("engine", "onnxruntime")),
        min_version=str(changes.get("min_version", "1.20")),
        instruction_sets=tuple(changes.get("instruction_sets", ())),  # type: ignore[arg-type]
    )
    return Variant(
        id=name, format="onnx", precision="fp32", runtime=runtime,
        files=(FileEntry(path=f"variants/{name}/model.onnx", sha256="0" * 64, size_bytes=1),),
        memory_bytes=int(changes.get("memory_bytes", 1 << 20)),  # type: ignore[call-overload]
        target="cloud" if changes.get("cloud") else "device",
    )  # fmt: skip


def manifest(*variants: Variant) -> Manifest:
    return Manifest.create(
        ManifestFields(
            schema_version="1.0", name="digits", version="1.0.0", task="classification",
            variants=variants, inputs=(), outputs=(), files=(),
        )
    )  # fmt: skip


def test_the_builders_first_choice_that_fits_is_taken() -> None:
    bundle = manifest(
        variant("teacher", cloud=True),
        variant("big", memory_bytes=1 << 40),
        variant("good"),
        variant("also-good"),
    )
    assert choose_variant(bundle, 1 << 30).id == "good"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"engine": "llama.cpp"}, "is for llama.cpp, which this agent does not run"),
        ({"min_version": "999.0"}, f"needs onnxruntime 999.0, and {INSTALLED} is installed"),
        ({"instruction_sets": ("warp-drive",)}, "needs the instruction sets warp-drive"),
        ({"memory_bytes": 1 << 40}, "bytes of memory"),
    ],
)
def test_what_does_not_fit_says_why(changes: dict[str, object], reason: str) -> None:
    unfit = variant("unfit", **changes)
    assert reason in (why_not(unfit, 1 << 30) or "")
    with pytest.raises(
        ArtifactError, match=r"No variant of digits 1\.0\.0 fits this device: unfit (needs|is)"
    ):
        choose_variant(manifest(unfit), 1 << 30)


def test_a_variant_for_another_engine_is_passed_over() -> None:
    bundle = manifest(variant("gguf-q4_k_m", engine="llama.cpp"), variant("good"))
    assert choose_variant(bundle, 1 << 30).id == "good"


def test_a_language_model_is_refused_whatever_its_format() -> None:
    """Its ONNX variant would load, and answer with what nobody on this device understands."""
    template = FileEntry(path="language/chat_template.jinja", sha256="0" * 64, size_bytes=1)
    fields = msgspec.structs.replace(
        manifest(variant("onnx-fp32")).fields,
        files=(template,),
        language=Language(context_tokens=512, chat_template=template.path),
    )
    with pytest.raises(ArtifactError, match="is a language model") as caught:
        choose_variant(Manifest.create(fields), 1 << 30)
    assert caught.value.remedy is not None


@pytest.mark.slow
def test_a_text_variant_needs_the_tokenizers_library(tmp_path: Path) -> None:
    """In an environment that has all but that one: another interpreter, which sees links to the others."""
    text = msgspec.structs.replace(
        variant("text"),
        files=tuple(
            FileEntry(path=f"variants/text/{name}", sha256="0" * 64, size_bytes=1)
            for name in ("model.onnx", "tokenizer.json")
        ),
    )
    assert why_not(text, 1 << 30) is None
    for each in Path(msgspec.__file__).parents[1].iterdir():
        if not each.name.startswith("tokenizers"):
            (tmp_path / each.name).symlink_to(each)
    program = """
import sys, msgspec
from device_agent.updates.variants import choose_variant
from edgeops.errors import ArtifactError
from edgeops.manifest import Manifest
try:
    choose_variant(Manifest.parse(sys.stdin.buffer.read()), 1 << 30)
except ArtifactError as error:
    print(error)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        input=manifest(text).to_bytes(),
        env={"PYTHONPATH": f"{tmp_path}:{root}"},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert b"needs tokenizers, which is not installed" in done.stdout
    assert b"edgeops[text]" in done.stdout


def test_a_bundle_without_device_variants_is_refused() -> None:
    with pytest.raises(ArtifactError, match="it has none for devices"):
        choose_variant(manifest(variant("teacher", cloud=True)), 1 << 30)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_versions_are_compared_by_number(parts: list[int]) -> None:
    """1.9 is older than 1.10, and 1.2 is 1.2.0."""
    have = [int(part) for part in INSTALLED.split(".")[:3]]
    wanted = [*have[: len(parts) - 1], have[len(parts) - 1] + parts[-1]]
    fits = why_not(variant("v", min_version=".".join(map(str, wanted))), 1 << 30) is None
    assert fits == (parts[-1] == 0)
