"""Sources of models and data for tests: tiny ones of every kind, made here, and the steps' contexts."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from edgeops import errors
from models.dataset import Corpus, Dataset
from toolchain.handover.context import StepContext
from toolchain.running.worker import Answer, Request

INPUT: dict[str, Any] = {
    "name": "x",
    "dtype": "FP32",
    "shape": [3],
    "minimum": None,
    "maximum": None,
    "outside": "count",
    "columns": [],
    "max_characters": None,
}
TEXT_INPUT = {**INPUT, "name": "text", "dtype": "BYTES", "shape": []}
DATA: dict[str, Any] = {
    "seed": 1,
    "calibration": 0.2,
    "held_out": 0.3,
    "factory": None,
    "options": {},
    "file": None,
    "label": "label",
    "classes": [],
    "license": None,
    "source": None,
}


def step_context(out: Path, config: Mapping[str, Any], **inputs: Path) -> StepContext:
    """A context whose output and checkpoints lie below `out`."""
    checkpoints = out / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    (out / "out").mkdir(exist_ok=True)
    return StepContext(
        config=json.loads(json.dumps(config)),
        inputs=inputs,
        out=out / "out",
        records={},
        progress=lambda share, note: None,
        checkpoints=checkpoints,
    )


def three_columns(*, rows: int = 120, nulls: bool = False) -> Dataset:
    """Three classes that three numbers tell apart, with an attribute; with `nulls` a null in row 7."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, rows)
    inputs = (np.eye(3)[labels] * 2 + rng.normal(size=(rows, 3))).astype(np.float32)
    if nulls:
        inputs[7, 1] = np.nan
    return Dataset(
        inputs=inputs,
        labels=labels.astype(np.int64),
        classes=("a", "b", "c"),
        source="made here",
        license="CC0-1.0",
        attributes={"site": np.array([("oslo", "rome")[row % 2] for row in range(rows)])},
    )


def two_moods(*, rows: int = 60) -> Dataset:
    """Short texts of two classes."""
    rng = np.random.default_rng(6)
    words = (("bad", "poor", "awful"), ("good", "fine", "great"))
    labels = rng.integers(0, 2, rows)
    texts = [" ".join(rng.choice(words[label], size=rng.integers(1, 6))) for label in labels]
    return Dataset(
        inputs=np.array(texts),
        labels=labels.astype(np.int64),
        classes=("bad", "good"),
        source="made here",
        license="CC0-1.0",
    )


def word_kinds(*, rows: int = 60) -> Dataset:
    """Texts whose every word has a class of its own."""
    rng = np.random.default_rng(7)
    words, kinds = ("the", "dog", "runs", "home"), (0, 1, 2, 1)
    labels = np.full((rows, 6), -100, np.int64)
    texts = []
    for row in range(rows):
        chosen = rng.integers(0, 4, rng.integers(1, 7))
        texts.append(" ".join(words[one] for one in chosen))
        labels[row, : len(chosen)] = [kinds[one] for one in chosen]
    return Dataset(
        inputs=np.array(texts), labels=labels, classes=("X", "NOUN", "VERB"), source="made", license="CC0-1.0"
    )


def small_images(*, rows: int = 40, size: int = 16) -> Dataset:
    """RGB images with values 0 to 255 whose brightest channel is the class."""
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 3, rows)
    images = rng.integers(0, 120, (rows, 3, size, size)).astype(np.float32)
    images[np.arange(rows), labels] += 120
    return Dataset(
        inputs=images,
        labels=labels.astype(np.int64),
        classes=("red", "green", "blue"),
        source="made here",
        license="CC0-1.0",
    )


def short_documents() -> Corpus:
    """Twenty documents of a few sentences."""
    text = "a model runs on the device and the cloud answers when it may not know"
    words = text.split()
    rng = np.random.default_rng(9)
    documents = tuple(" ".join(rng.choice(words, size=60)) + "." for _ in range(20))
    return Corpus(documents=documents, source="made here", license="CC0-1.0")


def data_folder(folder: Path, factory: str, task: str, given: Mapping[str, Any] = INPUT) -> Path:
    """The data step's output for a factory of this module, such as `three_columns`."""
    from toolchain.steps.data import run

    data = {**DATA, "factory": f"edgeops_testkit.sources:{factory}"}
    context = step_context(folder / "data", {"data": data, "task": task, "input": dict(given)})
    run(context)
    return context.out


TASK_DATA = {
    "text-classification": ("two_moods", TEXT_INPUT),
    "token-classification": ("word_kinds", TEXT_INPUT),
    "feature-extraction": ("two_moods", TEXT_INPUT),
    "image-classification": ("small_images", {**INPUT, "name": "pixels", "shape": [3, 16, 16]}),
    "text-generation": ("short_documents", TEXT_INPUT),
    "tabular-classification": ("three_columns", INPUT),
}


def resnet_folder(folder: Path, *, seed: int = 0) -> Path:
    """A tiny convolutional Hugging Face model with random weights for the images of `TASK_DATA`."""
    import torch
    import transformers

    torch.manual_seed(seed)
    made = transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(("red", "green", "blue"))),
    )
    transformers.ResNetForImageClassification(made).save_pretrained(folder)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(folder)
    return folder


def huggingface_folder(folder: Path, task: str, *, seed: int = 0, **config: Any) -> Path:
    """A tiny Hugging Face model with random weights for the task, whose data is `TASK_DATA[task]`, and what
    belongs to it: a tokenizer, or an image processor that resizes."""
    import torch
    import transformers

    torch.manual_seed(seed)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    if task == "image-classification":
        labels = dict(enumerate(("red", "green", "blue")))
        made = transformers.ViTConfig(
            **{**size, "image_size": 12, "patch_size": 4, "id2label": labels, **config}
        )
        transformers.ViTForImageClassification(made).save_pretrained(folder)
        processor = transformers.ViTImageProcessor(
            size={"height": 12, "width": 12}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]
        )
        processor.save_pretrained(folder)
        return folder
    tokenizer = byte_tokenizer() if task == "text-generation" else word_tokenizer()
    size["vocab_size"] = len(tokenizer)
    size["max_position_embeddings"] = 64
    if task == "text-generation":
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        made = transformers.LlamaConfig(**{**size, "tie_word_embeddings": True, **ends, **config})
        transformers.LlamaForCausalLM(made).save_pretrained(folder)
    else:
        names = {
            "text-classification": ("bad", "good"),
            "token-classification": ("X", "NOUN", "VERB"),
            "feature-extraction": ("bad", "good"),
        }[task]
        made = transformers.BertConfig(**{**size, "id2label": dict(enumerate(names)), **config})
        kind = {
            "text-classification": transformers.BertForSequenceClassification,
            "token-classification": transformers.BertForTokenClassification,
            "feature-extraction": transformers.BertModel,
        }[task]
        kind(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def word_tokenizer() -> Any:
    """A tokenizer of the words that this module's texts are made of, with [CLS] and [SEP] around a text."""
    import tokenizers
    import transformers

    texts = [*two_moods().inputs.tolist(), *word_kinds().inputs.tolist()]
    words = sorted({word for text in texts for word in text.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def byte_tokenizer() -> Any:
    """Byte-level BPE, trained on the documents."""
    import tokenizers
    import transformers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(short_documents().documents, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


def scored_rows(*, hidden: int = 6) -> Any:
    """A torch module for `three_columns`, with the weights that the seed of the moment draws."""
    from torch import nn

    return nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def small_pipeline(*, kind: str = "network") -> Any:
    """A scikit-learn pipeline for `three_columns` that fills nulls."""
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    last = {
        "network": lambda: MLPClassifier((8,), max_iter=60, random_state=1),
        "forest": lambda: RandomForestClassifier(8, max_depth=4, random_state=1),
        "boosted": lambda: GradientBoostingClassifier(n_estimators=4, random_state=1),
        "linear": LogisticRegression,
    }[kind]()
    return make_pipeline(SimpleImputer(), StandardScaler(), last)


def three_columns_graph(*, logits: bool = False, name: str = "x", output: str = "probabilities") -> Any:
    """An ONNX graph for `three_columns`: softmax(2 x), or 2 x alone."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("MatMul", [name, "weight"], [output if logits else "scores"])]
    if not logits:
        nodes.append(helper.make_node("Softmax", ["scores"], [output], axis=-1))
    graph = helper.make_graph(
        nodes,
        "three columns",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(2 * np.eye(3, dtype=np.float32), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


PYTHON = {
    "source": "python",
    "factory": "edgeops_testkit.sources:scored_rows",
    "options": {},
    "weights": None,
}
SKLEARN = {
    "source": "sklearn",
    "factory": "edgeops_testkit.sources:small_pipeline",
    "options": {},
    "file": None,
    "trusted_types": [],
}
ONNX = {"source": "onnx", "file": "net.onnx", "external_data": None, "tokenizer": None}
GGUF = {"source": "gguf", "file": "net.gguf"}


def model_config(task: str, model: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The config of the steps import, export and answers for a model of the task."""
    return {
        "model": dict(model),
        "task": task,
        "input": TASK_DATA[task][1],
        "output": "embedding" if task == "feature-extraction" else "probabilities",
        "name": "tiny",
        "held_out_tokens": 256,
        **more,
    }


HUGGINGFACE = {"source": "huggingface", "folder": "tiny", "factory": None, "options": {}, "training": None}


class StepWorker:
    """A step worker (toolchain.running.worker) that runs one step after another, apart from the test's own
    process: what a hostile file does to its memory, or its life, is done there. What a step
    raises is raised here."""

    def __enter__(self) -> "StepWorker":
        # The repository first: the folders of tests bear the packages' names.
        here = Path(__file__)
        paths = [str(here.parents[2]), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "toolchain.running.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, step: str, context: StepContext) -> Path:
        """Runs `toolchain.steps.<step>` and returns its output folder."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        request = Request(
            module=f"toolchain.steps.{step}",
            config=dict(context.config),
            inputs={role: str(path) for role, path in context.inputs.items()},
            out=str(context.out),
            checkpoints=str(context.checkpoints),
        )
        stdin.write(msgspec.json.encode(request) + b"\n")
        stdin.flush()
        for line in stdout:
            answer = msgspec.json.decode(line, type=Answer)
            if answer.error is not None:
                kind = getattr(errors, answer.error.type or "EdgeopsError")
                raise kind(answer.error.message, remedy=answer.error.remedy, subject=answer.error.subject)
            if answer.done:
                return context.out
        raise AssertionError(f"the worker died with status {self._process.wait()}")
