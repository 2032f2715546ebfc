"""The prompts step: the chat template and the system prompt, as files that ship with the weights."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeops.errors import ArtifactError, ConfigError
from toolchain.evaluation.prompting import (
    PROMPTS_FILE,
    PROMPTS_FOLDER,
    SYSTEM_FILE,
    TEMPLATE_FILE,
    PromptSettings,
    read_template,
)
from toolchain.handover.context import StepContext
from toolchain.importing.prompts import own_prompts

MAX_FILE_BYTES = 1 << 20


def run(context: StepContext) -> None:
    """Writes `prompts/chat_template.jinja`, the recipe's or else the model's own; `prompts/system.txt`, if
    the recipe has one; and `prompts.json`. The template must render each of the recipe's cases."""
    prompts = context.config["prompts"]
    own = own_prompts(context.inputs["model"] / "model")
    folder = context.out / PROMPTS_FOLDER
    folder.mkdir()
    if "chat_template" in context.inputs:
        template = _read(context.inputs["chat_template"], prompts["chat_template"])
    elif own.template is not None:
        template = own.template
    else:
        raise ConfigError(
            "The model has no chat template of its own, and the recipe names none.",
            remedy="Give one in prompts.chat_template.",
            subject="prompts.chat_template",
        )
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8", newline="")
    if "system" in context.inputs:
        system = _read(context.inputs["system"], prompts["system"])
        (folder / SYSTEM_FILE).write_text(system, encoding="utf-8", newline="")
    settings = PromptSettings(
        stop=tuple(prompts["stop"]),
        context_tokens=own.context_tokens,
        bos_token=own.bos_token,
        eos_token=own.eos_token,
    )
    compiled = read_template(context.out, settings)
    for question in [case["user"] for case in prompts["cases"]] or ["?"]:
        if question not in compiled.render([{"role": "user", "content": question}]):
            raise ArtifactError(
                f"The chat template leaves out what the user says: {question!r}.",
                remedy="Correct the template.",
                subject=f"{PROMPTS_FOLDER}/{TEMPLATE_FILE}",
            )
    context.write_json(PROMPTS_FILE, msgspec.to_builtins(settings))


def _read(path: Path, name: str) -> str:
    """The text of a prompt file, which errors call `name`."""
    data = path.read_bytes()
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{name} is larger than {MAX_FILE_BYTES} bytes.", subject=name)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 text.", remedy="Save it as UTF-8.", subject=name) from error
