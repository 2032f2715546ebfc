"""Starts a run where it shall compute: here, or in one process a GPU that accelerate ties together.

The processes are started fresh (spawned, not forked: CUDA does not survive a fork), die with this one, and
find each other by a file, so no port is taken. Losses and gradients go between them by NCCL on GPUs and by
Gloo on CPUs (https://docs.pytorch.org/docs/stable/distributed.html).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from edgeops.errors import EdgeopsError
from edgeops.processes import die_with_parent
from toolchain.training.machine import Device, Machine, process_count, single_machine

Job = TypeVar("Job")
Progress = Callable[[float, str], None]
Run = Callable[[Job, Machine, Progress], None]

_POLL_S = 0.2


def launch(
    run: Run[Job], job: Job, *, device: Device, progress: Progress, processes: int | None = None
) -> None:
    """Calls `run(job, machine, progress)`: once here, or in each of several processes, whose first one's
    progress is passed on. `run` must be a module's function and `job` must pickle. `processes` is as many as
    there are GPUs, if not given.

    Raises what `run` raised; of several processes, the `EdgeopsError` of one of them, or
    `torch.multiprocessing.ProcessException`.
    """
    count = process_count(device) if processes is None else processes
    if count == 1:
        run(job, single_machine(device), progress)
        return
    from torch.multiprocessing.spawn import ProcessException, start_processes

    messages = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as meeting:
        arguments = (run, job, device, count, str(Path(meeting) / "processes"), messages)
        context = start_processes(  # type: ignore[no-untyped-call]
            _child, args=arguments, nprocs=count, join=False, start_method="spawn"
        )
        assert context is not None
        failure: EdgeopsError | None = None
        try:
            while not context.join(timeout=_POLL_S):
                failure = _pass_on(messages, progress) or failure
        except ProcessException as error:
            failure = _pass_on(messages, progress) or failure
            raise (failure or error) from error
        finally:
            for process in context.processes:
                process.kill()
                process.join()
        _pass_on(messages, progress)


def _pass_on(messages: Any, progress: Progress) -> EdgeopsError | None:
    """Reports what has come, and returns the error that is among it."""
    failure = None
    while not messages.empty():
        message = messages.get()
        if isinstance(message, EdgeopsError):
            failure = message
        else:
            progress(*message)
    return failure


def _child(
    rank: int, run: Run[Job], job: Job, device: Device, processes: int, meeting: str, messages: Any
) -> None:
    die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is None or not parent.is_alive():
        return  # the launcher ended before the call
    # The step worker ignores it, and ignored signals are handed down; the launcher ends the others by it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        machine = _join(rank, processes, device, meeting)
        run(job, machine, lambda share, note: messages.put((share, note)) if rank == 0 else None)
    except EdgeopsError as error:
        messages.put(error)
        raise
    machine.accelerator.end_training()


def _join(rank: int, processes: int, device: Device, meeting: str) -> Machine:
    """This process as one of several."""
    from accelerate import Accelerator

    gpu = device == "auto" and torch.cuda.is_available()
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": "1",
        # All are on this machine: Gloo need not resolve its name.
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if gpu:
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if gpu else "gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes
    )
    accelerator = Accelerator(cpu=not gpu)
    return Machine(accelerator.device, rank=rank, processes=processes, accelerator=accelerator)
