"""What is wrong with a recipe's models: sources that do not fit the task, and training that cannot be."""

from __future__ import annotations

from collections.abc import Iterator

from edgeops.names import is_name
from toolchain.recipe import Recipe
from toolchain.recipe.document import Fault, FieldPath
from toolchain.recipe.misfits import did_you_mean
from toolchain.recipe.models import (
    GgufModel,
    HuggingFaceModel,
    ModelSource,
    OnnxModel,
    PythonModel,
    SklearnModel,
    Training,
)

_ROW_TRAINED = ("image-classification", "tabular-classification")
_TEXT_TRAINED = ("text-classification", "text-generation")


def model_faults(recipe: Recipe) -> Iterator[Fault]:
    """Every fault of the models, and of the tokenizer that is trained for them."""
    for name, model in recipe.models.items():
        path = ("models", name)
        if not is_name(name):
            yield Fault(path, "is not a valid name (lower-case letters, digits, dots, dashes, underscores)")
        match model:
            case PythonModel():
                yield from _python_faults(recipe, model, path)
            case HuggingFaceModel():
                yield from _huggingface_faults(recipe, model, path)
            case SklearnModel():
                yield from _sklearn_faults(recipe, model, path)
            case OnnxModel():
                yield from _onnx_faults(recipe, model, path)
            case GgufModel() if not recipe.generates:
                yield Fault((*path, "source"), "gguf is for the task text-generation")
    yield from _tokenizer_faults(recipe)


def _python_faults(recipe: Recipe, model: PythonModel, path: FieldPath) -> Iterator[Fault]:
    if recipe.input.dtype == "BYTES":
        yield Fault((*path, "source"), "python takes numbers; a text model's source is huggingface or onnx")
    if model.weights is not None and model.training is not None:
        yield Fault((*path, "weights"), "are for a model that is not trained here")
    yield from _training_faults(recipe, model, path)


def _huggingface_faults(recipe: Recipe, model: HuggingFaceModel, path: FieldPath) -> Iterator[Fault]:
    if recipe.task == "tabular-classification":
        yield Fault((*path, "source"), "huggingface has no models for tabular-classification")
    if (model.folder is None) == (model.factory is None):
        yield Fault(path, "needs either a folder, which is trained, or a factory, which is trained here")
    elif model.folder is not None:
        for field, given in (("training", model.training), ("options", model.options)):
            if given:
                yield Fault((*path, field), "is for a model from a factory; that in a folder stays as it is")
    elif model.training is None:
        yield Fault((*path, "training"), "is missing: what the factory returns is not trained yet")
    elif recipe.tokenizer is None:
        yield Fault(("tokenizer",), f"is missing: the model {path[-1]} is trained here, on its tokens")
    yield from _training_faults(recipe, model, path)


def _sklearn_faults(recipe: Recipe, model: SklearnModel, path: FieldPath) -> Iterator[Fault]:
    if recipe.task != "tabular-classification":
        yield Fault((*path, "source"), "sklearn is for the task tabular-classification")
    elif len(recipe.input.shape) > 1:
        yield Fault(
            ("input", "shape"), "has several axes, and sklearn takes rows of columns: [number of columns]"
        )
    if (model.factory is None) == (model.file is None):
        yield Fault(path, "needs either a factory or a file")
    if model.options and model.factory is None:
        yield Fault((*path, "options"), "are a factory's, and there is none")
    if model.trusted_types and model.file is None:
        yield Fault((*path, "trusted_types"), "are for a file, and there is none")


def _onnx_faults(recipe: Recipe, model: OnnxModel, path: FieldPath) -> Iterator[Fault]:
    if recipe.generates:
        yield Fault((*path, "source"), "onnx cannot bring a language model in; huggingface and gguf can")
    elif recipe.input.dtype == "BYTES" and model.tokenizer is None:
        yield Fault((*path, "tokenizer"), "is missing: the model's input is text")
    elif recipe.input.dtype == "FP32" and model.tokenizer is not None:
        yield Fault((*path, "tokenizer"), "is for text, and the model's input is numbers")


def _training_faults(
    recipe: Recipe, model: PythonModel | HuggingFaceModel, path: FieldPath
) -> Iterator[Fault]:
    training = model.training
    if len(set(model.seeds)) < len(model.seeds):
        yield Fault((*path, "seeds"), "names one seed twice")
    if training is None:
        used = {
            "seeds": model.seeds != (0,),
            "distillation": model.distillation,
            "class_share": model.class_share,
        }
        for field, given in used.items():
            if given:
                yield Fault((*path, field), "is for a model with training")
    else:
        yield from _schedule_faults(recipe, model, training, (*path, "training"))
    if model.class_share and recipe.generates:
        yield Fault((*path, "class_share"), "is for classifiers")
    if model.distillation is not None:
        yield from _distillation_faults(recipe, model, path)


def _schedule_faults(
    recipe: Recipe, model: ModelSource, training: Training, path: FieldPath
) -> Iterator[Fault]:
    trained = _ROW_TRAINED if isinstance(model, PythonModel) else _TEXT_TRAINED
    if recipe.task not in trained:
        yield Fault(
            path, f"is not for {recipe.task} with this source: {' and '.join(trained)} are trained here"
        )
        return
    by_steps = {"steps": training.steps, "context_tokens": training.context_tokens}
    by_epochs = {"epochs": training.epochs}
    wanted, unwanted = (by_steps, by_epochs) if recipe.generates else (by_epochs, by_steps)
    what = "a language model" if recipe.generates else "a classifier"
    for field, given in wanted.items():
        if given is None:
            yield Fault((*path, field), f"is missing: {what} needs it")
    for field, given in unwanted.items():
        if given is not None:
            yield Fault((*path, field), f"is not for {what}, which takes {' and '.join(wanted)}")


def _distillation_faults(
    recipe: Recipe, model: PythonModel | HuggingFaceModel, path: FieldPath
) -> Iterator[Fault]:
    distillation = model.distillation
    assert distillation is not None
    field = (*path, "distillation", "teacher")
    teacher = recipe.models.get(distillation.teacher)
    if teacher is None:
        yield Fault(field, "is none of the models", did_you_mean(distillation.teacher, recipe.models))
    elif type(teacher) is not type(model):
        yield Fault(field, f"has another source than {path[-1]}: both must be of one kind")
    elif _learns_from_itself(recipe, str(path[-1])):
        yield Fault(field, f"leads back to {path[-1]}: no model can be trained first")
    if distillation.sequence is not None and not recipe.generates:
        yield Fault((*path, "distillation", "sequence"), "is for the task text-generation")


def _learns_from_itself(recipe: Recipe, name: str) -> bool:
    seen: set[str] = set()
    at: str | None = name
    while at is not None and at not in seen:
        seen.add(at)
        distillation = getattr(recipe.models.get(at), "distillation", None)
        at = None if distillation is None else distillation.teacher
    return at == name


def _tokenizer_faults(recipe: Recipe) -> Iterator[Fault]:
    models = recipe.models.values()
    if recipe.tokenizer is not None and not any(
        isinstance(model, HuggingFaceModel) and model.factory is not None for model in models
    ):
        yield Fault(
            ("tokenizer",), "is for huggingface models that are trained here; the others bring their own"
        )
