"""An application that sends held-out digits to a device and, for a part of them, what they really were."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from edgeops_testkit.bundles import digits_data
from edgeops_testkit.system import Agent, get_json

_LABEL_BATCH = 8


class LabelledTraffic(threading.Thread):
    """Sends one digit every `interval_s` until `finish`. Requests that fail while a device switches its
    bundle are counted in `failures`; labels for answers of a bundle that is gone are refused and let be."""

    def __init__(
        self, agent: Agent, *, seed: int, interval_s: float = 0.02, label_share: float = 0.8
    ) -> None:
        super().__init__(daemon=True)
        self.agent = agent
        self.answered = 0
        self.failures: list[str] = []
        self._rng = np.random.default_rng(seed)
        self._interval_s = interval_s
        self._label_share = label_share
        self._pending: list[dict[str, str]] = []
        self._ending = threading.Event()

    def run(self) -> None:
        _, _, images, labels = digits_data()
        while not self._ending.is_set():
            index = int(self._rng.integers(len(images)))
            self._send(images[index], str(labels[index]))
            self._ending.wait(self._interval_s)

    def finish(self) -> None:
        """Stops after the request under way."""
        self._ending.set()
        self.join(timeout=30)
        assert not self.is_alive()

    def _send(self, image: np.ndarray[Any, Any], label: str) -> None:
        request_id = f"{self.agent.name}-{self.answered}-{self._rng.integers(1 << 40)}"
        tensor = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": image.ravel().tolist()}
        try:
            get_json(f"{self.agent.url}/v2/models/digits/infer", body={"id": request_id, "inputs": [tensor]})
        except (OSError, ValueError) as error:
            self.failures.append(repr(error))
            return
        self.answered += 1
        if self._rng.random() < self._label_share:
            self._pending.append({"id": request_id, "label": label})
        if len(self._pending) >= _LABEL_BATCH:
            batch, self._pending = self._pending, []
            try:
                get_json(f"{self.agent.url}/edgeops/v1/labels", body=batch)
            except OSError:
                return
