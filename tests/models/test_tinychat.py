"""The tinychat data: documentation as it is installed, and chats in the words of the chat template."""

from pathlib import Path

import pytest

import models.tinychat
from edgeops.engines.prompts import ChatTemplate
from models.tinychat.chats import QUESTIONS, SYSTEM_PROMPT, conversation, facts, first_sentence
from models.tinychat.data import load
from toolchain.training.vocabulary import CHAT_TEMPLATE

PROMPTS = Path(models.tinychat.__path__[0]) / "prompts"


def test_the_data_are_the_same_each_time_and_tell_nothing_of_this_machine() -> None:
    one, two = load(text_characters=9000), load(text_characters=9000)
    assert one.documents == two.documents
    assert len(set(one.documents)) == len(one.documents)
    for document in one.documents:
        assert document.isascii() and " at 0x" not in document and "/usr" not in document


def test_text_is_bounded() -> None:
    without, few, many = (load(text_characters=size).documents for size in (0, 5000, 10_000))
    assert len(without) == len(QUESTIONS) * len(facts())
    for documents, size in ((few, 5000), (many, 10_000)):
        text = sum(map(len, documents[len(without) :]))
        assert size - 1000 < text <= size


def test_chats_are_what_the_template_and_the_system_prompt_make() -> None:
    template = ChatTemplate(
        (PROMPTS / "chat_template.jinja").read_text(), system_prompt=(PROMPTS / "system.txt").read_text()
    )
    messages = [
        {"role": "user", "content": "What does `len` do?"},
        {"role": "assistant", "content": "Return the number."},
    ]
    trained = conversation("What does `len` do?", "Return the number.")
    assert template.render(messages, add_generation_prompt=False) == trained
    prompt = template.render(messages[:1])
    assert trained.startswith(prompt) and prompt.endswith("<|assistant|>")
    assert (PROMPTS / "system.txt").read_text() == SYSTEM_PROMPT


def test_the_template_that_ships_is_the_trained_tokenizers_own_in_other_lines() -> None:
    shipped, own = ChatTemplate((PROMPTS / "chat_template.jinja").read_text()), ChatTemplate(CHAT_TEMPLATE)
    messages = [
        {"role": role, "content": f"{role}\n says"} for role in ("system", "user", "assistant", "user")
    ]
    for adds in (False, True):
        assert shipped.render(messages, add_generation_prompt=adds) == own.render(
            messages, add_generation_prompt=adds
        )


def test_facts_are_first_sentences() -> None:
    known = facts()
    assert len(known) > 25
    assert known["len"] == "Return the number of items in a container."
    for name, sentence in known.items():
        assert sentence.endswith(".") and "\n" not in sentence and len(sentence) <= 160, name


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Return a list. Then stop.", "Return a list."),
        ("Return the\nlist.\n\nMore.", "Return the list."),
        ("Return 2.5 of it (e.g. some).", "Return 2.5 of it (e.g. some)."),
        ("f(x) -> y", ""),
        ("D.update() -> None. Updates.", ""),
        ("", ""),
        ("Größe.", ""),
    ],
)
def test_a_first_sentence_is_found_or_none_is(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence
