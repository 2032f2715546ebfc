"""Prompt cases: how an answer comes to its end, and which properties it lacks."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edgeops.errors import ArtifactError, ConfigError
from toolchain.evaluation.prompting import (
    Answer,
    PromptSettings,
    answer_case,
    generate,
    lacking,
    read_template,
    share_passed,
)
from toolchain.recipe.evaluation import PromptCase

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:"


class Parrot:
    """A fake language engine: says `line`, one token a letter. These tests need to know the answer."""

    vocabulary_size = 1 << 16
    end_tokens = frozenset({0})

    def __init__(self, line: str, context_tokens: int = 200) -> None:
        self._line = line
        self.context_tokens = context_tokens
        self.prompt = ""

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def detokenize(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def generate(
        self, tokens: Sequence[int], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[int]:
        self.prompt = self.detokenize(tokens)
        room = min(max_tokens, self.context_tokens - len(tokens))
        yield from self.tokenize(self._line)[:room]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("line", "most", "stop", "text", "ended"),
    [
        ("hello", 20, (), "hello", True),
        ("hello", 5, (), "hello", False),
        ("hello<end>more", 50, ("<end>",), "hello", True),
        ("hello\nuser: and", 50, ("<end>", "\nuser:"), "hello", True),
        ("hello" * 40, 100, (), "hello" * 19 + "hello"[:3], False),  # the context is full at 100 - 2
    ],
)
def test_answers_end_where_they_should(
    line: str, most: int, stop: tuple[str, ...], text: str, ended: bool
) -> None:
    answer = generate(Parrot(line, context_tokens=100), [1, 2], max_tokens=most, stop=stop)
    assert (answer.text, answer.ended) == (text, ended)


@pytest.mark.parametrize(
    ("properties", "lacks"),
    [
        ({"contains": ("42",)}, None),
        ({"contains": ("42", "43")}, "contains '43'"),
        ({"excludes": ("sorry",)}, None),
        ({"excludes": ("answer",)}, "excludes 'answer'"),
        ({"matches": r"\b4\d\b"}, None),
        ({"matches": r"^4"}, "matches '^4'"),
        ({"min_tokens": 5}, None),
        ({"min_tokens": 6}, "at least 6 tokens (it has 5)"),
        ({"ends": True}, "ends by itself within 64 tokens"),
        ({"json": True}, "is JSON"),
    ],
)
def test_an_answer_lacks_what_it_lacks(properties: dict[str, object], lacks: str | None) -> None:
    case = PromptCase(name="sum", user="?", **properties)
    answer = Answer(text="The answer is 42.", tokens=5, ended=False)
    assert list(lacking(case, answer)) == ([lacks] if lacks is not None else [])


@pytest.mark.parametrize(
    ("text", "sound"), [('{"a": [1, 2]}', True), (" 7 ", True), ("[" * 100_000, False), ("{'a': 1}", False)]
)
def test_json_is_what_a_parser_reads(text: str, sound: bool) -> None:
    case = PromptCase(name="object", user="?", json=True)
    assert (not list(lacking(case, Answer(text=text, tokens=1, ended=True)))) == sound


@pytest.mark.slow
def test_a_pattern_that_never_comes_to_an_end_is_the_recipes_fault() -> None:
    case = PromptCase(name="endless", user="?", matches=r"^(a+)+$")
    with pytest.raises(ConfigError, match="endless") as refused:
        list(lacking(case, Answer(text="a" * 60 + "b", tokens=1, ended=True)))
    assert refused.value.subject == "endless"


def files(folder: Path, template: str, system: str | None = None) -> Path:
    (folder / "prompts").mkdir()
    (folder / "prompts" / "chat_template.jinja").write_text(template)
    if system is not None:
        (folder / "prompts" / "system.txt").write_text(system)
    return folder


def test_a_case_is_asked_with_the_bundles_own_prompts(tmp_path: Path) -> None:
    template = read_template(
        files(tmp_path, "{{ bos_token }}" + TEMPLATE, system="Be brief."), PromptSettings(bos_token="<s>")
    )
    engine = Parrot("Yes.")
    told = answer_case(engine, template, PromptCase(name="short", user="Are you?", ends=True), ())
    assert engine.prompt == "<s>s:Be brief.\nu:Are you?\na:"
    assert (told.passed, told.answer, told.tokens) == (True, "Yes.", 4)
    failing = answer_case(engine, template, PromptCase(name="no", user="?", contains=("No",)), ())
    assert share_passed([told, failing]) == 0.5
    assert share_passed([]) is None


def test_a_prompt_that_fills_the_context_is_refused(tmp_path: Path) -> None:
    template = read_template(files(tmp_path, TEMPLATE), PromptSettings())
    with pytest.raises(ConfigError, match="long"):
        answer_case(
            Parrot("x", context_tokens=20), template, PromptCase(name="long", user="y" * 40, ends=True), ()
        )


def test_a_template_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        read_template(files(tmp_path, "{% for %}"), PromptSettings())
