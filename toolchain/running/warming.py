"""Libraries that take seconds to import, imported before the step that needs them is ready: a processor that
would idle meanwhile does it. It changes no output, only when it is there."""

from __future__ import annotations

import gc
import importlib
import traceback
from collections.abc import Iterable

# By distribution, as a step's `tools` name them: the modules whose import takes long. What transformers asks
# of the environment has to be there before it is imported.
_MODULES = {
    "torch": ("torch",),
    "transformers": ("toolchain.importing.offline", "transformers.models.auto.modeling_auto"),
    "huggingface_hub": ("huggingface_hub.repocard",),
    "optimum-onnx": ("optimum.exporters.onnx",),
    "scikit-learn": ("sklearn.base",),
    "skl2onnx": ("skl2onnx",),
    "scipy": ("scipy.stats",),
}


def slow(tools: Iterable[str]) -> frozenset[str]:
    """Those of the distributions that take long to import."""
    return frozenset(tool for tool in tools if tool in _MODULES)


def import_ahead(tools: Iterable[str], module: str = "") -> None:
    """Imports what is slow of the distributions, in the order of the table, and then the step's own `module`,
    if one is named. What cannot be imported is told in the worker's log, and is an error only of the step
    that really needs it."""
    wanted = slow(tools)
    names = [name for tool, modules in _MODULES.items() if tool in wanted for name in modules]
    gc.disable()  # imports leave little garbage, and looking for it takes a sixth of their time
    try:
        for name in [*names, module] if module else names:
            _import(name)
    finally:
        gc.enable()


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # noqa: BLE001 - an import may raise anything; the step meets it again
        traceback.print_exc()
