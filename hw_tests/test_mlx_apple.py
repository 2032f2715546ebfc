"""MLX on Apple silicon: that the folders made on Linux run on the GPU there, and answer as the CPU does."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeops.engines.mlx_engine import MlxEngine
from edgeops_testkit.language_models import tiny_model
from edgeops_testkit.onnx_models import language_variant, relative_error

TEXT = "The statement of the language, and its names."


def _why_not() -> str | None:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return f"needs Apple silicon, and this is {platform.system()} on {platform.machine()}"
    if importlib.util.find_spec("mlx_lm") is None:
        return "needs mlx-lm: pip install 'edgeops[mlx]'"
    return None


MISSING = _why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=MISSING or "")]

# The CPU's answer, by mlx-lm itself in a process of its own.
ON_CPU = """
import sys
from pathlib import Path
import mlx.core as mx
import numpy as np
mx.set_default_device(mx.cpu)
folder = Path(sys.argv[1])
from mlx_lm.utils import load_model
model, _ = load_model(folder)
model.set_dtype(mx.float32)
tokens = [int(token) for token in sys.argv[3:]]
np.save(sys.argv[2], np.array(model(mx.array([tokens]))[0].astype(mx.float32)))
"""


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_the_gpu_answers_as_the_cpu_does(tmp_path: Path, bits: int | None) -> None:
    import mlx.core as mx

    from quantize.mlx_group import convert

    assert mx.is_available(mx.gpu)
    source = tiny_model(tmp_path / "source", hidden=256)
    folder = tmp_path / "mlx"
    convert(source, folder, bits=bits)
    engine = MlxEngine.load(language_variant(folder, tmp_path, "mlx"), tmp_path)
    tokens = engine.tokenize(TEXT)
    answer = tmp_path / "cpu.npy"
    subprocess.run([sys.executable, "-c", ON_CPU, folder, answer, *map(str, tokens)], check=True)
    cpu = np.load(answer)
    assert relative_error(engine.logits(tokens), cpu) < 0.02
    assert len(list(engine.generate(tokens, max_tokens=8))) <= 8
