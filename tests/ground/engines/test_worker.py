"""The engine in a process of its own: the same answers, and nothing that it does reaches its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgeops.engines.onnx_engine import OnnxEngine
from edgeops.engines.worker import EngineWorker
from edgeops.errors import ArtifactError, BadRequestError, ConfigError, InferenceError
from edgeops.serving.host import DTYPES
from edgeops_testkit.graphs import (
    variant_for,
    write_counting,
    write_deadly,
    write_divide,
    write_huge,
    write_identity,
    write_linear,
)
from edgeops_testkit.text_models import array_of
from edgeops_testkit.waiting import wait_until

pytestmark = pytest.mark.slow

MEMORY_BYTES = 512 << 20
Start = Callable[..., EngineWorker]
LETHAL = {"a": np.array([np.iinfo(np.int64).min]), "b": np.array([-1])}
HARMLESS = {"a": np.array([42]), "b": np.array([-6])}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    workers: list[EngineWorker] = []

    def begin(write: Callable[[Path], Path], *, min_version: str = "1.20", **options: float) -> EngineWorker:
        path = write(tmp_path / "model.onnx")
        variant = variant_for(path, tmp_path, min_version=min_version)
        options.setdefault("memory_bytes", MEMORY_BYTES)
        worker = EngineWorker(variant, tmp_path, **options)  # type: ignore[arg-type]
        workers.append(worker)
        return worker

    yield begin
    for worker in workers:
        worker.close()


def test_it_answers_as_the_engine_does(start: Start, tmp_path: Path) -> None:
    worker = start(write_linear)
    engine = OnnxEngine.load(variant_for(tmp_path / "model.onnx", tmp_path), tmp_path)
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    answer = worker.run({"pixels": x})
    np.testing.assert_array_equal(answer["probabilities"], engine.run({"pixels": x})["probabilities"])
    assert (tuple(worker.inputs), tuple(worker.outputs)) == (engine.inputs, engine.outputs)
    assert worker.pid not in (None, os.getpid())


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_every_dtype_crosses_over(start: Start, dtype: str) -> None:
    worker = start(lambda path: write_identity(path, dtype))
    for shape in ((2, 3), (1, 1), (300, 500)):
        x = array_of(DTYPES[dtype], np.arange(np.prod(shape)).reshape(shape) % 100)
        answer = worker.run({"x": x})["y"]
        assert answer.dtype == x.dtype
        np.testing.assert_array_equal(answer, x)
    view = np.asfortranarray(x)
    np.testing.assert_array_equal(worker.run({"x": view})["y"], view)


def test_errors_cross_over_with_their_class(start: Start) -> None:
    worker = start(write_linear)
    with pytest.raises(BadRequestError, match=r"the model wants \[-1, 4\]") as caught:
        worker.run({"pixels": np.zeros((1, 3), np.float32)})
    assert caught.value.subject == "pixels"
    pid = worker.pid
    assert worker.run({"pixels": np.zeros((1, 4), np.float32)})
    assert worker.pid == pid


def test_a_file_that_is_no_model_is_refused(start: Start) -> None:
    def write(path: Path) -> Path:
        path.write_bytes(b"not a model")
        return path

    with pytest.raises(ArtifactError, match="refused by ONNX Runtime") as caught:
        start(write)
    assert caught.value.subject == "model.onnx"


def test_a_runtime_that_is_too_old_is_told(start: Start) -> None:
    with pytest.raises(ConfigError, match="needs ONNX Runtime 99"):
        start(write_linear, min_version="99")


def test_a_file_that_kills_its_loader_is_refused(start: Start) -> None:
    with pytest.raises(ArtifactError, match="was killed by SIGFPE while it loaded") as caught:
        start(write_deadly)
    assert caught.value.subject == "model.onnx"


def test_an_input_that_kills_the_engine_costs_one_request(start: Start) -> None:
    worker = start(write_divide)
    first = worker.pid
    with pytest.raises(InferenceError, match="was killed by SIGFPE while it ran"):
        worker.run(LETHAL)
    assert worker.pid is None
    assert worker.run(HARMLESS)["y"].tolist() == [-7]
    assert worker.pid not in (None, first)


def test_a_process_killed_in_the_middle_of_a_request(start: Start) -> None:
    worker = start(write_counting)
    assert worker.run({"n": np.array(1000)})["count"] == 1000
    process = psutil.Process(worker.pid)
    before = process.cpu_times().user
    with ThreadPoolExecutor(1) as pool:
        endless = pool.submit(worker.run, {"n": np.array(1 << 60)})
        wait_until(lambda: process.cpu_times().user > before + 0.05, 20, "the request to run")
        process.kill()
        with pytest.raises(InferenceError, match="was killed by SIGKILL"):
            endless.result()
    assert worker.run({"n": np.array(7)})["count"] == 7


def test_a_request_that_never_ends_is_ended(start: Start) -> None:
    worker = start(write_counting, run_timeout_s=0.5)
    pid = worker.pid
    with pytest.raises(InferenceError, match="did not answer in time"):
        worker.run({"n": np.array(1 << 60)})
    assert not psutil.pid_exists(pid)  # type: ignore[arg-type]
    assert worker.run({"n": np.array(7)})["count"] == 7


def test_it_is_left_alone_after_too_many_deaths(start: Start) -> None:
    worker = start(write_divide, crash_limit=2, crash_window_s=3600.0)
    for _ in range(2):
        with pytest.raises(InferenceError, match="SIGFPE"):
            worker.run(LETHAL)
    for _ in range(3):
        with pytest.raises(InferenceError, match="died 2 times in 3600 s"):
            worker.run(HARMLESS)
        assert worker.pid is None


def test_it_starts_again_when_the_window_has_passed(start: Start) -> None:
    worker = start(write_divide, crash_limit=1, crash_window_s=1.0)
    with pytest.raises(InferenceError, match="SIGFPE"):
        worker.run(LETHAL)

    def answers() -> bool:
        try:
            return worker.run(HARMLESS)["y"].tolist() == [-7]
        except InferenceError:
            return False

    assert not answers()
    wait_until(answers, 30, "the crash window to pass")


def test_memory_beyond_the_limit_is_an_error_and_not_a_death(start: Start) -> None:
    worker = start(write_huge)
    pid = worker.pid
    for count in (40_000_000_000, 1 << 28):  # 160 GB; 1 GB, which this machine has and the limit has not
        with pytest.raises(InferenceError, match="engine failed"):
            worker.run({"n": np.array([count])})
    assert worker.run({"n": np.array([3])})["y"].tolist() == [1, 1, 1]
    assert worker.pid == pid


def test_a_request_beyond_the_limit_costs_one_process_at_most(start: Start) -> None:
    worker = start(lambda path: write_identity(path, "UINT8"), memory_bytes=192 << 20)
    with pytest.raises(InferenceError):
        worker.run({"x": np.zeros((1 << 14, 1 << 14), np.uint8)})
    assert worker.run({"x": np.ones((1, 2), np.uint8)})["y"].tolist() == [[1, 1]]


def test_a_limit_in_which_nothing_starts_is_told(start: Start) -> None:
    with pytest.raises(ArtifactError, match="memory limit"):
        start(write_linear, memory_bytes=16 << 20)


def test_many_threads_get_their_own_answers(start: Start) -> None:
    worker = start(lambda path: write_identity(path, "INT64"))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: worker.run({"x": np.full((1, 3), i)})["y"], range(200)))
    assert [answer.tolist() for answer in answers] == [[[i] * 3] for i in range(200)]


def test_the_event_loop_goes_on_while_a_request_runs(start: Start) -> None:
    worker = start(write_counting)

    async def scenario() -> list[int]:
        request = asyncio.ensure_future(worker.arun({"n": np.array(100_000)}))
        turns = 0
        while not request.done():
            await asyncio.sleep(0)
            turns += 1
        return [turns, int((await request)["count"])]

    turns, count = asyncio.run(scenario())
    assert turns > 10
    assert count == 100_000


def test_closing_answers_what_was_accepted_and_ends_the_process(start: Start) -> None:
    worker = start(write_counting)
    pid = worker.pid
    with ThreadPoolExecutor(4) as pool:
        accepted = [worker._submit({"n": np.array(20_000 + i)}) for i in range(3)]
        pool.submit(worker.close).result()
    assert [int(future.result()["count"]) for future in accepted] == [20_000, 20_001, 20_002]
    assert not psutil.pid_exists(pid)  # type: ignore[arg-type]
    with pytest.raises(InferenceError, match="closed"):
        worker.run({"n": np.array(1)})
    worker.close()


@pytest.mark.chaos
def test_the_process_never_outlives_its_parent(tmp_path: Path) -> None:
    write_counting(tmp_path / "model.onnx")
    parent = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import numpy as np
        from edgeops_testkit.graphs import variant_for
        from edgeops.engines.worker import EngineWorker
        folder = Path(sys.argv[1])
        worker = EngineWorker(variant_for(folder / "model.onnx", folder), folder)
        print(worker.pid, flush=True)
        worker.run({"n": np.array(1 << 60)})
        """
    )
    tests = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tests)},
        text=True,
    )
    with process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        try:
            started = child.cpu_times().user
            wait_until(lambda: child.cpu_times().user > started + 0.05, 20, "the request to run")
            process.send_signal(signal.SIGKILL)
            wait_until(lambda: _ended(child), 10, "the engine's process to end")
        finally:
            if not _ended(child):
                child.kill()
    assert process.returncode == -signal.SIGKILL


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
