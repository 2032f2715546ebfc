"""What each field of a recipe means, in a sentence for editors and for docs/recipe.md, with an example.

A test holds these tables against the types: every field has its words, and no words are left over.
"""

from __future__ import annotations

from typing import Any

# Struct -> field -> (meaning, example).
Words = dict[str, dict[str, tuple[str, Any]]]

_TRAINED: dict[str, tuple[str, Any]] = {
    "options": ("Keyword arguments of the factory.", {"hidden": [32]}),
    "training": (
        "Train the model here. Absent: it comes trained.",
        {"epochs": 12, "batch_size": 64, "learning_rate": 0.005},
    ),
    "seeds": (
        "A training run for each seed. The best on the calibration rows ships; all tell how much is luck.",
        [1, 2, 3],
    ),
    "distillation": (
        "Learn from another model of the recipe, too. Needs training.",
        {"teacher": "teacher", "temperature": 4, "alpha": 0.7},
    ),
    "class_share": ("The share of a class's training rows to keep, by class. Classifiers only.", {"7": 0.5}),
}

WORDS: Words = {
    "Recipe": {
        "schema_version": ("The version of this file's form.", "1.0"),
        "name": ("The model's name, as fleets know it: lower-case letters, digits, dots, dashes.", "digits"),
        "version": ("A semantic version. What was published under one is never changed.", "1.0.0"),
        "task": ("What the model does: a pipeline tag of the Hugging Face Hub.", "image-classification"),
        "description": ("One sentence for the model card.", "Reads one handwritten digit."),
        "license": ("The model's license, an SPDX identifier.", "Apache-2.0"),
        "date": (
            "The date in the bundle's documents, unless SOURCE_DATE_EPOCH sets another. Never the clock.",
            "2026-01-01",
        ),
        "data": (
            "Where the rows come from, and how they are split.",
            {"file": "rows.csv", "seed": 1, "calibration": 0.15, "held_out": 0.3},
        ),
        "models": (
            "The models by name, at least one. Variants are made of them; a model may teach another.",
            {"student": {"source": "onnx", "file": "model.onnx"}},
        ),
        "variants": (
            "The variants in the order in which devices shall prefer them, or auto to search for them.",
            [{"id": "onnx-int8", "model": "student", "precision": "int8", "memory_budget_mb": 64}],
        ),
        "selftest": (
            "How a device tests a bundle in its own engine before it activates it.",
            {"rows": 6, "atol": 0.02},
        ),
        "gates": (
            "Conditions that the build must meet, or nothing is signed (exit status 4).",
            [{"metric": "accuracy", "at_least": 0.9}],
        ),
        "input": (
            "The model's one input and the data contract. The default is a text named `text`.",
            {"name": "image", "shape": [1, 8, 8], "minimum": 0, "maximum": 16},
        ),
        "output": ("The name of the model's one output.", "probabilities"),
        "preprocessing": (
            "What a client must do to its data first, in words. Best is nothing: let the graph do it.",
            "None. The graph takes pixel values 0 to 16 and scales them itself.",
        ),
        "tokenizer": (
            "The tokenizer to train on the training texts, for Hugging Face models that are trained here.",
            {"vocabulary_size": 2000, "max_tokens": 64},
        ),
        "search": (
            "What variants: auto looks for.",
            {
                "model": "student",
                "formats": ["onnx"],
                "metric": "accuracy",
                "max_drop": 0.02,
                "memory_budget_mb": 64,
            },
        ),
        "features": (
            "Numbers of each request that monitoring compares with the training data's, to see drift.",
            [{"name": "pixel_mean", "kind": "mean"}],
        ),
        "evaluation": (
            "What else is measured beside the usual figures.",
            {"slices": ["site"], "robustness": {"seed": 1, "noise_std": 0.1}},
        ),
        "prompts": (
            "System prompt, chat template and prompt cases of a language model.",
            {"system": "system.txt"},
        ),
        "fallback": (
            "When a device asks the cloud instead of answering itself.",
            {"variant": "teacher-onnx-fp32", "target_error": 0.05, "minimum_accepted": 100},
        ),
        "limitations": (
            "What the model is not fit for, for the model card.",
            "Not tested on new writers.",
        ),
    },
    "Data": {
        "seed": ("Decides which rows train, calibrate and are held out.", 20260101),
        "calibration": ("The share of rows that calibrate quantizers and confidence.", 0.15),
        "held_out": ("The share of rows on which variants are judged. Nothing else sees them.", 0.3),
        "factory": (
            "The function that returns the data, as `module:function`: a `models.dataset.Dataset`, or a "
            "`Corpus` for text generation. Either this or `file`.",
            "models.digits.data:load",
        ),
        "options": ("Keyword arguments of the factory.", {"rows": 1000}),
        "file": (
            "A data file, relative to the recipe: `.npz`; `.csv` for tables; `.jsonl` for labelled text; "
            "`.jsonl` or `.txt` for text generation. Either this or `factory`.",
            "rows.csv",
        ),
        "label": ("The file's label column or field.", "label"),
        "classes": ("The classes in the model's order, for files that do not tell it.", ["fine", "broken"]),
        "license": ("The data's license. Absent: the factory's, or unknown.", "CC-BY-4.0"),
        "source": ("Where the data comes from, in a line. Absent: what the factory says.", "UCI digits"),
    },
    "Column": {
        "name": ("The column's name.", "temperature_c"),
        "minimum": ("The least value that is sound.", -40),
        "maximum": ("The largest value that is sound.", 120),
        "max_null_rate": ("The share of rows that may have no value (NaN). 0: a null is refused.", 0.05),
    },
    "Input": {
        "name": ("The input's name, as clients send it.", "image"),
        "dtype": ("FP32 for numbers, or BYTES for text.", "FP32"),
        "shape": ("The shape of one row of numbers, without the batch.", [1, 8, 8]),
        "minimum": ("The least value that is sound.", 0),
        "maximum": ("The largest value that is sound.", 16),
        "outside": (
            "What becomes of a value beyond its bounds on the device: counted, or its request refused.",
            "count",
        ),
        "columns": (
            "The columns of a tabular row, in order, one for each element of the shape's last axis.",
            [{"name": "temperature_c", "minimum": -40, "maximum": 120}],
        ),
        "max_characters": ("The longest text, in characters.", 2000),
    },
    "Tokenizer": {
        "vocabulary_size": ("How many tokens it learns.", 2000),
        "max_tokens": ("Longer texts are cut here.", 64),
    },
    "FeatureSpec": {
        "name": ("The feature's name on dashboards and in alerts.", "pixel_mean"),
        "kind": (
            "Of numbers: mean, std, min, max over a row, or one element of it. Of text: characters, "
            "words, or the share of non_ascii characters.",
            "mean",
        ),
        "index": ("Which element of the flattened row, for the kind element.", 19),
    },
    "SelfTestSpec": {
        "rows": ("How many calibration rows travel as self-test vectors.", 6),
        "atol": ("How far a device's answer may be off: |got - expected| ≤ atol + rtol × |expected|.", 0.02),
        "rtol": ("The relative part of that tolerance.", 0.001),
    },
    "Training": {
        "batch_size": ("Rows, or windows of tokens, in a batch.", 64),
        "learning_rate": ("The peak of the one-cycle learning rate.", 0.005),
        "epochs": ("How often the training rows are gone through. Not for text generation.", 12),
        "steps": ("How many batches a language model is trained for.", 2000),
        "context_tokens": ("The length of a language model's training windows.", 128),
        "weight_decay": ("Decoupled weight decay (AdamW).", 0.01),
        "device": (
            "cpu gives the same bytes everywhere; auto takes the GPUs there are, and the digest is that "
            "machine's.",
            "cpu",
        ),
    },
    "Hidden": {
        "weight": ("The weight of the hidden-state loss beside the other losses.", 0.5),
        "layers": ("Pairs of module names, the student's first.", [["body.1", "body.2"]]),
    },
    "SequenceLevel": {
        "samples": ("How many prompts the teacher continues.", 500),
        "prompt_tokens": ("The length of these prompts, from the training text.", 16),
        "temperature": ("The sampling temperature; 0 takes the likeliest token.", 0.7),
    },
    "Distillation": {
        "teacher": ("The model to learn from, another one of this recipe and of the same source.", "teacher"),
        "temperature": ("Softens both models' answers.", 4),
        "alpha": ("The weight of the teacher's answers; the labels have the rest.", 0.7),
        "hidden": ("Match hidden states, too.", {"weight": 0.5, "layers": [["body.1", "body.2"]]}),
        "sequence": (
            "Learn from what the teacher writes, too. Text generation only.",
            {"samples": 500, "prompt_tokens": 16},
        ),
    },
    "PythonModel": {
        "source": ("A torch module from a Python function.", "python"),
        **_TRAINED,
        "factory": ("The function that makes the module, as `module:function`.", "models.digits.network:mlp"),
        "weights": (
            "A safetensors file with the weights of a module that is not trained here.",
            "model.safetensors",
        ),
    },
    "HuggingFaceModel": {
        "source": ("A Hugging Face model.", "huggingface"),
        **_TRAINED,
        "folder": (
            "A trained model: config.json, *.safetensors, tokenizer.json. Either this or `factory`.",
            "distilbert",
        ),
        "factory": (
            "A function that returns an untrained `transformers.PreTrainedModel`, as `module:function`; "
            "it is given the recipe's `tokenizer`, and for classifiers `classes`.",
            "models.intents.network:make",
        ),
    },
    "SklearnModel": {
        "source": ("A scikit-learn pipeline.", "sklearn"),
        "factory": (
            "A function that returns an unfitted pipeline. Either this or `file`.",
            "my.pipeline:make",
        ),
        "options": ("Keyword arguments of the factory.", {"depth": 6}),
        "file": ("A fitted pipeline that skops saved. Pickles are refused.", "pipeline.skops"),
        "trusted_types": (
            "Types in the file, beyond skops' own list, that you trust (see `skops.io.get_untrusted_types`).",
            ["my.pipeline.Scale"],
        ),
    },
    "OnnxModel": {
        "source": ("An ONNX file.", "onnx"),
        "file": (
            "The file: one input, one output with a probability for each class, or a vector.",
            "model.onnx",
        ),
        "external_data": (
            "The one file beside it that holds its weights, if it has such.",
            "model.onnx.data",
        ),
        "tokenizer": ("The tokenizer.json of a model whose input is text.", "tokenizer.json"),
    },
    "GgufModel": {
        "source": ("A GGUF file.", "gguf"),
        "file": ("The file, with weights in F32, F16 or BF16.", "model-f16.gguf"),
    },
    "VariantSpec": {
        "id": ("The variant's name. By custom `<format>-<precision>`.", "onnx-int8"),
        "model": ("The model that it is made of.", "student"),
        "precision": (
            "ONNX: fp32, int8, int4. GGUF: f16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0, iq4_xs. MLX: f16, "
            "8bit, 4bit.",
            "int8",
        ),
        "memory_budget_mb": (
            "What its engine may use, in MiB: it goes into the manifest, and a gate holds the measured "
            "memory against it.",
            64,
        ),
        "format": ("onnx runs in ONNX Runtime, gguf in llama.cpp, mlx on Apple silicon.", "onnx"),
        "target": ("device, or cloud for what the hub falls back to.", "device"),
        "scheme": (
            "How ONNX is quantized. int8 is by default dynamic, or static where convolutions, which dynamic "
            "leaves as they are, hold most of the weights; int4 is weight-only.",
            "static",
        ),
        "calibration": ("How a static scheme finds its ranges. Default: minmax.", "entropy"),
        "group_size": ("How many weights share a scale, for weight-only ONNX and for MLX.", 32),
        "imatrix": (
            "GGUF: an importance matrix from the calibration text, never, always, or if it measures better.",
            "if-better",
        ),
    },
    "Search": {
        "model": ("The model to find variants of.", "student"),
        "formats": ("The formats to try.", ["onnx"]),
        "metric": ("The figure to keep: one of which more is better.", "accuracy"),
        "max_drop": ("How much of the metric a variant may lose against the unquantized one.", 0.02),
        "memory_budget_mb": ("The memory budget of every variant that is tried.", 64),
        "max_variants": ("The most variants to keep, beside `keep`.", 3),
        "keep": (
            "Variants that stay whatever is found, such as the cloud's.",
            [
                {
                    "id": "cloud",
                    "model": "teacher",
                    "precision": "fp32",
                    "memory_budget_mb": 256,
                    "target": "cloud",
                }
            ],
        ),
    },
    "Evaluation": {
        "slices": ("Attributes of the rows: quality is told for each of their values.", ["site"]),
        "behaviours": (
            "Cases that must hold.",
            [{"name": "all zeros", "input": {"a": 0, "b": 0}, "expect": "fine"}],
        ),
        "robustness": ("Noise to try the model with.", {"seed": 1, "noise_std": 0.1}),
        "baseline": (
            "An earlier bundle's folder, whose preferred variant is judged on the same rows.",
            "../out/digits-1.0.0",
        ),
        "held_out_tokens": ("How many held-out tokens a language model is judged on.", 4096),
    },
    "Behaviour": {
        "name": ("The case in a few words.", "all zeros"),
        "input": ("Nested numbers, a mapping of columns, or a text.", {"a": 0, "b": 0}),
        "expect": ("The class that it must be given (for token classification one for each word).", "fine"),
        "min_confidence": ("How sure the model must be.", 0.8),
    },
    "Robustness": {
        "seed": ("Decides the noise.", 1),
        "noise_std": ("The standard deviation of Gaussian noise, in units of the input.", 0.1),
        "typo_rate": ("The share of characters that are swapped, dropped or doubled.", 0.05),
    },
    "Prompts": {
        "chat_template": ("A Jinja file. Absent: the model's own template.", "chat_template.jinja"),
        "system": ("A text file with the system prompt.", "system.txt"),
        "stop": ("Strings that end an answer.", ["\nUser:"]),
        "cases": (
            "Prompts whose greedy answers must have some properties.",
            [{"name": "greets", "user": "Hello", "min_tokens": 1}],
        ),
    },
    "PromptCase": {
        "name": ("The case in a few words.", "greets"),
        "user": ("What the user says.", "Hello"),
        "max_tokens": ("Where the answer is cut.", 64),
        "contains": ("Strings that the answer must contain.", ["hello"]),
        "excludes": ("Strings that it must not contain.", ["error"]),
        "matches": ("A regular expression that some part of it must match.", "[0-9]+"),
        "min_tokens": ("Its least length.", 1),
        "json": ("It must be JSON.", True),
        "ends": ("It must end by itself, before max_tokens.", True),
    },
    "Fallback": {
        "variant": ("The cloud variant that answers instead.", "teacher-onnx-fp32"),
        "target_error": ("The most that answers which the device keeps may err, as a share.", 0.05),
        "minimum_accepted": ("How many calibration rows the device must keep, or the build fails.", 100),
        "confidence_level": ("How sure to be, by the calibration rows, that the error is kept.", 0.9),
    },
    "Gate": {
        "metric": ("The figure to judge.", "accuracy"),
        "variant": ("The variant to judge. Absent: each device variant.", "onnx-int8"),
        "slice": ("Judge one class only, or one `attribute=value` of evaluation.slices.", "site=oslo"),
        "group": ("For group_gap: the attribute over whose values the gap is taken.", "site"),
        "drop_against": (
            "Judge how far the metric lies below that variant's, or the `baseline`'s, instead of its value.",
            "onnx-fp32",
        ),
        "at_least": ("The least that passes.", 0.9),
        "at_most": ("The most that passes.", 0.02),
    },
}

METRICS: dict[str, str] = {
    "accuracy": "share of held-out rows (for token classification: words) that get the right class",
    "worst_class_accuracy": "the least such share of any one class",
    "nll": "mean negative log-likelihood of the right class, in nats",
    "ece": "expected calibration error: how far confidence lies from accuracy, over ten bins",
    "mean_confidence": "mean of the largest probability",
    "macro_f1": "mean F1 score of the classes",
    "neighbour_accuracy": "share of held-out rows whose nearest other row, by cosine, has the same label",
    "cosine_min": "least cosine of any row's vector with the model's own",
    "kl_mean": "mean Kullback-Leibler divergence from the model itself over held-out tokens, in nats",
    "top1_agreement": "share of held-out tokens for which the likeliest next token is the model's own",
    "perplexity": "exponential of the mean negative log-likelihood of held-out tokens",
    "tokenizer_agreement": "share of held-out tokens that the engine's tokenizer makes as the model's own",
    "prompts_passed": "share of prompt cases whose answer has every expected property",
    "parity_max_abs": "largest absolute difference from the model's own probabilities, or vectors",
    "parity_agreement": "share of rows with the model's own answer (for vectors: with its nearest neighbour)",
    "behaviours_passed": "share of behavioural cases that hold",
    "robust_accuracy": "accuracy (for vectors: neighbour_accuracy) on held-out rows with noise",
    "group_gap": "largest less smallest accuracy over the values of an attribute",
    "size_bytes": "size of the variant's files",
    "latency_p50_ms": "median time of one row in the engine (of one token of an answer), in milliseconds",
    "latency_p99_ms": "99th percentile of that time",
    "memory_bytes": "most memory that the engine needed for it",
    "first_token_ms": "median time to an answer's first token, in milliseconds, after a prompt of up to 64",
    "tokens_per_s": "tokens that it writes in a second",
}
