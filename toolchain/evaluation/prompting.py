"""Prompt cases: a question, rendered with the bundle's own chat template and system prompt, answered
greedily, and the properties that the answer must have."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeops.engines.base import LanguageEngine
from edgeops.engines.prompts import ChatTemplate
from edgeops.errors import ArtifactError, ConfigError
from toolchain.evaluation.report import PromptResult, rounded
from toolchain.recipe.evaluation import PromptCase

PROMPTS_FOLDER = "prompts"
PROMPTS_FILE = "prompts.json"
TEMPLATE_FILE = "chat_template.jinja"
SYSTEM_FILE = "system.txt"
# Some patterns take longer than the universe has; this is far more than a sound one takes.
PATTERN_TIMEOUT_S = 5.0
_SEARCH = (
    "import json, re, sys; pattern, text = json.load(sys.stdin); print(int(bool(re.search(pattern, text))))"
)


class PromptSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`prompts.json`: what the prompts need beside their files. `bos_token` and `eos_token` are what
    templates may write; a tokenizer without them has "". `context_tokens` is what the model was trained with.
    """

    stop: tuple[str, ...] = ()
    context_tokens: int | None = None
    bos_token: str = ""
    eos_token: str = ""


@dataclass(frozen=True)
class Answer:
    """An answer's text, cut at the first stop string, its tokens, and whether it came to an end by itself."""

    text: str
    tokens: int
    ended: bool


def read_template(folder: Path, settings: PromptSettings) -> ChatTemplate:
    """The chat template in `prompts/` of a step's output, with its system prompt if there is one. Raises
    `ArtifactError` if it cannot be used."""
    prompts = folder / PROMPTS_FOLDER
    system = prompts / SYSTEM_FILE
    return ChatTemplate(
        (prompts / TEMPLATE_FILE).read_text(encoding="utf-8"),
        bos_token=settings.bos_token,
        eos_token=settings.eos_token,
        system_prompt=system.read_text(encoding="utf-8") if system.exists() else None,
        subject=f"{PROMPTS_FOLDER}/{TEMPLATE_FILE}",
    )


def answer_case(
    engine: LanguageEngine, template: ChatTemplate, case: PromptCase, stop: Sequence[str]
) -> PromptResult:
    """The case tried: every property in it that the answer lacks is in `failed`."""
    prompt = engine.tokenize(template.render([{"role": "user", "content": case.user}]))
    if len(prompt) >= engine.context_tokens:
        raise ConfigError(
            f"The prompt {case.name!r} takes {len(prompt)} tokens of a context of {engine.context_tokens}.",
            remedy="Make it or the system prompt shorter.",
            subject=case.name,
        )
    answer = generate(engine, prompt, max_tokens=case.max_tokens, stop=stop)
    failed = tuple(lacking(case, answer))
    return PromptResult(
        name=case.name, passed=not failed, answer=answer.text, failed=failed, tokens=answer.tokens
    )


def generate(engine: LanguageEngine, prompt: list[int], *, max_tokens: int, stop: Sequence[str]) -> Answer:
    """The greedy answer to the prompt's tokens, until an end token, a stop string, or `max_tokens`."""
    tokens: list[int] = []
    text = ""
    for token in engine.generate(prompt, max_tokens=max_tokens):
        tokens.append(token)
        text = engine.detokenize(tokens)
        cut = min((at for word in stop if (at := text.find(word)) >= 0), default=None)
        if cut is not None:
            return Answer(text=text[:cut], tokens=len(tokens), ended=True)
    room = engine.context_tokens - len(prompt) - len(tokens)
    return Answer(text=text, tokens=len(tokens), ended=len(tokens) < max_tokens and room > 0)


def lacking(case: PromptCase, answer: Answer) -> Iterator[str]:
    """The properties of the case that the answer lacks, in words. Raises `ConfigError` if its pattern takes
    too long to be looked for."""
    for part in case.contains:
        if part not in answer.text:
            yield f"contains {part!r}"
    for part in case.excludes:
        if part in answer.text:
            yield f"excludes {part!r}"
    if case.matches is not None and not _matches(case, answer.text):
        yield f"matches {case.matches!r}"
    if answer.tokens < case.min_tokens:
        yield f"at least {case.min_tokens} tokens (it has {answer.tokens})"
    if case.json and not _is_json(answer.text):
        yield "is JSON"
    if case.ends and not answer.ended:
        yield f"ends by itself within {case.max_tokens} tokens"


def share_passed(results: Sequence[PromptResult]) -> float | None:
    """The share of the cases that passed."""
    return rounded(sum(result.passed for result in results) / len(results)) if results else None


def _matches(case: PromptCase, text: str) -> bool:
    """Whether the case's pattern is somewhere in the text. It is looked for in a process of its own, which
    can be ended whatever it does."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _SEARCH],
            input=json.dumps([case.matches, text]),
            capture_output=True,
            text=True,
            timeout=PATTERN_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"The pattern of the prompt {case.name!r} takes more than {PATTERN_TIMEOUT_S:g} s to look for.",
            remedy="Write it so that it does not try the same characters in many ways.",
            subject=case.name,
        ) from error
    if done.returncode != 0:
        raise ArtifactError(
            f"The pattern of the prompt {case.name!r} cannot be looked for.",
            subject=case.name,
            details={"log": done.stderr.splitlines()[-3:]},
        )
    return done.stdout.strip() == "1"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
