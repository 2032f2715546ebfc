"""The report's section on a search: every candidate with its figures and its reason, as the search itself
told them, and fit to be read."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import sync_playwright

from edgeops_testkit.browser import NARROW, WIDE, launch
from edgeops_testkit.reports import HOSTILE, report
from toolchain.documents.html import render
from toolchain.documents.search import search_section
from toolchain.evaluation.report import EvaluationResult
from toolchain.recipe.lock import Lock
from toolchain.recipe.variants import Search, VariantSpec
from toolchain.search.choose import Trial, choose

MACHINE: dict[str, str | int] = {
    "system": "Linux",
    "architecture": "riscv64",
    "cpu": "Twelve-Bit Wonder",
    "cores": 3,
}


def trial(
    name: str, precision: str, accuracy: float, size_bytes: int, latency_ms: float, *, format: str = "onnx"
) -> Trial:
    return Trial(
        variant=variant(name, precision, format),
        evaluation=EvaluationResult(
            variant=name,
            format=format,
            precision=precision,
            size_bytes=size_bytes,
            metrics={"accuracy": accuracy},
            source={"accuracy": 0.95},
        ),
        measurements={"latency_p50_ms": latency_ms, "memory_bytes": 5 << 20},
    )


def variant(name: str, precision: str, format: str) -> VariantSpec:
    return VariantSpec(id=name, model="m", precision=precision, format=format, memory_budget_mb=8)  # type: ignore[arg-type]


TRIALS = (
    trial("onnx-fp32", "fp32", 0.95, 40960, 0.5),
    trial("onnx-int8-dynamic", "int8", 0.94, 10240, 0.25),
    trial("onnx-int8-static-minmax", "int8", 0.945, 20480, 0.4),
    trial("onnx-int8-weight-only-g32", "int8", 0.93, 51200, 0.75),
    trial("onnx-int4-g32", "int4", 0.81, 5120, 0.2),
    Trial(variant=variant("onnx-int4-g64", "int4", "onnx"), refusal=f"refused: {HOSTILE}"),
    trial("gguf-q8_0", "q8_0", 0.95, 30720, 0.125, format="gguf"),
)


def outcome(*trials: Trial, machine: dict[str, str | int] = MACHINE) -> dict[str, Any]:
    """What a search among the trials gives, as `resolve` hands it to the report."""
    search = Search(
        model="m",
        formats=("onnx", "gguf"),
        metric="accuracy",
        max_drop=0.05,
        memory_budget_mb=8,
        max_variants=3,
    )
    choice = choose(search, [], trials)
    assert choice.reference is not None
    lock = Lock(
        search="5" * 64,
        model="e" * 64,
        metric=search.metric,
        max_drop=search.max_drop,
        reference=choice.reference,
        machine=machine,
        variants=choice.chosen,
        rejected=choice.rejected,
    )
    return {"lock": "recipe.lock.yaml", **msgspec.to_builtins(lock)}


def searched(*trials: Trial, **more: Any) -> dict[str, Any]:
    value = report()
    value["search"] = outcome(*(trials or TRIALS), **more)
    return value


def section(value: dict[str, Any]) -> dict[str, Any]:
    found = search_section(value)
    assert found is not None
    return found


def part(page: str) -> str:
    """The section's part of the page, as it is written."""
    return page[page.index('aria-labelledby="search"') :].partition("</section>")[0]


def test_a_build_without_a_search_has_no_section() -> None:
    assert search_section(report()) is None
    assert search_section({**report(), "search": None}) is None
    assert "Search for variants" not in render({**report(), "search": None})


def test_every_candidate_stands_there_with_its_figures_and_its_reason() -> None:
    value = searched()
    rows = [row for group in section(value)["groups"] for row in group["rows"]]
    told = {row["id"]: row for row in rows}
    assert [row["number"] for row in rows] == list(range(1, len(TRIALS) + 1))
    assert told.keys() == {one.variant.id for one in TRIALS}
    chosen = [one["variant"]["id"] for one in value["search"]["variants"]]
    assert {row["id"] for row in rows if row["chosen"]} == set(chosen)
    for one in value["search"]["rejected"]:
        assert told[one["id"]]["why"] == one["reason"]
    small = told["onnx-int8-dynamic"]
    assert (small["quality"], small["size"], small["latency"]) == ("0.9400", "10 KiB", "0.25 ms")
    assert told["onnx-int4-g64"]["size"] == told["onnx-int4-g64"]["quality"] == "–"
    page = html.unescape(part(render(value)))
    for row in rows:
        shown = page.partition(f"</span> {row['id']}</th>")[2].partition("</tr>")[0]
        cells = [row[name] for name in ("outcome", "quality", "size", "latency", "memory", "why")]
        assert re.findall(r">([^<>]*(?:<script>.*)?)</td>", shown) == cells


def test_what_became_of_each_is_told_apart() -> None:
    told = {row["id"]: row for group in section(searched())["groups"] for row in group["rows"]}
    assert {name: row["outcome"] for name, row in told.items()} == {
        "onnx-int8-dynamic": "✓ chosen",
        "onnx-fp32": "✓ chosen",
        "onnx-int8-static-minmax": "on the front",
        "onnx-int8-weight-only-g32": "rejected",
        "onnx-int4-g32": "rejected",
        "onnx-int4-g64": "rejected",
        "gguf-q8_0": "✓ chosen",
    }
    assert told["onnx-int8-dynamic"]["why"] == "none on the front is faster or smaller"
    assert told["onnx-fp32"]["why"] == "none on the front is better"
    assert told["gguf-q8_0"]["why"] == "on the front"
    assert told["onnx-int8-weight-only-g32"]["why"].startswith("larger than onnx-fp32")
    assert told["onnx-int4-g32"]["why"] == "loses 0.14 of accuracy, at most 0.05 is allowed"


def test_what_is_as_fast_within_the_noise_counts_as_unbeaten() -> None:
    near = trial("onnx-int8-dynamic", "int8", 0.94, 10240, 0.26)
    fast = trial("onnx-int8-static-minmax", "int8", 0.945, 20480, 0.25)
    rows = section(searched(near, fast))["groups"][0]["rows"]
    assert {row["id"]: row["why"] for row in rows} == {
        "onnx-int8-dynamic": "none on the front is faster or smaller",
        "onnx-int8-static-minmax": "none on the front is faster or better",
    }


def test_formats_stand_by_themselves_and_in_order_of_preference() -> None:
    groups = section(searched())["groups"]
    assert [group["title"] for group in groups] == ["ONNX", "GGUF"]
    assert [len(group["plots"]) for group in groups] == [2, 0]  # one mark is no plot
    assert groups[0]["rows"][0]["id"] == "onnx-int8-dynamic"
    alone = section(searched(*TRIALS[:3]))["groups"]
    assert [group["title"] for group in alone] == [""]


def test_the_plots_show_what_was_measured_and_nothing_else() -> None:
    for plot in section(searched())["groups"][0]["plots"]:
        marks = re.findall(r'class="(mark[^"]*)"', plot)
        assert sorted(marks) == ["mark", "mark chosen", "mark chosen", "mark faded", "mark faded"]
        assert sorted(re.findall(r'class="number"[^>]*>(\d+)<', plot)) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(("trials", "lines"), [(TRIALS, 2), (TRIALS[:4], 0)])
def test_a_line_parts_those_that_lose_too_much_if_any_does(trials: tuple[Trial, ...], lines: int) -> None:
    page = part(render(searched(*trials)))
    assert page.count('class="level"') == lines  # in both plots
    assert ("Under the dashed line" in page) == bool(lines)


def test_it_says_what_the_lock_file_records() -> None:
    page = " ".join(part(render(searched())).split())
    assert "follows the choice in the lock file recipe.lock.yaml" in page
    assert "Twelve-Bit Wonder (Linux riscv64, 3 cores)" in page
    for text in ("5" * 64, "e" * 64, ">0.95<", ">0.05<", ">0.9000<"):
        assert text in page
    # The report's own variants that no search found are search.keep's.
    assert "the recipe itself keeps onnx-int8, teacher-onnx-fp32." in page


def test_a_lock_without_the_processors_name_still_gives_a_page() -> None:
    machine = {name: value for name, value in MACHINE.items() if name != "cpu"}
    assert section(searched(machine=machine))["machine"] == "Linux riscv64, 3 cores"


def test_a_refusal_is_only_text() -> None:
    page = render(searched())
    assert "<script" not in page
    assert "refused: &lt;script&gt;" in page


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_section_can_be_read(tmp_path: Path, width: int) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(searched()), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(file.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        own = page.locator("section[aria-labelledby=search]")
        # Nothing is squeezed: the longest record, a digest, takes two lines at most.
        heights = own.locator(".records dd").evaluate_all("all => all.map(one => one.clientHeight)")
        assert heights
        assert max(heights) <= 60
        # Plots are beside each other where there is room, and below each other where there is none.
        tops = own.locator("svg").evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")
        assert len(tops) == 2
        assert (tops[0] == tops[1]) == (width == WIDE)
        browser.close()
