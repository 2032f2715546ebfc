"""How many steps a build runs at once on this machine, and what the machine is called."""

import os
import platform
from pathlib import Path

import pytest

from toolchain.running.machine import (
    JOB_MEMORY_BYTES,
    available_memory_bytes,
    default_jobs,
    machine_facts,
    processor_name,
    processors,
)


def test_there_is_a_job_for_each_processor_with_memory_for_it() -> None:
    jobs, memory = default_jobs(), available_memory_bytes()
    assert 1 <= jobs <= processors() <= (os.cpu_count() or 1)
    assert memory is None or jobs == 1 or jobs * JOB_MEMORY_BYTES <= memory + JOB_MEMORY_BYTES


def test_a_process_that_may_use_one_processor_gets_one_job() -> None:
    if not hasattr(os, "sched_setaffinity"):
        assert processors() == (os.cpu_count() or 1)
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert (processors(), default_jobs()) == (1, 1)
    finally:
        os.sched_setaffinity(0, before)


X86 = b"""processor\t: 0
model\t\t: 85
model name\t: Some Processor 9: the 2nd
flags\t\t: fpu vme

processor\t: 1
model\t\t: 85
model name\t: Some Processor 9: the 2nd
"""
ARM_BOARD = b"""processor\t: 0
CPU implementer\t: 0x41
CPU part\t: 0xd08

Revision\t: c03114
Model\t\t: Small Board 4 Model B
"""


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (X86, "Some Processor 9: the 2nd"),
        (ARM_BOARD, "Small Board 4 Model B"),
        (b"model name\t: caf\xe9\n", "caf\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_the_processors_name_is_the_kernels(tmp_path: Path, told: bytes, name: str) -> None:
    (tmp_path / "cpuinfo").write_bytes(told)
    assert processor_name(tmp_path / "cpuinfo") == name


@pytest.mark.parametrize("told", [b"", b"CPU implementer\t: 0x41\n", b"model name\t:\n", None])
def test_a_kernel_that_tells_no_name_leaves_what_python_finds(tmp_path: Path, told: bytes | None) -> None:
    if told is not None:
        (tmp_path / "cpuinfo").write_bytes(told)
    name = processor_name(tmp_path / "cpuinfo")
    assert name
    assert name in (platform.processor(), platform.machine())


def test_a_machine_is_told_without_its_host_or_user() -> None:
    facts = machine_facts()
    assert list(facts) == ["system", "architecture", "cpu", "cores"]
    assert facts["cpu"] == processor_name()
    assert facts["cores"] == os.cpu_count()
    assert platform.node() not in map(str, facts.values())
