"""Held-out digits as traffic: what an application beside each device would send."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt

from models.digits.data import held_out

Images = npt.NDArray[np.float32]
LABEL_BATCH = 8


@dataclass
class DeviceTraffic:
    """One device's counts, as its client saw them."""

    name: str
    url: str
    site: str
    sent: int = 0
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    by_digest: Counter[str] = field(default_factory=Counter)
    by_answerer: Counter[str] = field(default_factory=Counter)
    labels_sent: int = 0
    labels_refused: int = 0


@dataclass(frozen=True)
class Answer:
    """One answer: who gave it, why, and the class it names."""

    answered_by: str
    reason: str | None
    variant: str
    label: str
    confidence: float


class Traffic:
    """Sends digits to each device at `rate_per_s`, with labels for a part, until stopped."""

    def __init__(self, devices: Sequence[DeviceTraffic], *, rate_per_s: float, label_share: float) -> None:
        images, labels = held_out()
        self.images: Images = images
        self.labels = [str(label) for label in labels]
        self.devices = {device.name: device for device in devices}
        self.shifted_sites: set[str] = set()
        self._interval_s = 1.0 / rate_per_s
        self._label_share = label_share
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._counter = 0

    async def start(self) -> None:
        """Begins on every device."""
        if self._session is None:
            # No limit on connections: a device that answers slowly must not hold up the others.
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=10), connector=aiohttp.TCPConnector(limit=0)
            )
        for seed, device in enumerate(self.devices.values()):
            self._tasks[device.name] = asyncio.create_task(self._drive(device, np.random.default_rng(seed)))

    async def stop(self, *names: str) -> None:
        """Ends the traffic of the named devices, or of all, after what is under way is answered."""
        chosen = [self._tasks.pop(name) for name in (names or tuple(self._tasks)) if name in self._tasks]
        for task in chosen:
            task.cancel()
        for outcome in await asyncio.gather(*chosen, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def close(self) -> None:
        """Ends everything."""
        await self.stop()
        if self._session is not None:
            await self._session.close()

    @property
    def failures(self) -> list[str]:
        """Every request that was not answered by 200."""
        return [
            f"{device.name}: {failure}" for device in self.devices.values() for failure in device.failures
        ]

    async def ask(self, device: DeviceTraffic, image: Images) -> Answer | None:
        """One request by hand, counted like the others."""
        request_id = self._next_id()
        body = await self._infer(device, request_id, image)
        return None if body is None else _answer_of(body["parameters"])

    async def _drive(self, device: DeviceTraffic, rng: np.random.Generator) -> None:
        pending: list[dict[str, str]] = []
        while True:
            started = time.monotonic()
            # Shielded, so that stopping never leaves a request that was sent but not counted.
            step = asyncio.ensure_future(self._one(device, rng, pending))
            try:
                await asyncio.shield(step)
            except asyncio.CancelledError:
                await step
                raise
            await asyncio.sleep(max(0.0, self._interval_s - (time.monotonic() - started)))

    async def _one(
        self, device: DeviceTraffic, rng: np.random.Generator, pending: list[dict[str, str]]
    ) -> None:
        index = int(rng.integers(len(self.images)))
        image = self.images[index]
        if device.site in self.shifted_sites:
            image = shifted(image, rng)
        request_id = self._next_id()
        if await self._infer(device, request_id, image) is None:
            return
        if rng.random() < self._label_share:
            pending.append({"id": request_id, "label": self.labels[index]})
        if len(pending) >= LABEL_BATCH:
            await self._send_labels(device, pending)

    async def _infer(self, device: DeviceTraffic, request_id: str, image: Images) -> dict[str, Any] | None:
        assert self._session is not None
        tensor = {
            "name": "image",
            "datatype": "FP32",
            "shape": [1, *image.shape],
            "data": image.ravel().tolist(),
        }
        device.sent += 1
        try:
            async with self._session.post(
                f"{device.url}/v2/models/digits/infer",
                data=json.dumps({"id": request_id, "inputs": [tensor]}),
                headers={"Content-Type": "application/json"},
            ) as response:
                if response.status != 200:
                    device.failures.append(f"{response.status} {await response.text()}")
                    return None
                body: dict[str, Any] = await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            device.failures.append(repr(error))
            return None
        device.answered += 1
        device.by_digest[body["parameters"]["digest"]] += 1
        device.by_answerer[body["parameters"]["answered_by"]] += 1
        return body

    async def _send_labels(self, device: DeviceTraffic, pending: list[dict[str, str]]) -> None:
        assert self._session is not None
        batch = pending.copy()
        pending.clear()
        try:
            async with self._session.post(f"{device.url}/edgeops/v1/labels", json=batch) as response:
                # Labels for answers of a process that has been replaced meanwhile are unknown to the new one.
                refused = response.status != 200
        except (aiohttp.ClientError, TimeoutError):
            refused = True
        device.labels_sent += len(batch)
        device.labels_refused += len(batch) * refused

    def _next_id(self) -> str:
        self._counter += 1
        return f"demo-{self._counter}"


def shifted(image: Images, rng: np.random.Generator) -> Images:
    """A dirty lens: half the contrast around mid-grey, plus noise; values stay within 0 to 16."""
    noisy = 8.0 + 0.5 * (image - 8.0) + rng.normal(0.0, 1.5, image.shape)
    result: Images = np.clip(noisy, 0.0, 16.0).astype(np.float32)
    return result


def ambiguous(images: Images, rng: np.random.Generator) -> Images:
    """Two digits on top of each other: what a small model cannot be sure of."""
    first, second = rng.integers(len(images), size=2)
    result: Images = (0.5 * images[first] + 0.5 * images[second]).astype(np.float32)
    return result


def _answer_of(parameters: dict[str, Any]) -> Answer:
    return Answer(
        answered_by=parameters["answered_by"],
        reason=parameters.get("reason"),
        variant=parameters["variant"],
        label=str(parameters.get("class")),
        confidence=float(parameters.get("confidence", 0.0)),
    )
