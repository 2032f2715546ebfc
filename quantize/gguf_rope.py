"""Rotary position embeddings: which scalings llama.cpp computes as transformers does, and how GGUF says so.

Plain, `linear`, `yarn` (Peng et al., arXiv:2309.00071) with the paper's constants, and `llama3`, whose
frequencies are written out as a tensor of divisors. Everything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

Refuse = Callable[[str], NoReturn]

_MAY_SAY = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "yarn": frozenset({"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "truncate"}),
    "llama3": frozenset(
        {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
    ),
}
# The ends of yarn's ramp that the paper gives, and that llama.cpp has built in.
_YARN_CONSTANTS = {"beta_fast": 32, "beta_slow": 1, "truncate": True}


@dataclass(frozen=True)
class Rope:
    """`metadata` by GGUF key below the architecture's prefix. `divisors`, if any, is float32 of shape
    (head size / 2,): what each pair's angle is divided by (the tensor `rope_freqs.weight`)."""

    metadata: Mapping[str, str | int | float]
    divisors: npt.NDArray[np.float32] | None = field(default=None, compare=False)


def rope_of(config: Mapping[str, Any], head_size: int, *, frequencies: bool, refuse: Refuse) -> Rope:
    """What `config.json` says, in its form up to transformers 4 (`rope_theta`, `rope_scaling`) or from 5 on
    (`rope_parameters`). `frequencies`: whether llama.cpp reads `rope_freqs` for the architecture. `refuse`
    is called on what is not known to be computed alike, and does not return."""
    scaling, theta = _parameters(config, refuse)
    if config.get("partial_rotary_factor") not in (None, 1, 1.0):
        refuse("rotates only part of each head (partial_rotary_factor)")
    kind = scaling.pop("rope_type", "default")
    old_name = scaling.pop("type", kind)
    if "default" not in (kind, old_name) and kind != old_name:
        refuse(f"names two rope scalings, {kind!r} and {old_name!r}")
    kind = old_name if kind == "default" else kind
    if kind not in _MAY_SAY:
        refuse(f"has the rope scaling {kind!r}, which is not one of {', '.join(_MAY_SAY)}")
    unknown = {key for key, value in scaling.items() if value is not None} - _MAY_SAY[kind]
    if unknown:
        refuse(f"has a {kind} rope scaling with {', '.join(sorted(unknown))}, which llama.cpp has not")
    metadata: dict[str, str | int | float] = {"freq_base": theta}
    if kind == "default":
        return Rope(metadata)
    factor = positive(scaling, "factor", refuse)
    if factor < 1:
        refuse(f"has a rope scaling with the factor {factor}, below 1")
    if kind == "llama3":
        if not frequencies:
            refuse("has the rope scaling 'llama3', which llama.cpp has for Llama and Mistral only")
        return Rope(metadata, _llama3(scaling, theta, head_size, factor, refuse))
    metadata |= {"scaling.type": kind, "scaling.factor": factor}
    if kind == "yarn":
        for key, constant in _YARN_CONSTANTS.items():
            if scaling.get(key) not in (None, constant):
                refuse(f"has a yarn rope scaling with {key} = {scaling[key]!r}, not {constant}")
        before = scaling.get("original_max_position_embeddings") or config["max_position_embeddings"]
        if not isinstance(before, int) or before < 1:
            refuse(f"has a yarn rope scaling with original_max_position_embeddings = {before!r}")
        metadata["scaling.original_context_length"] = before
    return Rope(metadata)


def _parameters(config: Mapping[str, Any], refuse: Refuse) -> tuple[dict[str, Any], float]:
    old, new = config.get("rope_scaling"), config.get("rope_parameters")
    if old is not None and new is not None:
        refuse("has both rope_scaling and rope_parameters")
    given = new if new is not None else old
    if given is not None and not isinstance(given, Mapping):
        refuse(f"has the rope scaling {given!r}")
    scaling = dict(given or {})
    if any(isinstance(value, Mapping) for value in scaling.values()):
        refuse("has a rope for each kind of layer")
    inner = scaling.pop("rope_theta", None)
    outer = config.get("rope_theta")
    if None not in (inner, outer) and inner != outer:
        refuse(f"names two rope_theta, {inner} and {outer}")
    theta = inner if inner is not None else outer
    if theta is None:
        theta = 10000.0  # what every one of these classes takes when the file is silent
    return scaling, positive({"rope_theta": theta}, "rope_theta", refuse)


def _llama3(
    scaling: Mapping[str, Any], theta: float, head_size: int, factor: float, refuse: Refuse
) -> npt.NDArray[np.float32]:
    """Divisors for Llama 3.1's scaling: 1 for short wavelengths, `factor` for long ones, and between them
    the reciprocal of the smooth mean that transformers takes of both (`_compute_llama3_parameters`)."""
    low = positive(scaling, "low_freq_factor", refuse)
    high = positive(scaling, "high_freq_factor", refuse)
    before = positive(scaling, "original_max_position_embeddings", refuse)
    if high <= low:
        refuse(f"has a llama3 rope scaling whose high_freq_factor {high} is not above {low}")
    divisors = []
    for index in range(0, head_size, 2):
        wavelength = 2 * math.pi * theta ** (index / head_size)
        smooth = (before / wavelength - low) / (high - low)
        if wavelength < before / high:
            divisors.append(1.0)
        elif wavelength > before / low:
            divisors.append(factor)
        else:
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def positive(values: Mapping[str, Any], key: str, refuse: Refuse) -> float:
    """The number above 0 (and below 1e30) of that name in `config.json` or a part of it."""
    value = values.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
        refuse(f"has {key} = {value!r}, which is not a number above 0")
    return float(value)
