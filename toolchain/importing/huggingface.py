"""Hugging Face folders from outside: checked, and copied without what is not needed or not safe.

https://huggingface.co/docs/transformers/main_classes/model (files of `save_pretrained`). Refused: pickled
weights, code of the model's own (`auto_map`), links, weights that were quantized already, and a model whose
head is not the one that the recipe's task needs.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeops.engines.refusals import one_line
from edgeops.errors import ArtifactError
from toolchain.importing.contract import check_classes

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILE = "tokenizer.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
POOLING_FILE = "1_Pooling/config.json"
MAX_JSON_BYTES = 64 << 20
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")

# What is copied, if it is there. JSON is written anew, without what tells where the model was made.
JSON_FILES = (
    CONFIG_FILE,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    PREPROCESSOR_FILE,
    "modules.json",
    "sentence_bert_config.json",
    POOLING_FILE,
)
PLAIN_FILES = (
    TOKENIZER_FILE,
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
_PLACES = ("_name_or_path", "name_or_path", "tokenizer_file", "special_tokens_map_file", "cache_dir")

# The table of transformers.models.auto.modeling_auto that names the classes with the task's head.
_TABLES = {
    "text-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "text-generation": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "feature-extraction": "MODEL_MAPPING_NAMES",
}


def copy_folder(source: Path, target: Path, *, name: str, task: str, classes: Sequence[str]) -> None:
    """Copies the model in `source` to the new folder `target`. Errors call the model `name`.

    Raises `ArtifactError` (subject: the file at fault) with the reason.
    """
    for path in (source, *sorted(source.rglob("*"))):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise refused(path.name, "is a symbolic link or a special file", "Copy the folder with cp -rL.")
    config = read_json(source, CONFIG_FILE)
    check_config(config, name=name, task=task, classes=classes)
    weights = _weights(source, name)
    needed = PREPROCESSOR_FILE if task == "image-classification" else TOKENIZER_FILE
    if not (source / needed).is_file():
        raise refused(
            needed,
            f"is missing in {name}",
            f"Save the model's {_SAVED[needed]} into the folder (save_pretrained).",
        )
    target.mkdir()
    for file in JSON_FILES:
        if (source / file).is_file():
            value = read_json(source, file)
            _refuse_code(value, file)
            write_json(target / file, value)
    for file in (*PLAIN_FILES, *weights):
        if (source / file).is_file():
            shutil.copyfile(source / file, target / file)
    if (source / INDEX_FILE).is_file():
        write_json(target / INDEX_FILE, read_json(source, INDEX_FILE))


_SAVED = {TOKENIZER_FILE: "fast tokenizer", PREPROCESSOR_FILE: "image processor"}


def check_config(config: Mapping[str, Any], *, name: str, task: str, classes: Sequence[str]) -> None:
    """Whether a config.json is of a model with the head that `task` needs, and of these classes."""
    _refuse_code(config, CONFIG_FILE)
    if config.get("quantization_config") is not None:
        raise refused(
            CONFIG_FILE, f"of {name} says that its weights are quantized", "Bring unquantized weights."
        )
    kind, heads = config.get("model_type"), config.get("architectures")
    if not isinstance(kind, str) or not isinstance(heads, list) or len(heads) != 1:
        raise refused(CONFIG_FILE, f"of {name} does not name one model_type and one architecture")
    wanted = head_classes(kind, task)
    if not wanted:
        raise refused(CONFIG_FILE, f"of {name} has the model_type {kind!r}, which has no {task} model")
    if task != "feature-extraction" and heads[0] not in wanted:
        raise refused(
            CONFIG_FILE,
            f"of {name} has the architecture {heads[0]!r}, and {task} needs {' or '.join(wanted)}",
            "Correct the recipe's task, or bring the model with that head.",
        )
    if not task.endswith("-classification"):
        return
    if config.get("problem_type") not in (None, "single_label_classification"):
        problem = config["problem_type"]
        raise refused(CONFIG_FILE, f"of {name} says {problem!r}, and edgeops takes one class a row")
    check_classes(_class_names(config, name), classes, name)


def head_classes(model_type: str, task: str) -> tuple[str, ...]:
    """The class names that a model of this type can have for the task."""
    from transformers.models.auto import modeling_auto

    found = getattr(modeling_auto, _TABLES[task]).get(model_type, ())
    return (found,) if isinstance(found, str) else tuple(found)


def read_json(folder: Path, file: str) -> dict[str, Any]:
    """A JSON object in the folder. Raises `ArtifactError` (subject: the file)."""
    path = folder / file
    if not path.is_file():
        raise refused(file, "is missing", "Save the model by save_pretrained, and give that folder.")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise refused(file, f"has {path.stat().st_size} bytes, and {MAX_JSON_BYTES} is the most")
    try:
        # Not strict_json: transformers writes 1e30 as an integer, for "no limit".
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise refused(file, f"is not JSON ({error})") from error
    # modules.json of sentence-transformers is a list.
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = {"modules": value}
    if not isinstance(value, dict):
        raise refused(file, "is not a JSON object")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """JSON with sorted keys, numbers as they were, without names of places on the maker's machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain: Any = {key: item for key, item in value.items() if key not in _PLACES}
    if path.name == "modules.json":
        plain = plain["modules"]
    path.write_text(json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def refused(
    subject: str, what: str, remedy: str = "Save the model again (save_pretrained)."
) -> ArtifactError:
    """The error that a Hugging Face folder cannot be used."""
    return ArtifactError(f"{subject} {what}.", remedy=remedy, subject=subject)


def _weights(source: Path, name: str) -> list[str]:
    """The weight files by name, their headers checked."""
    if (source / INDEX_FILE).is_file():
        shards = read_json(source, INDEX_FILE).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise refused(INDEX_FILE, "maps no weights to files")
        files = sorted({str(shard) for shard in shards.values()})
        for file in files:
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise refused(INDEX_FILE, f"names the file {file!r}, which is no .safetensors in this folder")
            if not (source / file).is_file():
                raise refused(file, f"is missing in {name}", "Bring all shards that the index names.")
    elif (source / WEIGHTS_FILE).is_file():
        files = [WEIGHTS_FILE]
    else:
        pickled = sorted(entry.name for entry in os.scandir(source) if entry.name.endswith(PICKLED))
        if pickled:
            raise refused(
                pickled[0],
                f"of {name} is a pickle, and opening one runs whatever code it holds",
                "Save the weights as safetensors (save_pretrained with safe_serialization=True).",
            )
        raise refused(WEIGHTS_FILE, f"is missing in {name}")
    for file in files:
        _check_header(source / file)
    return files


def _check_header(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise refused(
            path.name, f"is no whole safetensors file ({one_line(error)})", "Bring the file again."
        ) from error


def _refuse_code(value: Mapping[str, Any], file: str) -> None:
    if value.get("auto_map") or value.get("trust_remote_code"):
        raise refused(
            file,
            "asks for code of the model's own (auto_map), which a build never runs",
            "Bring a model of an architecture that transformers itself has.",
        )


def _class_names(config: Mapping[str, Any], name: str) -> list[str]:
    names = config.get("id2label")
    if names is None:
        names = {"0": "LABEL_0", "1": "LABEL_1"}  # what transformers takes then
    try:
        ordered = {int(key): str(value) for key, value in names.items()}
    except (AttributeError, ValueError) as error:
        raise refused(CONFIG_FILE, f"of {name} has an id2label that is no mapping of numbers") from error
    if sorted(ordered) != list(range(len(ordered))):
        raise refused(CONFIG_FILE, f"of {name} has an id2label with gaps")
    return [ordered[number] for number in range(len(ordered))]
