"""For all tests. Importing edgeops before any test imports ONNX Runtime turns that one's telemetry off."""

import pytest

import edgeops
from edgeops_testkit import collecting

__all__ = ["edgeops"]


# Whole systems, machines and browsers wait for each other; everything else stays together by file, so that
# a file's fixtures are made once. (pytest-xdist: --dist loadgroup)
ONE_AT_A_TIME = ("tests/system", "tests/dashboard", "hw_tests")


def pytest_configure(config: pytest.Config) -> None:
    # Registered, and not just defined here, since it is for hw_tests too.
    config.pluginmanager.register(collecting)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path.relative_to(config.rootpath).as_posix()
        group = "system" if path.startswith(ONE_AT_A_TIME) else path
        item.add_marker(pytest.mark.xdist_group(group))
