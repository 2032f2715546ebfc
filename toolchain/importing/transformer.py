"""Models and tokenizers from a checked Hugging Face folder, by transformers itself: the source that every
variant is held against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeops.engines.refusals import one_line
from edgeops.errors import ArtifactError
from toolchain.importing import offline
from toolchain.importing.huggingface import (
    POOLING_FILE,
    TOKENIZER_FILE,
    read_json,
    refused,
)

_AUTO = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "image-classification": "AutoModelForImageClassification",
    "text-generation": "AutoModelForCausalLM",
    "feature-extraction": "AutoModel",
}
# Where a table of positions is longer than the tokens it serves: these count positions from padding_idx + 1.
_OFFSET_POSITIONS = frozenset(
    {"camembert", "data2vec-text", "ibert", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta"}
    | {"xlm-roberta-xl", "xmod"}
)
# transformers' word for "no limit known" is 1e30.
_NO_LIMIT = 1_000_000
DEFAULT_MAX_TOKENS = 512


def load_model(folder: Path, task: str) -> Any:
    """The `transformers.PreTrainedModel` in float32, for evaluation.

    Raises `ArtifactError` when the weights do not fit the config, or some are missing (transformers would
    draw them at random). A pooler that feature extraction does not use may be missing.
    """
    offline.hush()
    import torch
    import transformers

    try:
        model, report = getattr(transformers, _AUTO[task]).from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise refused("model", f"cannot be loaded by transformers ({one_line(error)})") from error
    missing = [
        name for name in report["missing_keys"] if not (task == "feature-extraction" and "pooler" in name)
    ]
    if missing or report["mismatched_keys"]:
        wrong = sorted(missing) or sorted(str(entry[0]) for entry in report["mismatched_keys"])
        raise refused(
            "model",
            f"has no fitting weights for {wrong[0]!r} and {len(wrong) - 1} others",
            "Bring the model with the head that the task needs, trained.",
        )
    return model.eval()


def load_tokenizer(folder: Path) -> Any:
    """The folder's `transformers.PreTrainedTokenizerFast`. Raises `ArtifactError` if there is none."""
    offline.hush()
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except Exception as error:  # tokenizers.Tokenizer.from_file raises it bare
        raise refused(
            TOKENIZER_FILE,
            f"cannot be loaded by transformers ({one_line(error)})",
            "Save the tokenizer as a PreTrainedTokenizerFast.",
        ) from error
    if not tokenizer.is_fast:
        raise refused(TOKENIZER_FILE, "gives no fast tokenizer")
    return tokenizer


def max_tokens(folder: Path, config: Mapping[str, Any]) -> int:
    """The most tokens of a text that the model in `folder` takes, special ones included: the least of what
    its tokenizer, its table of positions and sentence-transformers' own file say; 512 if none says."""
    limits = [_in_file(folder, "tokenizer_config.json", "model_max_length")]
    limits.append(_in_file(folder, "sentence_bert_config.json", "max_seq_length"))
    truncation = read_json(folder, TOKENIZER_FILE).get("truncation") or {}
    limits.append(truncation.get("max_length"))
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _OFFSET_POSITIONS:
        positions -= int(config.get("pad_token_id") or 0) + 1
    limits.append(positions)
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < _NO_LIMIT]
    return min(known, default=DEFAULT_MAX_TOKENS)


def pooling(folder: Path) -> str:
    """How sentence-transformers pools the tokens of this model: `mean` (also where nothing is said) or `cls`.

    https://sbert.net/docs/package_reference/sentence_transformer/models.html. Raises `ArtifactError` for
    modules that are not pooling or normalization.
    """
    if (folder / "modules.json").is_file():
        for module in read_json(folder, "modules.json")["modules"]:
            kind = str(module.get("type", "")).rpartition(".")[2]
            if kind not in ("Transformer", "Pooling", "Normalize"):
                raise refused("modules.json", f"names a module {kind!r}, which the export does not know")
    if not (folder / POOLING_FILE).is_file():
        return "mean"
    config = read_json(folder, POOLING_FILE)
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in known:
        raise refused(POOLING_FILE, f"pools by {modes}, and the export knows one of {sorted(known)}")
    return known[modes[0]]


def _in_file(folder: Path, file: str, key: str) -> Any:
    return read_json(folder, file).get(key) if (folder / file).is_file() else None


def check_length(model: Any, most_tokens: int, name: str) -> None:
    """Whether the model can really take `most_tokens` tokens. Raises `ArtifactError` if it cannot."""
    import torch

    ids = torch.zeros(1, most_tokens, dtype=torch.int64)
    try:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{name} cannot take the {most_tokens} tokens that its files promise ({one_line(error)}).",
            remedy="Set model_max_length in tokenizer_config.json to what the model takes.",
            subject=name,
        ) from error
