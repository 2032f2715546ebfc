"""How many steps a build runs at once on this machine."""

import os

from toolchain.running.machine import JOB_MEMORY_BYTES, available_memory_bytes, default_jobs, processors


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
