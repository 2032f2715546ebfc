"""E-processes on two streams of yes-or-no outcomes: is the canary's rate above the baseline's, or not?

An e-process is a betting score that starts at 1 and that, while the null hypothesis is true, is expected
not to grow. So it may be looked at after every block and stopped at any time: under the null it ever
reaches 1/α with probability at most α (Ville 1939).

The factor of a block is that of Turner, Ly and Grünwald, "Generic E-variables for exact sequential k-sample
tests that allow for optional stopping" (2024, arXiv:2106.02693) and Turner and Grünwald, "Exact anytime-valid
confidence intervals for contingency tables and beyond" (2023, arXiv:2203.09785): the likelihood of an
alternative (a, b) over that of the point of the null nearest to it in Kullback-Leibler divergence, weighted
by the block's counts. Both nulls here are half-planes bounded by `canary = baseline + margin`.

Why that is valid for any block sizes m and n: the expected factor of one canary outcome is linear in the
canary's true rate, f(x), and likewise g(y) for the baseline. Nearest means that m f + n g <= m + n all over
the convex null, so by the inequality of arithmetic and geometric means f^m g^n <= 1.

Alternatives are risk ratios; for each ratio the rates are estimated from *earlier* blocks only, and the score
is the mean over the ratios, so it is an e-process too. Assumed: outcomes are independent, and a block's sizes
do not depend on its outcomes. Requests of one device that fail together break that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Question = Literal["worse", "no_worse"]

# How often the canary's outcome is as likely as the baseline's, in the alternatives that are bet on.
WORSE_RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
NO_WORSE_RATIOS = (0.1, 0.25, 0.5, 0.75, 1.0)

# A block closes when each arm has this many new outcomes, and this share of what it had before: fewer and
# larger blocks cost less and lose next to nothing.
BLOCK_MIN = 10
BLOCK_SHARE = 0.05

# Before any data the baseline's rate is taken for 5%, with the weight of two outcomes.
_PRIOR_RATE, _PRIOR_WEIGHT = 0.05, 2.0
_LOWEST, _HIGHEST = 1e-9, 0.98
_BISECTIONS = 60


class Arms(msgspec.Struct, frozen=True):
    """Counts of both arms: outcomes (`_n`) and those among them that were bad (`_k`)."""

    canary_n: int = 0
    canary_k: int = 0
    baseline_n: int = 0
    baseline_k: int = 0

    def __add__(self, other: Arms) -> Arms:
        return Arms(
            self.canary_n + other.canary_n,
            self.canary_k + other.canary_k,
            self.baseline_n + other.baseline_n,
            self.baseline_k + other.baseline_k,
        )


class EProcess(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence for one question, so far.

    `worse`: against the null that the canary's rate is at most the baseline's plus `margin`.
    `no_worse`: against the null that it is at least the baseline's plus `margin`.
    `log_wealth` holds one score (natural logarithm) per risk ratio; `seen` what they were computed from;
    `pending` what waits until its block is full.
    """

    question: Question
    margin: float
    log_wealth: tuple[float, ...]
    seen: Arms = Arms()
    pending: Arms = Arms()

    @property
    def log_e(self) -> float:
        """The natural logarithm of the e-value: evidence against the null in all closed blocks."""
        return float(log_mean_exp(np.array(self.log_wealth)))

    @property
    def total(self) -> Arms:
        """All outcomes, those of the open block included."""
        return self.seen + self.pending

    def update(self, batches: Iterable[Arms]) -> EProcess:
        """The process after more outcomes, in the order in which they arrived."""
        wealth, seen, pending = np.array(self.log_wealth), self.seen, self.pending
        for batch in batches:
            pending = pending + batch
            if _is_full(pending, seen):
                wealth = advance(self.question, self.margin, wealth, _array(seen), _array(pending))
                seen, pending = seen + pending, Arms()
        return msgspec.structs.replace(
            self, log_wealth=tuple(float(value) for value in wealth), seen=seen, pending=pending
        )


def start(question: Question, margin: float) -> EProcess:
    """A process without any evidence: its e-value is 1. `margin` is in [0, 1)."""
    return EProcess(question=question, margin=margin, log_wealth=(0.0,) * len(_ratios(question)))


def advance(question: Question, margin: float, log_wealth: Array, seen: Array, block: Array) -> Array:
    """The logarithms of wealth after one more block. `log_wealth` has shape (…, ratios); `seen` and `block`
    have shape (…, 4) in the order of `Arms`, and each arm of `block` has at least one outcome."""
    ratios = np.array(_ratios(question))
    canary, baseline = _alternatives(ratios, seen)
    canary_n, canary_k, baseline_n, baseline_k = (block[..., index, None] for index in range(4))
    nearest = _project(canary, baseline, canary_n, baseline_n, margin)
    factor = _log_likelihood(canary_n, canary_k, canary) + _log_likelihood(baseline_n, baseline_k, baseline)
    factor -= _log_likelihood(canary_n, canary_k, nearest + margin)
    factor -= _log_likelihood(baseline_n, baseline_k, nearest)
    # An alternative within the null is its own nearest point: no bet, factor 1.
    gap = canary - baseline - margin
    outside = gap > 0 if question == "worse" else gap < 0
    return log_wealth + np.where(outside, factor, 0.0)


def log_mean_exp(log_wealth: Array) -> Array:
    """log of the mean of exp over the last axis."""
    top = log_wealth.max(axis=-1, keepdims=True)
    mean: Array = np.log(np.exp(log_wealth - top).mean(axis=-1)) + top[..., 0]
    return mean


def _ratios(question: Question) -> tuple[float, ...]:
    return WORSE_RATIOS if question == "worse" else NO_WORSE_RATIOS


def _is_full(pending: Arms, seen: Arms) -> bool:
    # Sizes only, never outcomes: that keeps the closing of a block free of what it will show.
    return pending.canary_n >= max(BLOCK_MIN, BLOCK_SHARE * seen.canary_n) and pending.baseline_n >= max(
        BLOCK_MIN, BLOCK_SHARE * seen.baseline_n
    )


def _array(arms: Arms) -> Array:
    return np.array(msgspec.structs.astuple(arms), dtype=np.float64)


def _alternatives(ratios: Array, seen: Array) -> tuple[Array, Array]:
    """For each ratio r the pair (r b, b), b estimated from both arms as if r were true."""
    canary_n, canary_k, baseline_n, baseline_k = (seen[..., index, None] for index in range(4))
    bad = canary_k + baseline_k + _PRIOR_RATE * _PRIOR_WEIGHT
    exposure = baseline_n + ratios * canary_n + _PRIOR_WEIGHT
    baseline = np.clip(bad / exposure, _LOWEST, _HIGHEST)
    return np.clip(ratios * baseline, _LOWEST, _HIGHEST), baseline


def _project(canary: Array, baseline: Array, canary_n: Array, baseline_n: Array, margin: float) -> Array:
    """The t whose point (t + margin, t) on the null's edge is nearest to (canary, baseline): the minimum of
    canary_n KL(canary | t + margin) + baseline_n KL(baseline | t), which is convex in t."""
    if margin == 0:
        return (canary_n * canary + baseline_n * baseline) / (canary_n + baseline_n)
    low = np.zeros(np.broadcast_shapes(canary.shape, canary_n.shape))
    high = np.full_like(low, 1.0 - margin)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        shifted = middle + margin
        slope = canary_n * (shifted - canary) / (shifted * (1 - shifted))
        slope += baseline_n * (middle - baseline) / (middle * (1 - middle))
        rising = slope > 0
        high = np.where(rising, middle, high)
        low = np.where(rising, low, middle)
    result: Array = (low + high) / 2
    return result


def _log_likelihood(n: Array, k: Array, rate: Array) -> Array:
    value: Array = k * np.log(rate) + (n - k) * np.log1p(-rate)
    return value
