"""For all tests. Importing edgeops before any test imports ONNX Runtime turns that one's telemetry off."""

from typing import Any

import pytest

import edgeops
from edgeops_testkit import collecting

__all__ = ["edgeops"]


def pytest_configure(config: pytest.Config) -> None:
    # Registered, and not just defined here, since it is for hw_tests too.
    config.pluginmanager.register(collecting)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from edgeops_testkit.scheduling import ByFile

    return ByFile(config, log)
