"""How much of this machine a build may take: processors, and memory that is free."""

from __future__ import annotations

import os
from pathlib import Path

# What a worker with torch and a small model in it takes; large models want --jobs from their user.
JOB_MEMORY_BYTES = 1 << 30


def default_jobs() -> int:
    """One job for each processor that this process may use, as far as free memory has JOB_MEMORY_BYTES for
    each; at least one."""
    memory = available_memory_bytes()
    fitting = processors() if memory is None else min(processors(), memory // JOB_MEMORY_BYTES)
    return max(1, fitting)


def processors() -> int:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory_bytes() -> int | None:
    """What the machine can still give without swapping, within the limit of this process's cgroup (v2,
    https://docs.kernel.org/admin-guide/cgroup-v2.html, "Memory Interface Files"). None where not told."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    if found is None:
        return None
    available = int(found.split()[1]) << 10
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return available  # the root group, or cgroup v1, has no such file
    return available if limit == "max" else min(available, max(0, int(limit) - used))
