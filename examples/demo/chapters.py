"""The chapters of the demo: what is done to the fleet, and what is measured of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from examples.demo.builds import Build, Builds
from examples.demo.fleet import DRIFT_SPAN_S, MONITOR_INTERVAL_S, WINDOW_INTERVAL_S, Device, Fleet
from examples.demo.hub_api import HubApi, until
from examples.demo.processes import Processes
from examples.demo.rows import Row
from examples.demo.traffic import Answer, DeviceTraffic, Traffic, ambiguous
from examples.demo.view import View

CANARIES = 2
REQUESTS_PER_S = 25.0
LABEL_SHARE = 0.6
SHIFTED_SITE = "oslo"
OFFLINE_DEVICE = "lyon-2"
OFFLINE_S = 5.0
UNSURE_INPUTS = 60


class Chapters:
    """Each method is one chapter; `rows` collects what was measured."""

    def __init__(self, processes: Processes, fleet: Fleet, builds: Builds, api: HubApi, view: View) -> None:
        self.rows: list[Row] = []
        self._processes = processes
        self._fleet = fleet
        self._builds = builds
        self._api = api
        self._view = view
        self._builds_by_version: dict[str, Build] = {}
        self._traffic = Traffic(
            [DeviceTraffic(device.name, device.url, device.site) for device in fleet.devices],
            rate_per_s=REQUESTS_PER_S,
            label_share=LABEL_SHARE,
        )
        self._started = time.monotonic()

    async def carry_on(self) -> None:
        """Sends traffic again, for whoever watches."""
        await self._traffic.start()

    async def close(self) -> None:
        """Ends the traffic and takes the cables away."""
        await self._traffic.close()
        for device in self._fleet.devices:
            for cable in device.cables.values():
                await cable.remove()

    async def enrol_and_install(self, first: Build) -> None:
        """Six devices enrol; the first version is published and rolled out to all at once."""
        self._begin("enrolling six devices")
        await self._publish(first)
        await asyncio.gather(*(self._enrol(device) for device in self._fleet.devices))
        await until(self._devices, lambda seen: sum(d["online"] for d in seen) == 6, timeout_s=30)
        self._begin(f"installing digits {first.version} on all")
        # A device counts as updated once it has served: so the traffic begins before the rollout ends.
        rollout = await self._roll_out(first, strategy="all-at-once")
        await until(self._devices, lambda seen: all(d["running"] is not None for d in seen), timeout_s=45)
        await self._traffic.start()
        ended = await self._end_of(rollout, timeout_s=45)
        devices = await self._devices()
        running = sum(_runs(device, first.digest) for device in devices)
        served = sum(_runs(device, first.digest) and device["running"]["requests"] > 0 for device in devices)
        self._row(
            f"install {first.version} on all",
            "6 devices report its digest as loaded and have served from it; the rollout completes",
            f"{running} report it, {served} have served, the rollout is {ended['phase']}",
            running == served == 6 and ended["phase"] == "completed",
        )

    def built(self, builds: Sequence[Build]) -> None:
        """What the builds gave."""
        slowest = max(build.took_s for build in builds)
        passed = all(build.gates_passed == build.gates > 0 for build in builds)
        verified = sum(build.verified for build in builds)
        self._builds_by_version = {build.version: build for build in builds}
        self._row(
            "build and sign 3 versions",
            "each has fp32 and int8 for devices, passes its gates, and its signature verifies",
            "; ".join(
                f"{b.version}: {b.gates_passed} of {b.gates} gates, {len(b.variants)} variants"
                for b in builds
            )
            + f"; {verified} verified",
            passed and verified == 3 and all({"onnx-fp32", "onnx-int8"} <= set(b.variants) for b in builds),
            took_s=slowest,
        )

    async def promote(self, version: str) -> None:
        """A better candidate: canary first, verdict from the telemetry, then all."""
        build = self._builds_by_version[version]
        baseline = await self._running_digests()
        self._begin(f"rolling out digits {version}: canary first, then all")
        await self._publish(build)
        rollout = await self._roll_out(build, strategy="canary")
        ended = await self._end_of(rollout, timeout_s=60)
        devices = await self._devices()
        served = sum(_runs(device, build.digest) and device["running"]["requests"] > 0 for device in devices)
        # Judged by what was on the canaries only, before anyone else had it.
        self._row(
            f"roll out {version} (better)",
            "the canary's verdict is to promote; then all 6 devices serve from it",
            f"{_verdict(ended)}; the rollout is {ended['phase']}; {served} of 6 devices serve from it"
            + ("" if len(set(baseline.values())) == 1 else "; devices began on different versions"),
            ended["phase"] == "completed" and served == 6,
        )

    async def roll_back(self, version: str) -> None:
        """A worse candidate: judged on the canaries and rolled back, the others never touched."""
        build = self._builds_by_version[version]
        before = {device["name"]: device for device in await self._devices()}
        self._begin(f"rolling out digits {version}: a bad one")
        await self._publish(build)
        rollout = await self._roll_out(build, strategy="canary")
        ended = await self._end_of(rollout, timeout_s=60)
        after = {device["name"]: device for device in await self._devices()}
        canaries = set(_canaries(ended))
        back = sum(_runs(after[name], before[name]["running"]["digest"]) for name in canaries)
        others = [name for name in after if name not in canaries]
        untouched = sum(
            after[name]["wanted"]["generation"] == before[name]["wanted"]["generation"]
            and not self._traffic.devices[name].by_digest[build.digest]
            for name in others
        )
        self._row(
            f"roll out {version} (worse)",
            "the canary's verdict is to abort; the canaries return, the others are never touched",
            f"{_verdict(ended)}; the rollout is {ended['phase']}; "
            f"{back} of {len(canaries)} canaries are back; "
            f"{untouched} of {len(others)} others were never touched",
            ended["phase"] == "aborted"
            and back == len(canaries) == CANARIES
            and untouched == len(others) == 6 - CANARIES,
        )

    async def drift_and_offline(self) -> None:
        """One site's lens gets dirty, and one device elsewhere loses its network for a while."""
        self._begin(f"shifting the input at {SHIFTED_SITE}; cutting {OFFLINE_DEVICE} off the network")
        # Windows from before the shift leave the span that drift is judged on.
        drifting_before = await self._drift_alerts()
        self._traffic.shifted_sites.add(SHIFTED_SITE)
        shifted_at = time.monotonic()
        await self._offline()
        self._started = shifted_at
        alerts = await until(
            self._drift_alerts,
            lambda seen: any(alert["site"] == SHIFTED_SITE for alert in seen),
            timeout_s=DRIFT_SPAN_S + 20,
        )
        # Two more looks: a wrong alarm elsewhere would have to come now, too.
        await asyncio.sleep(2 * MONITOR_INTERVAL_S)
        alerts = await self._drift_alerts()
        named = [alert for alert in alerts if alert["site"] == SHIFTED_SITE]
        elsewhere = sorted({alert["site"] for alert in alerts} - {SHIFTED_SITE})
        features = sorted({alert["feature"] for alert in named})
        models = sorted({alert["model"] for alert in named})
        self._row(
            f"shift the input at {SHIFTED_SITE}",
            "a drift alert names model, feature and site; there is none before, and none for the other sites",
            f"model {', '.join(models) or 'none'}, features {', '.join(features) or 'none'}, "
            f"site {SHIFTED_SITE if named else 'none'}; before: {len(drifting_before)}; "
            f"elsewhere: {', '.join(elsewhere) or 'none'}",
            bool(models and features) and not drifting_before and not elsewhere,
        )
        self._traffic.shifted_sites.clear()

    async def _offline(self) -> None:
        device = next(device for device in self._fleet.devices if device.name == OFFLINE_DEVICE)
        traffic = self._traffic.devices[device.name]
        for cable in device.cables.values():
            await cable.cut()
        await until(lambda: self._device(device), lambda seen: not seen["online"], timeout_s=20)
        answered_before = traffic.answered
        await asyncio.sleep(OFFLINE_S)
        spooled = (await device.status()).get("spool", {}).get("pending", 0)
        offline_seen = not (await self._device(device))["online"]
        answered_offline = traffic.answered - answered_before
        for cable in device.cables.values():
            await cable.mend()
        back = await until(
            lambda: self._device(device),
            lambda seen: seen["online"] and seen["telemetry"]["missing_windows"] == 0,
            timeout_s=30,
        )
        # What is pending now is the last interval's window at most.
        pending = (
            await until(device.status, lambda s: s.get("spool", {}).get("pending", 99) <= 2, timeout_s=30)
        )["spool"]["pending"]
        self._row(
            f"cut {OFFLINE_DEVICE} off the network",
            "it goes on serving, spools its telemetry, and delivers all of it once back",
            f"answered {answered_offline} requests while the hub saw it offline; "
            f"{spooled} windows and events spooled, {pending} left after; "
            f"{back['telemetry']['missing_windows']} missing at the hub",
            offline_seen
            and answered_offline > 0
            and not traffic.failures
            and spooled >= int(OFFLINE_S / WINDOW_INTERVAL_S) - 1
            and back["online"]
            and back["telemetry"]["missing_windows"] == 0
            and pending <= 2,
        )

    async def unsure_inputs(self) -> None:
        """Inputs that the student cannot be sure of: the hub answers them with the teacher."""
        self._begin("sending inputs that the student is unsure of")
        rng = np.random.default_rng(11)
        device = self._traffic.devices[self._fleet.devices[0].name]
        answers = [
            await self._traffic.ask(device, ambiguous(self._traffic.images, rng))
            for _ in range(UNSURE_INPUTS)
        ]
        given = [answer for answer in answers if answer is not None]
        cloud = [answer for answer in given if answer.answered_by == "cloud"]
        explained = [answer for answer in cloud if answer.reason == "low_confidence"]
        variants = sorted({answer.variant for answer in cloud})
        self._row(
            "send unsure inputs",
            "every one is answered; the unsure ones by the hub's teacher, and the answer says who and why",
            f"{len(given)} of {UNSURE_INPUTS} answered: {len(cloud)} by the cloud "
            f"({', '.join(variants) or 'none'}), {len(explained)} of them for low confidence, "
            f"{len(given) - len(cloud)} by the device",
            len(given) == UNSURE_INPUTS
            and len(explained) == len(cloud) > 0
            and all("teacher" in variant for variant in variants)
            and all(_is_sure(answer) for answer in given if answer.answered_by == "device"),
        )

    async def nothing_lost(self) -> None:
        """After all switches: no request refused, and every answer counted once."""
        self._begin("counting")
        await self._traffic.stop()
        answered = {name: device.answered for name, device in self._traffic.devices.items()}

        async def counted() -> dict[str, int]:
            details = await asyncio.gather(*(self._device(device) for device in self._fleet.devices))
            return {detail["name"]: detail["telemetry"]["requests"] for detail in details}

        seen = await until(counted, lambda found: found == answered, timeout_s=WINDOW_INTERVAL_S + 15)
        failures = self._traffic.failures
        self._row(
            "count",
            "no request failed through every switch, and the hub counts each answer exactly once",
            f"{sum(answered.values())} answered, {sum(seen.values())} counted, {len(failures)} failed"
            + (f" (first: {failures[0][:120]})" if failures else ""),
            seen == answered and not failures,
        )

    # What the chapters share.

    def _begin(self, what: str) -> None:
        self._processes.require_alive()
        self._started = time.monotonic()
        self._view.doing(what)

    def _row(self, step: str, expected: str, seen: str, holds: bool, *, took_s: float | None = None) -> None:
        took = time.monotonic() - self._started if took_s is None else took_s
        row = Row(step, expected, seen, holds, round(took, 1))
        self.rows.append(row)
        self._view.done(row)

    async def _enrol(self, device: Device) -> None:
        token = await self._api.post("/api/v1/tokens", {"labels": {"site": device.site}, "uses": 1})
        await self._fleet.start_device(device, token["token"], self._builds.public_key)

    async def _publish(self, build: Build) -> None:
        env = {"EDGEOPS_HUB_URL": self._fleet.hub_url}
        await self._processes.run("publish", str(build.path), "--json", home=self._fleet.hub_home, env=env)

    async def _roll_out(self, build: Build, *, strategy: str) -> str:
        body: dict[str, Any] = {"model": "digits", "version": build.version, "strategy": strategy}
        if strategy == "canary":
            body |= {"canary_count": CANARIES}
        created = await self._api.post("/api/v1/rollouts", body)
        await self._api.post(f"/api/v1/rollouts/{created['id']}/approve")
        identity: str = created["id"]
        return identity

    async def _end_of(self, rollout: str, *, timeout_s: float) -> dict[str, Any]:
        async def look() -> dict[str, Any]:
            seen: dict[str, Any] = await self._api.get(f"/api/v1/rollouts/{rollout}")
            self._view.status(f"{seen['phase']}: {seen['reason']}")
            return seen

        return await until(
            look,
            lambda seen: seen["phase"] in ("completed", "aborted", "failed", "paused"),
            timeout_s=timeout_s,
        )

    async def _devices(self) -> list[dict[str, Any]]:
        self._processes.require_alive()
        devices: list[dict[str, Any]] = (await self._api.get("/api/v1/devices"))["devices"]
        return devices

    async def _device(self, device: Device) -> dict[str, Any]:
        seen: dict[str, Any] = await self._api.get(f"/api/v1/devices/{device.name}")
        return seen

    async def _running_digests(self) -> dict[str, str | None]:
        return {d["name"]: d["running"]["digest"] if d["running"] else None for d in await self._devices()}

    async def _drift_alerts(self) -> list[dict[str, Any]]:
        alerts = (await self._api.get("/api/v1/alerts"))["alerts"]
        return [alert for alert in alerts if alert["rule"] == "drift" and alert["resolved_at_ms"] is None]


def _runs(device: dict[str, Any], digest: str) -> bool:
    return device["running"] is not None and device["running"]["digest"] == digest


def _verdict(rollout: dict[str, Any]) -> str:
    verdict = rollout.get("verdict")
    if not verdict:
        return "no verdict"
    words = verdict["reasons"] or verdict["missing"]
    return f"{verdict['decision']}: {' '.join(words)}"


def _canaries(rollout: dict[str, Any]) -> list[str]:
    canaries: list[str] = rollout["canaries"]
    return canaries


def _is_sure(answer: Answer) -> bool:
    return answer.reason is None
