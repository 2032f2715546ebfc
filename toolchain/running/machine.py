"""This machine: how much of it a build may take, and what to call it beside figures measured on it."""

from __future__ import annotations

import os
import platform
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


def machine_facts() -> dict[str, str | int]:
    """What measured times depend on: `system`, `architecture`, `cpu` (see `processor_name`) and `cores`, the
    number of logical processors. No host or user name: bundles and lock files travel."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": processor_name(),
        "cores": os.cpu_count() or 0,
    }


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the kernel tells it; never empty.

    Linux on x86 has a "model name" in `cpuinfo`. On Arm there is none, but some boards have a "Model", which
    is the board's name. Elsewhere it is what Python finds, and at least the architecture."""
    try:
        # Strict decoding would make a build fail by a name that a hypervisor may set freely.
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []  # other systems than Linux
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return told.get("model name") or told.get("Model") or platform.processor() or platform.machine()
