"""The report's page: whole without anything else, safe with hostile text, the same every time, and fit to be
read: wide and narrow, light and dark."""

import json
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from edgeops.canonical import canonical_json
from edgeops_testkit.browser import NARROW, WIDE, launch
from edgeops_testkit.reports import HOSTILE, report
from toolchain.documents.html import render

TASKS = ("image-classification", "text-generation")
MEASURED = {
    "variants": {"onnx-int8": {"latency_p50_ms": 0.5, "latency_p99_ms": 2.0, "memory_bytes": 3e7}},
    "gates": {"latency_p50_ms of onnx-int8 <= 10": 0.5},
}
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """What is in a page: its tags with their attributes, its text, and whether each tag is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("failed", [False, True])
def test_a_page_is_whole_and_asks_nothing_of_anyone(task: str, failed: bool) -> None:
    page = Page(render(report(task, failed=failed)))
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "form"}
    for tag, attributes in page.tags:
        assert not {"src", "href", "onclick", "onload", "srcset"} & set(attributes), tag
    assert "url(" not in render(report(task))
    assert "@import" not in render(report(task))


@pytest.mark.parametrize("task", TASKS)
def test_hostile_text_is_only_text(task: str) -> None:
    text = render(report(task))
    assert "<script" not in text
    assert HOSTILE in Page(text).text


def test_the_same_report_gives_the_same_page() -> None:
    read_back = json.loads(canonical_json(report()))  # which sorts objects by their keys
    assert render(report()) == render(read_back)


def test_measured_figures_are_there_only_when_they_are_given() -> None:
    bare, told = Page(render(report())).text, Page(render(report(), MEASURED)).text
    assert "0.5 ms" not in bare
    assert "measured" in bare
    assert "0.5 ms" in told
    assert "28.6 MiB" in told


def test_the_time_to_the_first_token_stands_beside_the_other_times() -> None:
    times = {"latency_p50_ms": 1.5, "first_token_ms": 23.4, "tokens_per_s": 512.0}
    told = Page(render(report("text-generation"), {"variants": {"gguf-q4_k_m": times}})).text
    assert "first token, ms" in told
    assert told.count("23.4 ms") == 2  # in the header and in the table of variants
    assert "first token" not in Page(render(report(), MEASURED)).text


def test_a_failed_report_begins_with_what_failed_and_by_how_much() -> None:
    page = Page(render(report(failed=True)))
    assert "1 of 6 gates failed" in page.text
    assert "missed by 0.099" in page.text
    assert page.text.index("✗ failed") < page.text.index("✓ passed")


def test_every_figure_has_its_numbers_beside_it() -> None:
    page = Page(render(report()))
    figures = [tag for tag, _ in page.tags if tag == "svg"]
    assert len(figures) == 5  # Pareto, confusion, reliability, risk, distillation
    assert len([tag for tag, _ in page.tags if tag == "details"]) == 5
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]


def test_many_classes_are_listed_and_not_drawn() -> None:
    large = report()
    shipped = large["variants"]["onnx-int8"]
    shipped["classes"] = [f"class {n}" for n in range(60)]
    shipped["confusion"] = [[9 if i == j else 3 * (j == i + 1) for j in range(60)] for i in range(60)]
    page = Page(render(large))
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 4
    assert "60 classes, too many to draw" in page.text
    assert "class 0" in page.text


def test_one_variant_or_no_threshold_still_make_a_page() -> None:
    small = report()
    small["order"] = ["onnx-int8"]
    small["fallback"]["found"], small["fallback"]["reason"] = None, "no threshold will do"
    page = Page(render(small))
    assert "no threshold will do" in page.text
    assert "Quality and size" not in page.text


def test_rendering_imports_neither_numpy_nor_an_engine() -> None:
    heavy = "{'numpy', 'torch', 'onnx', 'onnxruntime', 'huggingface_hub', 'scipy'}"
    code = (
        "import sys; sys.path.insert(0, 'tests'); from toolchain.documents.html import render; "
        f"import json; render(json.load(sys.stdin)); print({heavy} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(report()), capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "set()", done.stderr


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


CONTRAST = """
() => {
  const light = c => { const v = c / 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const lum = c => .2126 * light(c[0]) + .7152 * light(c[1]) + .0722 * light(c[2]);
  const ground = e => {
    for (let at = e; at; at = at.parentElement) {
      const c = parse(getComputedStyle(at).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  let worst = [99, ''];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    if (e.closest('svg') && e.classList.contains('cell')) continue;  // on shades, looked at by hand
    const style = getComputedStyle(e);
    const [a, b] = [lum(parse(e.closest('svg') ? style.fill : style.color)), lum(ground(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst[0]) worst = [ratio, e.textContent.slice(0, 40)];
  }
  return worst;
}
"""


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_page_can_be_read(browser: Browser, tmp_path: Path, task: str, scheme: str, width: int) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(report(task, failed=True)), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda said: problems.append(said.text))
    page.on("request", lambda asked: None if asked.url == file.as_uri() else problems.append(asked.url))
    page.goto(file.as_uri())
    assert problems == []
    # Nothing is wider than the window but what scrolls by itself, which the keyboard reaches.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    worst, where = page.evaluate(CONTRAST)
    assert worst >= 4.5, where  # WCAG 2.2, success criterion 1.4.3
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "region"
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


@pytest.mark.slow
@pytest.mark.browser
def test_a_page_can_be_printed(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(report()), encoding="utf-8")
    page = browser.new_page(color_scheme="dark")
    page.goto(file.as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")
