"""Logs a finished build to an MLflow tracking server (`edgeops build --mlflow URI`).

A run, named name-version, gets the recipe's fields as params, each variant's figures as metrics, the bundle's
digest and the revisions as tags, and the evaluation and the model card as artifacts. Nothing else leaves: no
key, no environment, no path of this machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edgeops.bundle import walk
from edgeops.errors import ConfigError, TransportError
from edgeops.manifest import REVISION_FILE
from toolchain.build import Built
from toolchain.recipe import Recipe

EXPERIMENT = "edgeops"
ARTIFACTS = ("README.md", "evaluation/")
# MLflow's own limits (mlflow.utils.validation), and how much one request may hold.
MAX_VALUE_CHARACTERS = 6000
BATCH = 100
# Its client tries for minutes on its own; a builder sits in front of this.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def check_tracking() -> None:
    """`ConfigError` if MLflow is not installed: before a build, not after it."""
    import importlib.util

    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "Tracking needs the Python package mlflow.",
            remedy="Install it: pip install 'edgeops[mlflow]'.",
            subject="mlflow",
        )


def log_build(built: Built, recipe: Recipe, uri: str) -> str:
    """Logs the build to the server at `uri`, experiment `edgeops` unless MLFLOW_EXPERIMENT_NAME says another.
    Returns the run's id. Raises `TransportError` if that fails; the bundle is then as good as before."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        return _log(MlflowClient(tracking_uri=uri), built, recipe)
    except (MlflowException, OSError) as error:
        # Its texts repeat the URI, which may hold a password.
        raise TransportError(
            f"The bundle {recipe.label} is built and signed, but could not be logged to MLflow at "
            f"{_without_password(uri)} ({type(error).__name__}).",
            remedy="Check the server, and run the same command again: nothing is built anew.",
            subject=_without_password(uri),
            details=built.line(),
        ) from error


def _log(client: Any, built: Built, recipe: Recipe) -> str:
    from mlflow.entities import Metric, Param, RunTag

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found is not None else client.create_experiment(name)
    run = client.create_run(experiment, run_name=recipe.label)
    identity: str = run.info.run_id
    at_ms = run.info.start_time
    params = [Param(key, value) for key, value in _params(msgspec.to_builtins(recipe))]
    metrics = [Metric(key, value, at_ms, 0) for key, value in _metrics(built)]
    tags = [RunTag(key, value) for key, value in _tags(built, recipe)]
    for start in range(0, max(len(params), len(metrics), len(tags)), BATCH):
        part = slice(start, start + BATCH)
        client.log_batch(identity, metrics=metrics[part], params=params[part], tags=tags[part])
    for path in walk(built.path):
        if path.startswith(ARTIFACTS):
            folder = PurePosixPath(path).parent.as_posix()
            client.log_artifact(identity, str(built.path / path), None if folder == "." else folder)
    client.set_terminated(identity)
    return identity


def _params(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The recipe's fields by dotted path; those that have no value are left out."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _params(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _params(item, f"{path}.{index}")
    elif value is not None:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield _key(path), text[:MAX_VALUE_CHARACTERS]


def _metrics(built: Built) -> Iterator[tuple[str, float]]:
    """Each variant's quality, size and what was measured of it, as `variant.metric`."""
    measured = built.measurements.get("variants", {})
    for variant in built.variants:
        figures = {**variant["quality"], "size_bytes": variant["size_bytes"]}
        figures |= measured.get(variant["id"], {})
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield _key(f"{variant['id']}.{name}"), float(value)


def _tags(built: Built, recipe: Recipe) -> Iterator[tuple[str, str]]:
    yield "edgeops.digest", built.digest
    yield "edgeops.name", recipe.name
    yield "edgeops.version", recipe.version
    if not (built.path / REVISION_FILE).exists():
        return  # an edgeops that did not tell it signed this bundle, which is kept
    revision = json.loads((built.path / REVISION_FILE).read_bytes())
    if revision["recipe"]["revision"] is not None:
        yield "mlflow.source.git.commit", revision["recipe"]["revision"]  # MLflow's own name for it
    for of in ("recipe", "edgeops"):
        if revision[of]["revision"] is not None:
            yield f"edgeops.git.{of}", revision[of]["revision"]
            yield f"edgeops.git.{of}.dirty", str(revision[of]["dirty"]).lower()


def _key(text: str) -> str:
    """MLflow takes letters, digits and `_-. :/` in names."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in text)[:250]


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.username is None and parts.password is None:
        return uri
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
