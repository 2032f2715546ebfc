"""Chat templates: the same text as transformers makes, the system prompt, and templates that mean harm."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest

from edgeops.engines.prompts import MAX_OUTPUT_CHARACTERS, MAX_TEMPLATE_CHARACTERS, ChatTemplate
from edgeops.errors import ArtifactError, BadRequestError

CHATML = """\
{% for message in messages %}
    {% if loop.first and message['role'] != 'system' %}
{{- '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}
    {% endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{% endif %}"""
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
MIXED = """\
{{- bos_token }}
{%- set ns = namespace(count=0, text='') %}
{%- macro line(role, text) %}{{ '[' ~ role ~ '] ' ~ text ~ '\\n' }}{% endmacro %}
{%- for message in messages if message.content %}
    {%- set ns.count = ns.count + 1 %}
    {%- if message.role == 'skip' %}{% continue %}{% endif %}
    {%- generation %}{{ line(message.role | upper, message.content) }}{% endgeneration %}
    {%- set ns.text %}{{ ns.text }}{{ message.content[:3] }}{% endset %}
{%- endfor %}
{{- messages | tojson }}|{{ messages | tojson(indent=2) }}|{{ ns.count }}|{{ ns.text }}
{{- messages | map(attribute='role') | join(', ') }}{{ range(3) | list }}{{ 7 % 4 }}{{ '-' * 5 }}
{%- if strftime_now is defined %}{% endif %}
{%- if not tools is none %}tools{% endif %}{{ undefined_thing }}"""

TALK = [
    {"role": "user", "content": "  What is <b>2 + 2</b>? \u4f60\u597d \U0001f642\n"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And \"3\" & '3'?"},
]
SYSTEM = {"role": "system", "content": "You are kind."}


def _by_transformers(source: str, messages: list[dict[str, str]], **options: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template([messages], chat_template=source, **options)
    text: str = rendered[0]
    return text


@pytest.mark.slow
@pytest.mark.parametrize("source", [CHATML, LLAMA2, MIXED])
@pytest.mark.parametrize("messages", [TALK, [SYSTEM, *TALK], TALK[:1]])
@pytest.mark.parametrize("generation", [True, False])
def test_it_writes_what_transformers_writes(
    source: str, messages: list[dict[str, str]], generation: bool
) -> None:
    ours = ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(
        messages, add_generation_prompt=generation
    )
    theirs = _by_transformers(
        source, messages, add_generation_prompt=generation, bos_token="<s>", eos_token="</s>"
    )
    assert ours == theirs
    assert len(ours) > 20


def test_the_system_prompt_comes_first_unless_the_caller_has_one() -> None:
    template = ChatTemplate(CHATML, system_prompt="Answer in rhymes.")
    assert template.render(TALK[:1]).startswith(
        "<|im_start|>system\nAnswer in rhymes.<|im_end|>\n\n<|im_start|>user"
    )
    assert template.render([SYSTEM, TALK[0]]).startswith("<|im_start|>system\nYou are kind.<|im_end|>")
    assert "rhymes" not in template.render([SYSTEM, TALK[0]])
    assert ChatTemplate(CHATML).render(TALK[:1]).startswith("<|im_start|>system\nBe brief.")


def test_rendering_leaves_nothing_behind() -> None:
    template = ChatTemplate(MIXED)
    messages = [dict(message) for message in TALK]
    first = template.render(messages)
    assert messages == TALK
    template.render([SYSTEM])
    assert template.render(messages) == first


def test_messages_that_the_template_refuses_are_the_callers_fault() -> None:
    with pytest.raises(BadRequestError, match="Roles must alternate") as caught:
        ChatTemplate(LLAMA2).render([TALK[1]])
    assert caught.value.subject == "messages"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ["hello"],
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": 1, "content": "x"}],
    ],
)
def test_messages_of_another_form_are_refused(messages: list[Any]) -> None:
    with pytest.raises(BadRequestError) as caught:
        ChatTemplate(CHATML).render(messages)
    assert caught.value.subject == "messages"


HOSTILE = {
    "syntax": "{% for x in",
    "unknown tag": "{% launch %}",
    "unknown filter": "{{ 'a' | center(100) }}",
    "chance": "{{ messages | random }}",
    "time": "{{ strftime_now('%d') }}",
    "files": "{% include '/etc/passwd' %}",
    "too long": " " * (MAX_TEMPLATE_CHARACTERS + 1),
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "changes messages": "{{ messages.append(1) }}",
    "nested loops": "{% for a in range(40000) %}{% for b in range(40000) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% set r = range(9000) %}{% for a in r %}{% for b in r if false %}"
    "{% endfor %}{% endfor %}",
    "huge range": "{{ range(10 ** 9) | list }}",
    "filters over ranges": "{% set r = range(9000) %}{% for a in r %}{{ r | sum }}{% endfor %}",
    "recursive loop": "{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "times": "{{ 'a' * 10 ** 11 }}",
    "list times": "{{ ([1] * 10 ** 9) | length }}",
    "power": "{{ 10 ** 10 ** 8 }}",
    "squares": "{% set n = namespace(x=9) %}{% for i in range(64) %}{% set n.x = n.x * n.x %}{% endfor %}",
    **{
        name: "{% set n = namespace(x='ab') %}{% macro f() %}{{ n.x }}{{ n.x }}{% endmacro %}"
        f"{{% for i in range(64) %}}{grown}{{% endfor %}}"
        for name, grown in {
            "plus": "{% set n.x = n.x + n.x %}",
            "tilde": "{% set n.x = n.x ~ n.x %}",
            "join": "{% set n.x = [n.x, n.x] | join %}",
            "format": "{% set n.x = '%s%s' % (n.x, n.x) %}",
            "replace": "{% set n.x = n.x | replace('a', n.x) %}",
            "method": "{% set n.x = n.x.replace('a', n.x) %}",
            "block": "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}",
            "block of a name": "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}",
            "macro": "{% set n.x = f() %}",
        }.items()
    },
    "output": "{% set x = 'a' * 1000000 %}{% for i in range(99) %}{{ x }}{% endfor %}",
    "indented json": "{{ messages | tojson(indent=1000000) }}",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_template_that_means_harm_is_refused_in_time_and_memory(name: str) -> None:
    # In a process of its own with 400 MB, so that what a bound misses is a failure and not a dead machine.
    program = textwrap.dedent(
        """
        import resource, sys
        resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20))
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        from edgeops.engines.prompts import ChatTemplate
        from edgeops.errors import ArtifactError
        messages = [{"role": "user", "content": "x"}]
        try:
            print(repr(ChatTemplate(sys.stdin.read(), subject="chat.jinja").render(messages)))
        except ArtifactError as error:
            print(f"refused {error.subject}: {error}")
        """
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], input=HOSTILE[name], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("refused chat.jinja: The chat template chat.jinja "), (
        done.stdout + done.stderr
    )
    assert "needs more memory" not in done.stdout


@pytest.mark.parametrize(
    "source", ["{{ raise_exception.__globals__ }}", "{{ '{0.__class__}'.format(messages) }}", "{{ lipsum }}"]
)
def test_what_is_out_of_reach_is_empty(source: str) -> None:
    assert ChatTemplate(source).render(TALK) == ""


def test_the_output_is_bounded_exactly() -> None:
    text = "x" * (MAX_OUTPUT_CHARACTERS // 2)
    messages = [{"role": "user", "content": text}]
    twice = ChatTemplate("{{ messages[0].content }}{{ messages[0].content }}")
    assert len(twice.render(messages)) == MAX_OUTPUT_CHARACTERS
    with pytest.raises(ArtifactError, match="writes more than"):
        ChatTemplate("{{ messages[0].content }}{{ messages[0].content }}.").render(messages)


def test_a_long_talk_stays_within_the_bounds() -> None:
    talk = [{"role": role, "content": "word " * 200} for _ in range(500) for role in ("user", "assistant")]
    assert ChatTemplate(CHATML).render(talk).count("<|im_start|>") == 1002
