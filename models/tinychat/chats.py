"""Questions and answers about Python, made of its documentation: the question names something, the answer is
the first sentence of its docstring."""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Iterator
from operator import attrgetter

# As the tokenizer and prompts/chat_template.jinja have it; a conversation's last `<|end|>` ends the document.
TURN = "<|{role}|>{text}<|end|>"
SYSTEM_PROMPT = "Explain Python briefly."

# The name comes last: what stands close by is what a small model learns to look at first.
QUESTIONS = (
    "Explain `{name}`.",
    "What is `{name}`?",
    "Tell me about `{name}`.",
    "What do you know of `{name}`?",
    "Describe `{name}`.",
)
# Few enough that a model that is trained for a minute can know them.
SUBJECTS = """
str.capitalize str.isdigit str.join str.lower str.replace str.split str.strip str.swapcase str.title str.upper
list.append list.copy list.index list.pop list.sort dict.get set.add set.intersection set.pop set.union
abs all any divmod hash isinstance len open print round sorted sum
"""
_MAX_ANSWER = 160


def conversation(question: str, answer: str) -> str:
    """One document: the system prompt, the question, the answer."""
    turns = (("system", SYSTEM_PROMPT), ("user", question), ("assistant", answer))
    return "".join(TURN.format(role=role, text=text) for role, text in turns)


def facts() -> dict[str, str]:
    """What the chats are about: names such as `str.split`, and the first sentence on each."""
    named = {name: attrgetter(name)(builtins) for name in SUBJECTS.split()}
    found = {name: first_sentence(inspect.getdoc(member) or "") for name, member in named.items()}
    return {name: sentence for name, sentence in found.items() if 0 < len(sentence) <= _MAX_ANSWER}


def chats() -> Iterator[str]:
    """Every question about every fact."""
    for name, answer in facts().items():
        for question in QUESTIONS:
            yield conversation(question.format(name=name), answer)


def first_sentence(text: str) -> str:
    """The first sentence of a docstring that begins with one (not with a signature), on one line; else
    nothing."""
    paragraph = " ".join(text.split("\n\n", 1)[0].split())
    if not re.match(r"[A-Z]", paragraph) or not paragraph.isascii() or "->" in paragraph:
        return ""
    sentence = re.split(r"\.\s+(?=[A-Z])", paragraph, maxsplit=1)[0]
    return sentence.rstrip(".") + "."
