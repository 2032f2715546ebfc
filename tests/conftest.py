"""For all tests. Importing edgeops before any test imports ONNX Runtime turns that one's telemetry off."""

import signal
from typing import Any

import pytest

import edgeops
from edgeops_testkit import collecting

__all__ = ["edgeops"]


def pytest_configure(config: pytest.Config) -> None:
    # A shell that puts a command into the background has it ignore Ctrl-C, and what that starts as well.
    # Tests of Ctrl-C start programs as a terminal would.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Registered, and not just defined here, since it is for hw_tests too.
    config.pluginmanager.register(collecting)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from edgeops_testkit.scheduling import ByFile

    return ByFile(config, log)
