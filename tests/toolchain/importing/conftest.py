"""One step worker for all hostile files of a module, and the data that models are held against."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeops_testkit.sources import TASK_DATA, StepWorker, data_folder


@pytest.fixture(scope="module")
def worker() -> Iterator[StepWorker]:
    with StepWorker() as started:
        yield started


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("table"), "three_columns", "tabular-classification")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    factory, given = TASK_DATA["text-generation"]
    return data_folder(tmp_path_factory.mktemp("corpus"), factory, "text-generation", given)
