"""From a specification to a plan: the cohort's devices, the canaries, and the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgeops.errors import ConflictError
from edgeops.messages import BundleRef
from fleet.cohorts import Member, canary_count, choose_canaries, select
from fleet.rollout_types import Plan, PlannedDevice, Spec


def make_plan(
    rollout_id: str, spec: Spec, members: Iterable[Member], desired: Mapping[str, BundleRef | None]
) -> Plan:
    """The plan for `spec` over the devices that there are now; `desired` is what each is to run.

    Devices that are to run the candidate already are left out. A canary rollout needs one baseline, a bundle
    of the same model; devices that run nothing yet are moved, but are no canaries. Raises `NotFoundError` for
    an empty cohort, and `ConflictError` when there is nothing to move or nothing to compare with.
    """
    cohort = [
        member
        for member in select(spec.cohort, members)
        if _digest(desired.get(member.name)) != spec.candidate.digest
    ]
    label = f"{spec.candidate.name} {spec.candidate.version}"
    if not cohort:
        raise ConflictError(f"Every device of the cohort is to run {label} already.", subject=label)
    devices = tuple(
        PlannedDevice(name=member.name, site=member.site, previous=desired.get(member.name))
        for member in cohort
    )
    if spec.strategy == "all-at-once":
        return Plan(devices=devices, canaries=(), baseline=None)
    baseline = _baseline(spec, devices)
    comparable = [member for member in cohort if desired.get(member.name) is not None]
    count = canary_count(len(comparable), spec.canary_count, spec.canary_share)
    return Plan(devices=devices, canaries=choose_canaries(rollout_id, comparable, count), baseline=baseline)


def _baseline(spec: Spec, devices: tuple[PlannedDevice, ...]) -> BundleRef:
    found = {each.previous.digest: each.previous for each in devices if each.previous is not None}
    if not found:
        raise ConflictError(
            "The cohort runs nothing yet, so there is no baseline to judge a canary against.",
            remedy="Install all at once: --strategy all-at-once.",
            subject="cohort",
        )
    if len(found) > 1:
        labels = sorted(f"{ref.name} {ref.version}" for ref in found.values())
        raise ConflictError(
            f"The cohort runs several bundles ({', '.join(labels)}), so there is no one baseline.",
            remedy="Choose a cohort that runs one bundle, or roll out all at once.",
            subject="cohort",
        )
    baseline = next(iter(found.values()))
    if baseline.name != spec.candidate.name:
        raise ConflictError(
            f"The cohort runs {baseline.name}, which is no baseline for {spec.candidate.name}.",
            remedy="Change to another model with --strategy all-at-once.",
            subject="cohort",
        )
    return baseline


def _digest(bundle: BundleRef | None) -> str | None:
    return bundle.digest if bundle is not None else None
