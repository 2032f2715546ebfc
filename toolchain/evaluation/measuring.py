"""Time and memory of one process on one machine."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from edgeops.engines.base import LanguageEngine
from toolchain.handover.arrays import Array

WARMUP_RUNS = 50
TIMED_RUNS = 500
# A slow model is timed for this long at most (and so warmed up for a tenth of it), but this often at least.
TIMED_S = 10.0
LEAST_RUNS = 20
# Of a language model: so many tokens are read, and so many generated at a time, until there are enough.
PROMPT_TOKENS = 64
ANSWER_TOKENS = 32
TIMED_TOKENS = 128

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5), clear_refs: the peak resident set size becomes the present one


class MemoryMeter:
    """How much more memory than at its making this process has had resident at once.

    Where the kernel cannot forget an earlier peak (other systems than Linux), that peak counts too: the
    figure is then too large, never too small."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            _CLEAR_REFS.write_text(_RESET_PEAK)
            self._before = _status("VmRSS")
        else:
            self._before = 0

    def peak_bytes(self) -> int:
        """The most so far."""
        # Not getrusage on Linux: it hands a parent's peak on to what it forks.
        peak = (
            _status("VmHWM")
            if sys.platform == "linux"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        )
        return max(peak - self._before, 0)


def call_times_ms(call: Callable[[int], object]) -> list[float]:
    """Milliseconds of each of many calls of `call(number)`, in this process: no protocol, no queue."""
    warm_until = time.monotonic() + TIMED_S / 10
    for number in range(WARMUP_RUNS):
        call(number)
        if time.monotonic() > warm_until:
            break
    times: list[float] = []
    until = time.monotonic() + TIMED_S
    while len(times) < TIMED_RUNS and (len(times) < LEAST_RUNS or time.monotonic() < until):
        start = time.perf_counter_ns()
        call(len(times))
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def step_times_ms(items: Iterable[object]) -> list[float]:
    """Milliseconds until each item came, the first one counted from this call."""
    times: list[float] = []
    start = time.perf_counter_ns()
    for _ in items:
        now = time.perf_counter_ns()
        times.append((now - start) / 1e6)
        start = now
    return times


def generation_times(engine: LanguageEngine, tokens: Array) -> dict[str, float]:
    """How fast the engine goes on from held-out text, `tokens` of shape (windows, length).

    `latency_p50_ms` and `latency_p99_ms` are of one generated token but the first of an answer;
    `first_token_ms` (median) is that one's, with the prompt of `PROMPT_TOKENS` before it; `tokens_per_s`
    counts all but first ones. Those that nothing was generated for are left out, and a gate on them fails.
    """
    firsts: list[float] = []
    others: list[float] = []
    until = time.monotonic() + TIMED_S
    for window in tokens:
        if len(others) >= TIMED_TOKENS or (firsts and time.monotonic() > until):
            break
        prompt = window[: min(PROMPT_TOKENS, len(window))].tolist()
        times = step_times_ms(engine.generate(prompt, max_tokens=ANSWER_TOKENS))
        firsts += times[:1]
        others += times[1:]
    told = {"first_token_ms": round(statistics.median(firsts), 6)} if firsts else {}
    if others:
        told |= quantiles(others) | {"tokens_per_s": round(1000 / statistics.fmean(others), 6)}
    return told


def quantiles(times_ms: Sequence[float]) -> dict[str, float]:
    """`latency_p50_ms` and `latency_p99_ms`, to six digits."""
    p50, p99 = np.percentile(times_ms, [50, 99])
    return {"latency_p50_ms": round(float(p50), 6), "latency_p99_ms": round(float(p99), 6)}


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) << 10
