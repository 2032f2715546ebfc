"""What a search keeps, and that each rejection's reason is true of the figures."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.evaluation.report import EvaluationResult
from toolchain.recipe.evaluation import Gate
from toolchain.recipe.variants import Search, VariantSpec
from toolchain.search.choose import Choice, Trial, choose, is_on_front

SEARCH = Search(
    model="m", formats=("onnx",), metric="accuracy", max_drop=0.02, memory_budget_mb=1, max_variants=16
)
MIB = 1 << 20


def trial(
    name: str,
    accuracy: float | None = 0.95,
    size_bytes: int = 1000,
    latency_ms: float = 1.0,
    *,
    memory_bytes: int = 1000,
    format: str = "onnx",
    refusal: str | None = None,
) -> Trial:
    precision = {"fp32": "fp32", "f16": "f16"}.get(
        name.rpartition("-")[2], "int8" if format == "onnx" else "q8_0"
    )
    variant = VariantSpec(id=name, model="m", precision=precision, format=format, memory_budget_mb=1)  # type: ignore[arg-type]
    if refusal is not None:
        return Trial(variant=variant, refusal=refusal)
    return Trial(
        variant=variant,
        evaluation=EvaluationResult(
            variant=name,
            format=format,
            precision=precision,
            size_bytes=size_bytes,
            metrics={"accuracy": accuracy, "size_bytes": float(size_bytes)},
            source={"accuracy": 0.95},
        ),
        measurements={"latency_p50_ms": latency_ms, "memory_bytes": float(memory_bytes)},
    )


def kept(choice: Choice) -> list[str]:
    return [one.variant.id for one in choice.chosen]


def reason(choice: Choice, name: str) -> str:
    return next(one.reason for one in choice.rejected if one.id == name)


FP32 = trial("onnx-fp32")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (trial("x", refusal="refused: nothing was quantized"), "refused: nothing was quantized"),
        (trial("x", accuracy=0.9, size_bytes=10), r"loses 0\.05 of accuracy, at most 0\.02 is allowed"),
        (trial("x", accuracy=0.929, size_bytes=10), r"loses 0\.021 of accuracy"),
        (trial("x", accuracy=None), "there is no accuracy of it"),
        (trial("x", size_bytes=10, memory_bytes=2 * MIB), r"fails the gate memory_bytes of x <= 1048576 \(2"),
        (
            trial("x", size_bytes=1200),
            r"larger than onnx-fp32 \(1200 and 1000 bytes\), no faster .* no better",
        ),
        (trial("x", latency_ms=2.0), r"no smaller than onnx-fp32 .*, slower \(2 and 1 ms\) and no better"),
        (trial("x", accuracy=0.94), r"no smaller .* and worse \(accuracy 0\.94 and 0\.95\)"),
        (trial("x", size_bytes=10, latency_ms=20), r"fails the gate latency_p50_ms of x <= 10 \(20 found"),
    ],
)
def test_a_rejection_says_why(other: Trial, words: str) -> None:
    choice = choose(SEARCH, [Gate(metric="latency_p50_ms", at_most=10)], [FP32, other])
    assert kept(choice) == ["onnx-fp32"]
    assert re.search(words, reason(choice, "x")), reason(choice, "x")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(trial("x", size_bytes=900), id="smaller"),
        pytest.param(trial("x", size_bytes=900, accuracy=0.93), id="smaller, and just good enough"),
        pytest.param(trial("x", latency_ms=0.9, size_bytes=1200), id="larger and faster"),
        pytest.param(trial("x", accuracy=0.96, size_bytes=1200, latency_ms=2), id="better"),
    ],
)
def test_what_is_ahead_in_anything_is_kept(other: Trial) -> None:
    assert "x" in kept(choose(SEARCH, [], [FP32, other]))


def test_formats_are_judged_by_themselves_and_kept_in_turn() -> None:
    search = Search(
        model="m",
        formats=("onnx", "gguf"),
        metric="accuracy",
        max_drop=0.02,
        memory_budget_mb=1,
        max_variants=2,
    )
    trials = [
        trial("onnx-fp32", size_bytes=4000, latency_ms=9),
        trial("onnx-small", size_bytes=1000, latency_ms=9),
        trial("onnx-fast", size_bytes=2000, latency_ms=5),
        trial("gguf-f16", format="gguf", size_bytes=900, latency_ms=1),
    ]
    choice = choose(search, [], trials)
    assert kept(choice) == ["onnx-fast", "gguf-f16"]
    assert reason(choice, "onnx-small") == "on the front, and max_variants keeps 2 of the 3 there"


def test_the_front_can_be_told_by_the_reasons() -> None:
    search = msgspec.structs.replace(SEARCH, max_variants=1)
    trials = [
        trial("onnx-fast", size_bytes=4000, latency_ms=1),
        trial("onnx-small", size_bytes=1000, latency_ms=9),
        trial("onnx-beaten", size_bytes=5000, latency_ms=9),
        trial("onnx-poor", accuracy=0.5, size_bytes=10),
        trial("onnx-none", refusal="refused: no"),
    ]
    choice = choose(search, [], trials)
    assert kept(choice) == ["onnx-fast"]
    assert [one.id for one in choice.rejected if is_on_front(one.reason)] == ["onnx-small"]


def test_a_gate_of_one_variant_or_against_another_is_left_to_the_build() -> None:
    gates = [
        Gate(metric="accuracy", variant="cloud", at_least=0.99),
        Gate(metric="accuracy", drop_against="cloud", at_most=0),
    ]
    assert kept(choose(SEARCH, gates, [FP32])) == ["onnx-fp32"]


def test_without_a_figure_of_the_model_itself_nothing_is_kept() -> None:
    search = Search(model="m", formats=("onnx",), metric="macro_f1", max_drop=1, memory_budget_mb=1)
    choice = choose(search, [], [FP32])
    assert choice.reference is None
    assert choice.chosen == ()
    assert reason(choice, "onnx-fp32") == "there is no macro_f1 of it"


TRIALS = st.lists(
    st.one_of(
        st.builds(
            lambda q, s, t, m: (q, s, t, m),
            st.none() | st.sampled_from([0.9, 0.94, 0.95, 0.96]),
            st.sampled_from([500, 900, 1000, 1200]),
            st.sampled_from([0.8, 1.0, 1.03, 2.0, 30.0]),
            st.sampled_from([1000, 2 * MIB]),
        ),
        st.none(),
    ),
    min_size=1,
    max_size=8,
).map(
    lambda rows: [
        trial(f"v{i}", refusal="refused: no")
        if row is None
        else trial(f"v{i}", row[0], row[1], row[2], memory_bytes=row[3])
        for i, row in enumerate(rows)
    ]
)


@given(TRIALS, st.integers(1, 4))
def test_every_candidate_is_kept_or_rejected_for_a_true_reason(trials: list[Trial], most: int) -> None:
    search = Search(
        model="m", formats=("onnx",), metric="accuracy", max_drop=0.02, memory_budget_mb=1, max_variants=most
    )
    choice = choose(search, [Gate(metric="latency_p50_ms", at_most=10)], trials)
    chosen = kept(choice)
    assert len(chosen) <= most
    assert sorted([*chosen, *(one.id for one in choice.rejected)]) == sorted(t.variant.id for t in trials)
    figures = {t.variant.id: t for t in trials}
    fit = [t for t in trials if t.variant.id in chosen or is_on_front(reason(choice, t.variant.id))]
    _check_no_other_is_as_good(fit)
    for one in choice.rejected:
        _check_true(one.reason, figures[one.id], figures, chosen)


def _check_no_other_is_as_good(front: list[Trial]) -> None:
    """Whether of any two one is ahead in something, with latencies as exact as they were given."""

    def figures(one: Trial) -> tuple[float, int, float]:
        assert one.evaluation is not None
        accuracy = one.evaluation.metrics["accuracy"]
        assert accuracy is not None
        return -accuracy, one.evaluation.size_bytes, one.measurements["latency_p50_ms"]

    for one in front:
        for other in front:
            if one is not other:
                assert any(a < b for a, b in zip(figures(one), figures(other), strict=True))


def _check_true(told: str, own: Trial, trials: dict[str, Trial], chosen: list[str]) -> None:
    evaluation = own.evaluation
    if told.startswith("refused"):
        assert evaluation is None
        return
    assert evaluation is not None
    accuracy = evaluation.metrics["accuracy"]
    if told.startswith("there is no"):
        assert told in ("there is no accuracy of it", "there is no accuracy of the model itself")
        assert accuracy is None or told.endswith("itself")
    elif told.startswith("loses"):
        assert accuracy is not None
        assert round(0.95 - accuracy, 6) > 0.02
    elif told.startswith("fails the gate memory"):
        assert own.measurements["memory_bytes"] > MIB
    elif told.startswith("fails the gate latency"):
        assert own.measurements["latency_p50_ms"] > 10
    elif told.startswith("on the front"):
        assert len(chosen) >= 1
    else:
        said = re.match(
            r"(larger|no smaller) than (\S+) .*, (slower|no faster to speak of) .* (worse|no better) ", told
        )
        assert said is not None, told
        other = trials[said[2]].evaluation
        assert other is not None and other.metrics["accuracy"] is not None and accuracy is not None
        assert (said[1] == "larger") == (evaluation.size_bytes > other.size_bytes)
        assert (said[3] == "slower") == (
            own.measurements["latency_p50_ms"] > trials[said[2]].measurements["latency_p50_ms"]
        )
        assert (said[4] == "worse") == (accuracy < other.metrics["accuracy"])
