"""The gateway's pool of engine processes: loaded once, few at a time, none taken away while it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from cloud_hub.bundles.blobs import BlobStore
from cloud_hub.fallback.catalog import Served
from cloud_hub.fallback.engines import EnginePool, OverloadedError
from edgeops.errors import ArtifactError, InferenceError
from edgeops.manifest import Manifest, ManifestFields, TensorSpec
from edgeops_testkit.graphs import variant_for, write_counting, write_deadly, write_divide, write_linear
from edgeops_testkit.waiting import wait_until_async

pytestmark = pytest.mark.slow

X = {"pixels": np.ones((1, 4), np.float32)}


class Desk:
    """A blob store with models in it, and a pool over it that tells its loads to `loads`."""

    def __init__(self, root: Path, *, size: int = 2, queue: int = 8) -> None:
        self.root = root
        self.blobs = BlobStore(root / "blobs", 1 << 24)
        self.loads: list[str] = []
        self.pool = EnginePool(
            root / "engines",
            self.blobs,
            threads=1,
            memory_bytes=512 << 20,
            size=size,
            queue=queue,
            on_load=self.loads.append,
        )

    def publish(self, name: str, write: Callable[[Path], Path] = write_linear) -> Served:
        folder = self.root / "models" / name
        variant = variant_for(write(folder / "model.onnx"), folder, variant_id="cloud")
        entry = variant.files[0]
        self.blobs.put(entry.sha256, [(folder / entry.path).read_bytes()])
        manifest = Manifest.create(
            ManifestFields(
                schema_version="1.0",
                name=name,
                version="1.0.0",
                task="test",
                variants=(variant,),
                inputs=(TensorSpec(name="pixels", dtype="FP32", shape=(-1, 4)),),
                outputs=(),
                files=(),
            )
        )
        return Served(manifest.digest, manifest, variant)

    def processes(self) -> set[int]:
        return {
            child.pid
            for child in psutil.Process().children()
            if "edgeops.engines.worker_child" in child.cmdline()
        }


def test_many_callers_share_one_load(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path)
        model = desk.publish("a")
        answers = await asyncio.gather(*(desk.pool.run(model, X) for _ in range(6)))
        assert len({answer["probabilities"].tobytes() for answer in answers}) == 1
        assert (desk.loads, len(desk.pool), len(desk.processes())) == (["ok"], 1, 1)
        await desk.pool.close()
        assert (len(desk.pool), desk.processes()) == (0, set())

    asyncio.run(scenario())


def test_the_one_used_longest_ago_makes_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path, size=2)
        a, b, c = (desk.publish(name) for name in "abc")
        await desk.pool.run(a, X)
        await desk.pool.run(b, X)
        await desk.pool.run(a, X)
        assert desk.loads == ["ok"] * 2
        await desk.pool.run(c, X)  # b makes room
        await desk.pool.run(a, X)
        assert desk.loads == ["ok"] * 3
        assert len(desk.processes()) == 2
        await desk.pool.run(b, X)
        assert desk.loads == ["ok"] * 4
        await desk.pool.close()

    asyncio.run(scenario())


def test_an_engine_that_answers_is_not_taken_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path, size=1)
        slow, other = desk.publish("slow", write_counting), desk.publish("other")
        request = asyncio.create_task(desk.pool.run(slow, {"n": np.array(400_000)}))
        await wait_until_async(lambda: desk.loads == ["ok"], 20, "the load")
        assert not request.done()
        with pytest.raises(OverloadedError, match="All 1 engines are busy"):
            await desk.pool.run(other, X)
        assert (await request)["count"] == 400_000
        assert (await desk.pool.run(other, X))["probabilities"].shape == (1, 3)
        await desk.pool.close()

    asyncio.run(scenario())


def test_no_more_than_the_queue_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path, queue=3)
        model = desk.publish("slow", write_counting)
        accepted = [asyncio.create_task(desk.pool.run(model, {"n": np.array(1000 + i)})) for i in range(3)]
        await asyncio.sleep(0)  # lets each task take its place
        with pytest.raises(OverloadedError, match="3 requests wait for slow"):
            await desk.pool.run(model, {"n": np.array(1)})
        assert [int((await each)["count"]) for each in accepted] == [1000, 1001, 1002]
        assert (await desk.pool.run(model, {"n": np.array(1)}))["count"] == 1
        await desk.pool.close()

    asyncio.run(scenario())


def test_a_file_that_kills_its_loader_is_not_tried_at_every_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path)
        deadly, good = desk.publish("deadly", write_deadly), desk.publish("good")
        for _ in range(3):
            with pytest.raises(ArtifactError, match="SIGFPE"):
                await desk.pool.run(deadly, X)
        assert (desk.loads, len(desk.pool)) == (["artifact"], 0)
        assert await desk.pool.run(good, X)
        await desk.pool.close()

    asyncio.run(scenario())


def test_a_death_costs_one_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path)
        model = desk.publish("divide", write_divide)
        with pytest.raises(InferenceError, match="SIGFPE"):
            await desk.pool.run(model, {"a": np.array([np.iinfo(np.int64).min]), "b": np.array([-1])})
        answer = await desk.pool.run(model, {"a": np.array([9]), "b": np.array([3])})
        assert answer["y"].tolist() == [3]
        await desk.pool.close()

    asyncio.run(scenario())


def test_a_missing_blob_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path)
        model = desk.publish("a")
        desk.blobs.path(model.variant.files[0].sha256).unlink()
        from edgeops.errors import NotFoundError

        with pytest.raises(NotFoundError, match="no blob"):
            await desk.pool.run(model, X)
        assert desk.loads == ["not_found"]
        await desk.pool.close()

    asyncio.run(scenario())


def test_files_of_bundles_that_are_gone_are_removed(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path)
        assert desk.pool.sweep(()) == []
        kept, gone = desk.publish("kept"), desk.publish("gone")
        for model in (kept, gone):
            await desk.pool.run(model, X)
        assert desk.pool.sweep({kept.digest}) == [gone.digest]
        assert [folder.name for folder in (tmp_path / "engines").iterdir()] == [kept.digest]
        await desk.pool.close()

    asyncio.run(scenario())
